"""From the description of a further process to the steps that start it in a container that lives. Pure, like `plan`.

The steps are split by where they are done. `outside` the container's pid namespace no process of the container can see
the one that is being made, let alone trace it: there it enters everything else of the container and gives up what it
must not have. `inside` it only becomes the program.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import InvalidArgumentError
from ..oci.spec import Linux, Process, Spec
from .operations import InstallSeccomp, JoinCgroup, MakeTerminal, Operation, SetAffinity, SetOomScoreAdj
from .plan_namespaces import kinds_of
from .plan_process import filter_steps, label_steps, process_steps
from .plan_user import check_mappings, prepare_for_user_namespace

__all__ = ["ExecPlan", "plan_exec"]


@dataclass(frozen=True, slots=True)
class ExecPlan:
    """The steps of one exec, in groups, in order.

    `host`: with the host's root, before anything of the container is entered but its cgroup. `labels`: the same, once
    it is known what the program is. `root`: in the container's root, as root still. `outside` and `inside` as this
    module says.
    """

    process_spec: Process
    host: tuple[Operation, ...]
    labels: tuple[Operation, ...]
    root: tuple[Operation, ...]
    outside: tuple[Operation, ...]
    inside: tuple[Operation, ...]


def plan_exec(process: Process, spec: Spec, program: bytes = b"") -> ExecPlan:
    """Plan *process* in the container of *spec*, whose compiled filter of system calls is *program*.

    What the process leaves open is the container's own: capabilities, rlimits, oomScoreAdj. Whether it may gain
    privileges is for the process alone to say. Raises: InvalidArgumentError, UnimplementedError by the field's name.
    """
    _require(process)
    process, linux = _completed(process, spec), spec.linux or Linux()
    kinds = kinds_of(linux)
    check_mappings(process, linux, kinds)
    steps = [_with_program(step, program) for step in process_steps(process, linux)]
    last = [_with_program(step, program) for step in filter_steps(linux)] if process.no_new_privileges else []
    # a filter that is put on before privileges are dropped would have to allow a further fork: then both come after it
    early = len(steps) if process.no_new_privileges or linux.seccomp is None else _count_until_filter(steps)
    affinity = process.exec_cpu_affinity
    return ExecPlan(
        process_spec=process,
        host=(
            *_affinity(affinity.initial if affinity else ()),
            JoinCgroup(None),
            *_affinity(affinity.final if affinity else ()),
            *(SetOomScoreAdj(score) for score in (process.oom_score_adj,) if score is not None),
            *(prepare_for_user_namespace(process, linux) if "user" in kinds else ()),
        ),
        labels=tuple(label_steps(process)),
        root=(MakeTerminal(process.user.uid, process.console_size, console=False),) if process.terminal else (),
        outside=tuple(steps[:early]),
        inside=(*steps[early:], *last),
    )


def _require(process: Process) -> None:
    if not process.args:
        raise InvalidArgumentError("process.args of the exec is empty: there is nothing to run; name the program")
    if not posixpath.isabs(process.cwd):
        raise InvalidArgumentError(f"process.cwd of the exec is {process.cwd!r}, which is not an absolute path")


def _completed(process: Process, spec: Spec) -> Process:
    """*process* with what the container's own says where it says nothing, as runtimes do it."""
    own = spec.process or Process()
    return replace(
        process,
        capabilities=process.capabilities or own.capabilities,
        rlimits=process.rlimits or own.rlimits,
        oom_score_adj=own.oom_score_adj if process.oom_score_adj is None else process.oom_score_adj,
    )


def _affinity(cpus: tuple[int, ...]) -> Iterator[Operation]:
    if cpus:
        yield SetAffinity(cpus)


def _with_program(step: Operation, program: bytes) -> Operation:
    return replace(step, program=program) if isinstance(step, InstallSeccomp) else step


def _count_until_filter(steps: list[Operation]) -> int:
    return next(index for index, step in enumerate(steps) if isinstance(step, InstallSeccomp))
