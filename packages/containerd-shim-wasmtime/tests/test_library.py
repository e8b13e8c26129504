"""Where the library is found, and what is said when it is not the one that is wanted."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from containerd_shim_wasm import InternalError
from containerd_shim_wasmtime.library import Library, find_library, library_in

CONTENT = b"what counts is its size"
NAME = "wasmtime/linux-x86_64/_libwasmtime.so"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory like site-packages, with a wasmtime."""
    library = tmp_path / NAME
    library.parent.mkdir(parents=True)
    library.write_bytes(CONTENT)
    install(tmp_path, "50.3.1")
    return tmp_path


def install(site: Path, number: str) -> Path:
    metadata = site / f"wasmtime-{number}.dist-info"
    metadata.mkdir()
    lines = ["wasmtime/__init__.py,sha256=a,1872", f"{NAME},sha256=b,{len(CONTENT)}", "wasmtime/RECORD,,"]
    (metadata / "RECORD").write_text("\n".join(lines))
    return metadata


def test_the_library_is_that_of_the_installed_distribution() -> None:
    found = find_library()
    assert found.version == version("wasmtime")
    assert os.path.isfile(found.path)


def test_version_and_path_come_from_the_directory(site: Path) -> None:
    assert library_in(str(site), "x86_64") == Library(str(site / NAME), "50.3.1")


def test_a_distribution_without_a_record_of_sizes_is_taken_as_it_is(site: Path) -> None:
    record = site / "wasmtime-50.3.1.dist-info" / "RECORD"
    record.write_text(f"{NAME},,\n")
    assert library_in(str(site), "x86_64").version == "50.3.1"
    record.unlink()
    assert library_in(str(site), "x86_64").version == "50.3.1"


@pytest.mark.parametrize("number", ["49.0.0", "51.0.0", "5.0", "500.0"])
def test_another_version_is_refused_by_name_and_with_the_cure(site: Path, number: str) -> None:
    os.rename(site / "wasmtime-50.3.1.dist-info", site / f"wasmtime-{number}.dist-info")
    with pytest.raises(InternalError, match=re.escape(f"wasmtime {number} in {site} is not a version 50")) as error:
        library_in(str(site), "x86_64")
    assert str(error.value).endswith("install it with: pip install 'wasmtime>=50,<51'")


def test_a_library_of_another_size_than_the_distribution_brought_is_refused(site: Path) -> None:
    (site / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(InternalError, match=rf"has 22 bytes, but the one of wasmtime 50\.3\.1 has {len(CONTENT)}"):
        library_in(str(site), "x86_64")


def test_a_machine_that_the_distribution_has_no_library_for_is_named(site: Path) -> None:
    with pytest.raises(InternalError, match=r"wasmtime 50\.3\.1 has no library for this machine, riscv64"):
        library_in(str(site), "riscv64")


def test_two_installations_in_one_directory_are_refused(site: Path) -> None:
    install(site, "50.0.0")
    with pytest.raises(
        InternalError, match=r"has 2 installations of wasmtime \(wasmtime-50\.0\.0\.dist-info, wasmtime-50\.3\.1\.d"
    ):
        library_in(str(site), "x86_64")


def test_no_installation_is_said(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=r"has 0 installations of wasmtime \(none\)"):
        library_in(str(tmp_path), "x86_64")


def test_a_python_without_wasmtime_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(InternalError, match="the Python package wasmtime is not installed; install it with"):
        find_library.__wrapped__()
