"""scripts/lib/guest*.py: what the guest is made of, how it is started, and what it is asked to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parent.parent / "scripts" / "lib"
sys.path.insert(0, str(LIBRARY))
try:
    guest, guest_image, guest_inside = (import_module(name) for name in ("guest", "guest_image", "guest_inside"))
finally:
    sys.path.remove(str(LIBRARY))


def test_equal_recipes_have_one_key_and_every_difference_another() -> None:
    recipe = guest_image.Recipe()
    assert recipe.key() == guest_image.Recipe().key()
    others = [
        replace(recipe, suite="sid"),
        replace(recipe, packages=(*recipe.packages, "strace")),
        replace(recipe, left_out=()),
        replace(recipe, files={**recipe.files, "etc/hostname": "other\n"}),
        replace(recipe, links={}),
    ]
    assert len({recipe.key(), *(other.key() for other in others)}) == 1 + len(others)


def test_the_system_is_made_of_the_recipes_suite_and_packages() -> None:
    command = guest_image.Recipe(suite="sid", packages=("a", "b"), left_out=("/x/*",)).command("root", "the.sources")
    assert command[0] == "mmdebstrap"
    assert {"--include=a,b", "--dpkgopt=path-exclude=/x/*"} <= set(command)
    assert command[-3:] == ["sid", "root", "the.sources"]


def test_an_image_of_the_same_recipe_is_kept_and_others_go(tmp_path: Path) -> None:
    recipe = guest_image.Recipe()
    kept, other = tmp_path / f"system-{recipe.key()}", tmp_path / "system-old"
    for directory in (kept, other):
        directory.mkdir()
    assert guest_image.ensure_system(tmp_path, recipe) == kept
    assert sorted(tmp_path.iterdir()) == [kept]


def test_an_image_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_recipe: object, _work: Path, target: Path) -> None:
        target.mkdir()
        raise subprocess.CalledProcessError(1, ["mmdebstrap"])

    monkeypatch.setattr(guest_image, "_make", fail)
    with pytest.raises(subprocess.CalledProcessError):
        guest_image.ensure_system(tmp_path, guest_image.Recipe())
    assert list(tmp_path.iterdir()) == []


def test_the_recipes_files_and_links_go_into_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "link").write_text("what the packages had")
    recipe = guest_image.Recipe(files={"etc/name": "text"}, links={"etc/link": "/dev/null"})
    guest_image.furnish(tmp_path, recipe)
    assert (tmp_path / "etc" / "name").read_text() == "text"
    assert os.readlink(tmp_path / "etc" / "link") == "/dev/null"
    assert (tmp_path / guest_image.PROJECT.lstrip("/")).is_dir()


@pytest.mark.parametrize(
    ("device", "module", "chosen"),
    [
        (True, "kvm_intel", "KVM"),
        (True, "kvm_amd", "KVM"),
        (True, "kvm_other", "EMULATION"),
        (False, "kvm_intel", "EMULATION"),
    ],
)
def test_kvm_runs_the_guest_only_where_a_processor_does(tmp_path: Path, device: bool, module: str, chosen: str) -> None:
    (tmp_path / "modules" / module).mkdir(parents=True)
    if device:
        (tmp_path / "kvm").touch()
    found = guest.choose_accelerator(str(tmp_path / "kvm"), str(tmp_path / "modules"))
    assert found is getattr(guest, chosen)


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ([], ["-m", guest.DEFAULT_MARKS, "--timeout=60", *guest.DEFAULT_PATHS]),
        (["-k", "name"], ["-m", guest.DEFAULT_MARKS, "--timeout=60", "-k", "name", *guest.DEFAULT_PATHS]),
        (["tests/guest"], ["-m", guest.DEFAULT_MARKS, "--timeout=60", "tests/guest"]),
        (["-m", "root"], ["--timeout=60", "-m", "root", *guest.DEFAULT_PATHS]),
        (["tests/guest/test_guest.py::test_x"], ["--timeout=60", "tests/guest/test_guest.py::test_x"]),
    ],
)
def test_pytest_gets_the_guests_tests_unless_others_are_named(given: list[str], arguments: list[str]) -> None:
    assert guest.pytest_arguments(given, guest.KVM) == arguments


@pytest.mark.parametrize("accelerator", [guest.KVM, guest.EMULATION])
def test_the_guest_writes_to_no_disk_of_ours_and_has_no_network(accelerator: object) -> None:
    command = guest.qemu_command("/system", ["/a.ext4", "/b.ext4"], accelerator, "/run")
    drives = [word for before, word in pairwise(command) if before == "-drive"]
    assert [drive.split(",")[0] for drive in drives] == ["file=/system/root.ext4", "file=/a.ext4", "file=/b.ext4"]
    assert all(drive.endswith(",snapshot=on") for drive in drives)
    assert "-nodefaults" in command  # without it qemu adds a network card
    assert not {"-netdev", "-nic", "-net"} & set(command)
    (words,) = [word for before, word in pairwise(command) if before == "-append"]
    assert {"apparmor=1", "security=apparmor", "systemd.unified_cgroup_hierarchy=1"} <= set(words.split())


def test_the_guest_gets_what_git_knows_and_what_is_new_but_nothing_ignored(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("ignored\n")
    for name in ("ignored", "new", "sub/known"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "sub" / "known").chmod(0o755)
    subprocess.run(["git", "-C", str(tmp_path), "add", "sub/known"], check=True)
    names = guest.tree_files(tmp_path)
    assert names == [".gitignore", "new", "sub/known"]
    guest.copy_tree(tmp_path, names, tmp_path / "copy")
    assert (tmp_path / "copy" / "sub" / "known").read_text() == "sub/known"
    assert os.access(tmp_path / "copy" / "sub" / "known", os.X_OK)


@pytest.mark.parametrize(("text", "status"), [("0\n", 0), ("1\n", 1), ("", None), ("x", None), (None, None)])
def test_only_a_reported_status_is_one(tmp_path: Path, text: str | None, status: int | None) -> None:
    if text is not None:
        (tmp_path / "status").write_text(text)
    assert guest.read_status(tmp_path / "status") == status


def test_inside_the_request_is_run_and_its_status_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_inside, "make_environment", lambda: Path(sys.executable))
    (tmp_path / "test_a.py").write_text(
        "import os\ndef test_a(): assert os.environ['WORD'] == 'here'; assert 0, 'seen'\n"
    )
    request = {"arguments": ["-c", "/dev/null", str(tmp_path)], "environment": {"WORD": "here"}}
    (tmp_path / "guest.json").write_text(json.dumps(request))
    with open(tmp_path / "output", "wb") as output:
        assert guest_inside.run(tmp_path / "guest.json", output.fileno()) == 1
    assert "AssertionError: seen" in (tmp_path / "output").read_text()


def test_inside_the_sources_go_before_what_is_installed(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "packages" / name / "src").mkdir(parents=True)
    packages = Path("/installed")
    expected = [f"{tmp_path}/packages/a/src", f"{tmp_path}/packages/b/src", "/installed"]
    assert guest_inside.import_paths(tmp_path, packages) == expected
