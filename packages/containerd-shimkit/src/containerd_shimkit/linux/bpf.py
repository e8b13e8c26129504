"""Loading eBPF programs that guard a version 2 control group's devices, and attaching them to it.

Source: bpf(2); kernel, include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from typing import Final

from .libc import syscall

__all__ = ["attached_programs", "load_device_program", "replace_device_program"]

_PROG_LOAD: Final = 5
_PROG_ATTACH: Final = 8
_PROG_DETACH: Final = 9
_PROG_GET_FD_BY_ID: Final = 13
_OBJ_GET_INFO_BY_FD: Final = 15
_PROG_QUERY: Final = 16
_PROG_TYPE_CGROUP_DEVICE: Final = 15
_CGROUP_DEVICE: Final = 6  # the kind of attachment
_ALLOW_MULTI: Final = 2
_REPLACE: Final = 4
_NAME: Final = b"shim_devices"  # by which a program is known to be ours
_LICENSE: Final = b"Apache-2.0"
_ATTRIBUTES: Final = 128  # bytes; more than any of these commands looks at
_LOG: Final = 1 << 16
_MOST_PROGRAMS: Final = 64  # the kernel's own limit for one group
_INFO: Final = 96
_NAME_IN_INFO: Final = 64  # behind two words, a tag, two lengths, two addresses, a time, a uid, a count and an address


def load_device_program(program: bytes) -> int:
    """Load what `compile_rules` gives; a descriptor. Raises: OSError (EPERM without CAP_SYS_ADMIN or CAP_BPF)."""
    try:
        return _load(program)
    except PermissionError as error:
        # before Linux 5.11 programs count as locked memory, of which even root has little
        limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if error.errno != errno.EPERM or limits[0] == resource.RLIM_INFINITY:
            raise
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError:  # without CAP_SYS_RESOURCE
            raise error from None
        try:
            return _load(program)
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def replace_device_program(group: int, program: int) -> None:
    """Make *program* guard the group of the directory's descriptor *group*, in place of ours that did so before.

    Programs of others (systemd's) stay, and have to agree. At no moment is the group unguarded. Raises: OSError.
    """
    ours = [each for each in attached_programs(group) if _name_of(each) == _NAME]
    descriptors = [_call(_PROG_GET_FD_BY_ID, struct.pack("=I", each)) for each in ours]
    try:
        if len(descriptors) == 1:
            try:
                return _attach(group, program, _ALLOW_MULTI | _REPLACE, descriptors[0])
            except OSError as error:
                if error.errno != errno.EINVAL:  # a kernel before 5.6 cannot replace
                    raise
        _attach(group, program, _ALLOW_MULTI)
        for each in descriptors:
            _call(_PROG_DETACH, struct.pack("=IIII", group, each, _CGROUP_DEVICE, 0))
    finally:
        for each in descriptors:
            os.close(each)


def attached_programs(group: int) -> list[int]:
    """The ids of the programs that guard the devices of that very group. Raises: OSError."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    query = struct.pack("=IIIIQI", group, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS)
    attributes = _attributes(query)
    syscall("bpf", _PROG_QUERY, attributes, _ATTRIBUTES)
    (count,) = struct.unpack_from("=I", attributes, 24)
    return list(ids[:count])


def _load(program: bytes) -> int:
    code, text = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(_LICENSE)
    head = (_PROG_TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(code), ctypes.addressof(text))
    try:
        return _call(_PROG_LOAD, struct.pack("=IIQQIIQII16s", *head, 0, 0, 0, 0, 0, _NAME))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
        # again, to be told why
        log = ctypes.create_string_buffer(_LOG)
        try:
            return _call(_PROG_LOAD, struct.pack("=IIQQIIQII16s", *head, 1, _LOG, ctypes.addressof(log), 0, 0, _NAME))
        except OSError as again:
            said = log.value.decode("ascii", "replace").strip().splitlines()
            raise OSError(again.errno, f"{again.strerror}{f' ({said[-1]})' if said else ''}") from None


def _attach(group: int, program: int, flags: int, replaced: int = 0) -> None:
    _call(_PROG_ATTACH, struct.pack("=IIIII", group, program, _CGROUP_DEVICE, flags, replaced))


def _name_of(program_id: int) -> bytes:
    try:
        descriptor = _call(_PROG_GET_FD_BY_ID, struct.pack("=I", program_id))
    except FileNotFoundError:  # detached meanwhile
        return b""
    try:
        info = ctypes.create_string_buffer(_INFO)
        _call(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", descriptor, _INFO, ctypes.addressof(info)))
        return info.raw[_NAME_IN_INFO : _NAME_IN_INFO + 16].rstrip(b"\0")
    finally:
        os.close(descriptor)


def _call(command: int, attributes: bytes) -> int:
    return syscall("bpf", command, _attributes(attributes), _ATTRIBUTES)


def _attributes(given: bytes) -> bytearray:
    return bytearray(given.ljust(_ATTRIBUTES, b"\0"))
