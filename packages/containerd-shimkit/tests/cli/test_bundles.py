from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.cli import bundles
from containerd_shimkit.cli.bundles import Container, containers, state_directories
from containerd_shimkit.linux.mounts import parse_mountinfo

AddContainer = Callable[[str, object], Path]


def test_containers_of_every_namespace_and_state_are_found(add_container: AddContainer, state: Path) -> None:
    add_container("k8s.io/b", "/bin/two")
    add_container("default/a", "/bin/one\n")
    other = state.with_name("other")
    os.rename(state, other)
    add_container("moby/c", "/bin/three")
    assert containers([str(state), str(other)]) == [
        Container("moby", "c", "/bin/three"),
        Container("default", "a", "/bin/one"),
        Container("k8s.io", "b", "/bin/two"),
    ]


def test_a_state_directory_shows_by_the_containers_that_are_mounted_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = "/io.containerd.runtime.v2.task"
    targets = [
        "/",
        f"/srv/a{tasks}/default/one/rootfs",
        f"/srv/a{tasks}/default/two/rootfs",
        f"/run/containerd{tasks}/x/y",
    ]
    table = "".join(f"1 2 0:3 / {target} rw - tmpfs tmpfs rw\n" for target in targets)
    monkeypatch.setattr(bundles, "read_mountinfo", lambda: parse_mountinfo(table))
    found = state_directories()
    assert len(found) == len(set(found))
    assert {"/run/containerd", "/srv/a"} <= set(found)
    assert not {"", "/"} & set(found)


def test_a_bundle_that_names_no_program_is_none(add_container: AddContainer, state: Path) -> None:
    (add_container("default/older", "/bin/x") / "shim-binary-path").unlink()
    (add_container("default/good", "/bin/x").parent / "a-file").touch()
    (state / "io.containerd.runtime.v2.task" / "a-file").touch()
    assert [container.id for container in containers([str(state), "/missing"])] == ["good"]


def test_a_programs_path_may_be_any_bytes(add_container: AddContainer, state: Path) -> None:
    add_container("default/odd", os.fsdecode(b"/opt/\xff/shim"))
    (container,) = containers([str(state)])
    assert os.fsencode(container.program) == b"/opt/\xff/shim"


def test_who_may_not_look_is_told_so(state: Path, add_container: AddContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    add_container("default/one", "/bin/x")

    def listdir(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", listdir)  # nothing keeps root out
    with pytest.raises(PermissionError):
        containers([str(state)])


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        ("real/shim", True),
        ("directory-link/shim", True),
        ("file-link", True),  # containerd executes the file behind it
        ("real/other", False),
        ("elsewhere/shim", False),
    ],
)
def test_a_container_needs_its_program_by_whichever_name(tmp_path: Path, program: str, needed: bool) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "shim").touch()
    (tmp_path / "directory-link").symlink_to("real")
    (tmp_path / "file-link").symlink_to("real/shim")
    container = Container("default", "one", str(tmp_path / program))
    assert container.needs(str(tmp_path / "real" / "shim")) is needed
    assert container.needs(str(tmp_path / "directory-link" / "shim")) is needed


def test_a_program_that_has_gone_is_needed_still(tmp_path: Path) -> None:
    assert Container("default", "one", f"{tmp_path}/shim").needs(f"{tmp_path}/shim")
