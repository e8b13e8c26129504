"""A cgroup's figures as containerd's `Metrics` message, of the version that the host's control groups have."""

from __future__ import annotations

import errno

from ..errors import NotFoundError
from ..instance import Encoded
from ..linux.cgroup import Cgroup
from . import stats_v1, stats_v2

__all__ = ["read_stats"]


def read_stats(cgroup: Cgroup) -> Encoded:
    """What the kernel counts for *cgroup* now; a controller that the host does not have is left out.

    Raises: NotFoundError when the control group is gone, FailedPreconditionError when there never was one.
    """
    cgroup.require_figures()
    module = stats_v2 if cgroup.version == 2 else stats_v1
    try:
        return Encoded(module.TYPE, module.read_metrics(cgroup.paths).SerializeToString())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # the second: removed while it was read
            raise
        raise NotFoundError(
            f"the container's cgroup is gone: {', '.join(sorted(set(cgroup.paths.values())))}"
        ) from error
