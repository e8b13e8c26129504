from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from containerd_shimkit import InternalError
from containerd_shimkit.container.state import (
    REMOVED_FILE,
    STATE_FILE,
    ContainerState,
    read_state,
    remove_state,
    write_state,
)
from containerd_shimkit.linux.pidfd import identify


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    bundle = str(tmp_path)
    assert read_state(bundle) is None
    for state in (
        ContainerState("c1"),
        ContainerState("c1", identify(os.getpid()), "/run/x/rootfs", {"pids": "/sys/fs/cgroup/pids/a/b"}),
        ContainerState("c1", None, "", {"unified": "/sys/fs/cgroup/a/b"}),
    ):
        write_state(bundle, state)
        assert read_state(bundle) == state
    assert os.listdir(bundle) == [STATE_FILE]
    assert os.stat(tmp_path / STATE_FILE).st_mode & 0o777 == 0o600
    remove_state(bundle)
    remove_state(bundle)
    assert os.listdir(bundle) == [REMOVED_FILE], "so that `delete` sees it at a glance"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", json.dumps({"version": 2, "id": "c", "init": None, "mounted_rootfs": "", "cgroup_paths": {}}),
     json.dumps({"version": 1, "id": "c", "init": {"pid": 1}, "mounted_rootfs": "", "cgroup_paths": {}})],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(InternalError, match=STATE_FILE):
        read_state(str(tmp_path))
