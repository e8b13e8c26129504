"""A program that decides on the calls of seccomp listeners: mkdir fails with EPROTO, the others go on.

Called with the path of its socket and of a file, to which it writes a line of JSON for each listener that it is handed,
and for each call that it decides on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import struct
import sys
from typing import Final

MKDIR: Final = {"x86_64": (83, 258), "aarch64": (34,)}[os.uname().machine]  # and mkdirat
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_ANSWER: Final = struct.Struct("=QqiI")
_CONTINUE: Final = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


def decide(descriptor: int) -> int | None:
    """Answer one call; its number, or None when its process has gone."""
    asked = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(descriptor, _RECEIVE, asked)
        id, _pid, _flags, number, *_ = _NOTIFICATION.unpack(asked)  # noqa: A001
        error, flags = (-errno.EPROTO, 0) if number in MKDIR else (0, _CONTINUE)
        fcntl.ioctl(descriptor, _SEND, _ANSWER.pack(id, 0, error, flags))
    except FileNotFoundError:
        return None
    return int(number)


def receive(line: socket.socket) -> tuple[object, list[int]]:
    """The JSON of one connection, up to its end, and the descriptors that came with it."""
    data, descriptors, _flags, _address = socket.recv_fds(line, 1000, 8)
    while more := line.recv(65536):
        data += more
    return json.loads(data), list(descriptors)


def main(path: str, log: str) -> None:
    poll = select.poll()
    with socket.socket(socket.AF_UNIX) as listening, open(log, "a", encoding="utf-8", buffering=1) as file:
        listening.bind(path)
        listening.listen()
        poll.register(listening, select.POLLIN)
        while True:
            for ready, events in poll.poll():
                if ready == listening.fileno():
                    with listening.accept()[0] as line:
                        state, descriptors = receive(line)
                    for each in descriptors:
                        poll.register(each, select.POLLIN)
                    print(json.dumps({"state": state, "descriptors": len(descriptors)}), file=file)
                elif events & select.POLLIN:
                    print(json.dumps({"call": decide(ready)}), file=file)
                else:  # every process of the filter has ended
                    poll.unregister(ready)
                    os.close(ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
