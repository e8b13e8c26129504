"""An init that goes on in another process, and the shim that may be gone by then."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import pytest
from containerd_shimkit.container import apply_user as module
from containerd_shimkit.container.apply_process import _drop_privileges
from containerd_shimkit.container.channel import Channel
from containerd_shimkit.container.site import Site
from containerd_shimkit.linux.cgroup_v1 import CgroupV1

pytestmark = pytest.mark.root


def divided(shim: Callable[[Channel], None]) -> tuple[int, bytes]:
    """Fork a process that goes on in a pid namespace, whose shim is *shim*: its status, what its successor says."""
    if os.geteuid():
        pytest.skip("making namespaces takes CAP_SYS_ADMIN")
    ours, theirs = Channel.pair()
    os.set_blocking(ours.fileno(), True)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            module._go_on_in_new_pid_namespace(Site("/", CgroupV1({}), theirs))
            os.write(writer, f"{os.getpid()} {os.getsid(0)}".encode())
        finally:
            os._exit(7)
    theirs.close()
    os.close(writer)
    shim(ours)
    ours.close()
    _, status = os.waitpid(pid, 0)
    with open(reader, "rb") as file:
        return os.waitstatus_to_exitcode(status), file.read()  # to the end: when the successor has gone as well


def successor(channel: Channel) -> int:
    message, _ = channel.receive()
    assert message is not None
    assert message["kind"] == "successor"
    return int(message["pid"])


def test_the_successor_is_a_child_of_the_same_parent_and_the_first_of_its_namespace() -> None:
    found: list[int] = []

    def shim(channel: Channel) -> None:
        pid = successor(channel)
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            assert int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
        channel.send({"kind": "go"})
        found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    assert divided(shim) == (0, b"1 1")
    assert found == [7]


def test_a_successor_that_nobody_has_taken_over_goes() -> None:
    def shim(channel: Channel) -> None:
        pid = successor(channel)
        time.sleep(0.05)
        channel.close()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

    assert divided(shim) == (1, b"")


def test_roots_own_groups_do_not_come_along_where_they_could_not_be_given_up(
    in_child: Callable[[Callable[[], object]], None],
) -> None:
    if os.geteuid():
        pytest.skip("joining another user's namespace takes root")
    # made by an ordinary user, so that nobody in it may change groups
    become = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    words = [*become, "unshare", "--user", "--map-root-user", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd="/") as maker:
        assert maker.stdout is not None
        maker.stdout.readline()

        def work() -> None:
            os.setgroups([4, 27])
            site = Site("/", CgroupV1({}))
            module._enter_user_namespace(site, f"/proc/{maker.pid}/ns/user", False, (), ())
            assert site.fixed_groups
            module._become_root(site)
            assert os.getgroups() == []
            _drop_privileges(site, 0, 0, (0,), 0o22, 0, 0, 0, 0, 0, False)

        def ask_for_more() -> None:
            site = Site("/", CgroupV1({}))
            module._enter_user_namespace(site, f"/proc/{maker.pid}/ns/user", False, (), ())
            with pytest.raises(PermissionError, match="additionalGids"):
                _drop_privileges(site, 0, 0, (7,), 0o22, 0, 0, 0, 0, 0, False)

        try:
            in_child(work)
            in_child(ask_for_more)
        finally:
            maker.kill()
