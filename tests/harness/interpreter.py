"""A Python of a test's own, which nobody else executes, and a program that attacks it from inside of a container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from harness.images import BUSYBOX

# As the loader of a program that is `#!/proc/self/exe`, it runs in the container in place of the host's interpreter. It
# says what the kernel answers to each of its attempts, by errno, and keeps a descriptor, 9, for what runs after it.
_LOADER = """
static long call(long number, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}
static void tell(const char *what, long result) {
    char line[64];
    long length = 0, number = result < 0 ? -result : 0;
    while (what[length]) { line[length] = what[length]; length++; }
    line[length++] = '=';
    line[length++] = (char)('0' + number / 10);
    line[length++] = (char)('0' + number % 10);
    line[length++] = '\\n';
    call(1, 1, (long)line, length, 0, 0);
}
void _start(void) {
    static const char own[] = "/proc/self/exe";
    static const char *const words[] = {"sh", "/after", 0}, *const none[] = {"PATH=/bin", 0};
    unsigned long writable[4] = {0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0};
    tell("write", call(2, (long)own, 1 /* O_WRONLY */, 0, 0, 0));
    tell("truncate", call(2, (long)own, 1 | 01000 /* O_TRUNC */, 0, 0, 0));
    tell("access", call(269, -100, (long)own, 2 /* W_OK */, 0, 0));
    tell("remount", call(165, 0, (long)own, 0, 32 | 4096 /* MS_REMOUNT | MS_BIND */, 0));
    tell("setattr", call(442, -100, (long)own, 0, (long)writable, sizeof writable));
    tell("clone", call(428, -100, (long)own, 1 /* OPEN_TREE_CLONE */, 0, 0));
    tell("bind", call(165, (long)own, (long)"/target", 0, 4096 /* MS_BIND */, 0));
    call(33, call(2, (long)own, 010000000 /* O_PATH */, 0, 0, 0), 9, 0, 0, 0);
    call(59, (long)"/bin/sh", (long)words, (long)none, 0, 0);
    call(60, 1, 0, 0, 0, 0);
}
"""
_AFTER = """
echo ready
until [ -e /go ]; do sleep 0.05; done
(echo owned >> /proc/self/fd/9) 2>&1
(: > /proc/self/fd/9) 2>&1
echo over
exec sleep 1000
"""
TOOLS = ("sh", "sleep", "readlink", "cat")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A copy of the interpreter, in a virtual environment that has what the tests' own has."""

    path: Path
    content: bytes

    @classmethod
    def copied_to(cls, directory: Path) -> Interpreter:
        packages = directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        packages.parent.mkdir(parents=True)
        packages.symlink_to(sysconfig.get_path("purelib"))
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", directory)
        path = directory / "bin" / "python"
        path.parent.mkdir()
        shutil.copy(os.path.realpath(sys.executable), path)
        return cls(path, path.read_bytes())

    def script(self, path: Path, text: str) -> Path:
        """A program of *text* that this interpreter runs."""
        path.write_text(f"#!{self.path}\n{text}")
        path.chmod(0o755)
        return path

    def users(self) -> set[int]:
        """Who executes it."""
        own = self.path.stat()
        found: set[int] = set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.path.samestat(os.stat(f"/proc/{pid}/exe"), own):
                    found.add(int(pid))
            except OSError:  # it has ended, or is the kernel's
                continue
        return found

    @property
    def is_whole(self) -> bool:
        return self.path.read_bytes() == self.content


def build_attack(directory: Path) -> bytes:
    """Compile the loader; its bytes."""
    source, loader = directory / "loader.c", directory / "loader"
    source.write_text(_LOADER)
    options = ["-O1", "-static", "-nostdlib", "-fno-stack-protector", "-fno-builtin", "-Wall", "-Werror"]
    subprocess.run(["cc", *options, "-o", loader, source], check=True, timeout=60)
    return loader.read_bytes()


def attack_files(loader: bytes) -> dict[str, bytes]:
    """What an image has that attacks by its program /trap; the shell script /after goes on once there is a file /go."""
    shell = Path(BUSYBOX).read_bytes()
    return {
        "/trap": b"#!/proc/self/exe\n",
        "/lib64/ld-linux-x86-64.so.2": loader,
        "/after": _AFTER.encode(),
        "/target": b"",
        **{f"/bin/{name}": shell for name in TOOLS},
    }
