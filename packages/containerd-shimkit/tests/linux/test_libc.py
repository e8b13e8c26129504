from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys

import pytest
from containerd_shimkit.linux import libc as module
from containerd_shimkit.linux.libc import encode, last_error, syscall


def test_an_error_is_of_errnos_kind_and_names_the_call_and_both_names() -> None:
    ctypes.set_errno(errno.ENOENT)
    error = last_error("mount", "from", "to")
    assert isinstance(error, FileNotFoundError)
    assert str(error) == "[Errno 2] mount: No such file or directory: 'from' -> 'to'"


def test_a_name_with_a_nul_is_refused_and_not_cut_short() -> None:
    with pytest.raises(OSError, match="a NUL character in a name") as caught:
        encode("/etc/passwd\0.wasm")
    assert caught.value.errno == errno.EINVAL


def test_a_name_that_is_no_unicode_goes_to_the_kernel_as_it_came() -> None:
    assert encode(os.fsdecode(b"/a\xff")) == b"/a\xff"


def test_a_failed_system_call_raises_with_its_name() -> None:
    with pytest.raises(OSError, match="close_range: Invalid argument"):
        syscall("close_range", 5, 4, 0)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_machine_knows_every_call(machine: str) -> None:
    assert set(module._syscalls(machine)) == set(module.SYSCALLS)


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(ImportError, match="system calls' numbers of 's390x'; it runs on x86_64 and aarch64"):
        module._syscalls("s390x")


def test_importing_elsewhere_than_on_linux_says_what_to_do() -> None:
    code = "import sys; sys.platform = 'darwin'; import containerd_shimkit.linux"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "containerd_shimkit.linux works on Linux only, and this is darwin" in done.stderr
