"""scripts/lib/apt_suite.py: the source of Debian's newest suite, made from the machine's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "lib" / "apt_suite.py"

DEB822 = """\
# first a stanza of another vendor
Types: deb
URIs: https://vendor.example/apt
Suites: stable
Components: main
Enabled: no

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb-src deb
# where it was taken from
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg
"""


def run(apt_directory: Path, suite: str = "sid") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(SCRIPT), suite, str(apt_directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_deb822_file_gives_its_archive_and_its_key(tmp_path: Path) -> None:
    write(tmp_path / "sources.list.d" / "debian.sources", DEB822)
    assert run(tmp_path).stdout == (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/archive.gpg\n"
    )


def test_a_key_inside_a_deb822_stanza_keeps_its_lines(tmp_path: Path) -> None:
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abcd\n -----END PGP PUBLIC KEY BLOCK-----"
    stanza = f"Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\nSigned-By:{key}\n"
    write(tmp_path / "sources.list.d" / "debian.sources", stanza)
    assert run(tmp_path).stdout.endswith(f"Components: main\nSigned-By: {key}\n")


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("deb http://mirror.example/debian bookworm main contrib", ""),
        ("deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main", "Signed-By: /k.gpg\n"),
        ("deb [signed-by=/a.gpg,/b.gpg] http://mirror.example/debian stable main # ours", "Signed-By: /a.gpg /b.gpg\n"),
        ("deb [ trusted=yes ] http://mirror.example/debian sid main", "Trusted: yes\n"),
    ],
)
def test_a_line_of_the_old_format_gives_its_archive(tmp_path: Path, line: str, kept: str) -> None:
    write(tmp_path / "sources.list", f"# comment\ndeb-src http://source.example/debian bookworm main\n{line}\n")
    wanted = f"Types: deb\nURIs: http://mirror.example/debian\nSuites: testing\nComponents: main\n{kept}"
    assert run(tmp_path, "testing").stdout == wanted


@pytest.mark.parametrize(
    "line",
    [
        "# deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian-security bookworm main",
        "deb http://mirror.example/debian bookworm-backports main",
        "deb http://mirror.example/debian bookworm contrib",
        "deb http://vendor.example/ubuntu noble main",
        "deb-src http://mirror.example/debian bookworm main",
    ],
)
def test_a_machine_without_debians_main_is_told_so(tmp_path: Path, line: str) -> None:
    write(tmp_path / "sources.list.d" / "other.list", line + "\n")
    finished = run(tmp_path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"{tmp_path}: no enabled entry for main of Debian, so no suite 'sid'\n"


def test_switched_off_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "sources.list.d" / "debian.sources.disabled", DEB822)
    assert run(tmp_path).returncode == 1
