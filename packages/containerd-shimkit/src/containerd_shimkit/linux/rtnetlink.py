"""Network interfaces, their addresses, and their way from one network namespace to another.

Source: rtnetlink(7), netlink(7); include/uapi/linux/{rtnetlink,if_link,if_addr}.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

__all__ = ["Address", "Rtnetlink", "move_interface"]

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x001
_NLM_F_ACK: Final = 0x004
_NLM_F_DUMP: Final = 0x300
_NLM_F_CREATE_NEW: Final = 0x600  # NLM_F_CREATE | NLM_F_EXCL
_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_IFLA_IFNAME: Final = 3
_IFLA_NET_NS_FD: Final = 28
_IFA_FLAGS: Final = 8
_IFA_CARRIED: Final = (1, 2, 4, 6)  # IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_CACHEINFO; a label has the old name
_IFA_F_PERMANENT: Final = 0x80
# IFA_F_NODAD, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN: what a user sets; the rest is the kernel's word
_IFA_F_SETTABLE: Final = 0x02 | 0x10 | 0x100 | 0x200 | 0x400
_RT_SCOPE_UNIVERSE: Final = 0
_IFF_UP: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of flags
_ADDRESS: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, length of prefix, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct rtattr: length with this header, type
_TYPE: Final = 0x3FFF  # NLA_TYPE_MASK
_ROOM: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface: family, bits of its prefix, flags, and the attributes that it is made anew from."""

    family: int
    prefix: int
    flags: int
    attributes: Mapping[int, bytes]


class Rtnetlink:
    """The interfaces of the network namespace that this process was in when this was made. Blocks."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # NETLINK_ROUTE
        self._sequence = 0
        self._namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it. May be called once."""
        self._socket.close()
        os.close(self._namespace)

    def interfaces(self) -> dict[str, int]:
        """Indices by name. Raises: OSError."""
        found: dict[str, int] = {}
        for body in self._request(_RTM_GETLINK, _NLM_F_DUMP, _LINK.pack(0, 0, 0, 0, 0)):
            name = dict(_attributes(body[_LINK.size :])).get(_IFLA_IFNAME, b"")
            found[os.fsdecode(name.rstrip(b"\0"))] = int(_LINK.unpack_from(body)[2])
        return found

    def lasting_addresses(self, index: int) -> list[Address]:
        """The interface's permanent addresses of global scope, of every family. Raises: OSError."""
        found: list[Address] = []
        for body in self._request(_RTM_GETADDR, _NLM_F_DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, flags, scope, owner = _ADDRESS.unpack_from(body)
            attributes = dict(_attributes(body[_ADDRESS.size :]))
            if _IFA_FLAGS in attributes:
                (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
            if owner == index and scope == _RT_SCOPE_UNIVERSE and flags & _IFA_F_PERMANENT:
                carried = {kind: value for kind, value in attributes.items() if kind in _IFA_CARRIED}
                found.append(Address(family, prefix, flags & _IFA_F_SETTABLE, carried))
        return found

    def send_away(self, index: int, target: Rtnetlink, name: str) -> None:
        """Move the interface to the namespace of *target* as *name*, in which the kernel puts a number for `%d`.

        Raises: OSError (EEXIST: the name is taken there).
        """
        attributes = _attribute(_IFLA_NET_NS_FD, struct.pack("=I", target._namespace))
        attributes += _attribute(_IFLA_IFNAME, os.fsencode(name) + b"\0")
        self._do(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + attributes)

    def add_address(self, index: int, address: Address) -> None:
        """Give the interface *address*. Raises: OSError."""
        attributes = {**address.attributes, _IFA_FLAGS: struct.pack("=I", address.flags)}
        body = _ADDRESS.pack(address.family, address.prefix, address.flags & 0xFF, _RT_SCOPE_UNIVERSE, index)
        body += b"".join(_attribute(kind, value) for kind, value in attributes.items())
        self._do(_RTM_NEWADDR, _NLM_F_CREATE_NEW, body)

    def switch_on(self, index: int) -> None:
        """Set the interface "up". Raises: OSError."""
        self._do(_RTM_NEWLINK, 0, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP))

    def _do(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._request(kind, flags | _NLM_F_ACK, body):
            pass

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """Send one request; the bodies of what is answered, up to its end."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            data = self._socket.recv(_ROOM)
            while data:
                length, answer, _flags, sequence, _port = _HEADER.unpack_from(data)
                content, data = data[_HEADER.size : length], data[_aligned(length) :]
                if sequence != self._sequence:
                    continue  # what is left of a request that was given up
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", content)
                    if number:
                        raise OSError(-number, os.strerror(-number))
                    return
                yield content


def move_interface(source: Rtnetlink, target: Rtnetlink, name: str, new_name: str) -> str:
    """Move *name* from the namespace of *source* to that of *target*; the name that it has there.

    It keeps what the kernel keeps, and its permanent addresses of global scope; it is switched on. What cannot have
    them is moved back. Raises: OSError.
    """
    index = source.interfaces().get(name)
    if index is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such interface", name)
    addresses = source.lasting_addresses(index)
    before = target.interfaces()
    try:
        source.send_away(index, target, new_name)
        ((found, index),) = target.interfaces().items() - before.items()
        _furnish(target, index, addresses)
    except OSError:
        with suppress(OSError):  # the first error is the one to be told
            # whose new name is taken has been moved all the same, with the old one
            for _, there in target.interfaces().items() - before.items():
                target.send_away(there, source, name)
                _furnish(source, source.interfaces()[name], addresses)
        raise
    return found


def _furnish(where: Rtnetlink, index: int, addresses: Iterable[Address]) -> None:
    for address in addresses:
        where.add_address(index, address)
    where.switch_on(index)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return (_ATTRIBUTE.pack(length, kind) + value).ljust(_aligned(length), b"\0")


def _aligned(length: int) -> int:
    return length + 3 & ~3
