"""A bus with a systemd at it, as far as scopes go: a thread behind a socket, that answers as it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)

Answer: TypeAlias = "tuple[str, tuple[object, ...]] | Refusal | None"
Handler: TypeAlias = Callable[[tuple[object, ...]], Answer]

_MANAGER: Final = DBusAddress("/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager")
JOB: Final = "/org/freedesktop/systemd1/job/7"
UNIT: Final = "/org/freedesktop/systemd1/unit/u"


class Refusal:
    """An error for an answer."""

    def __init__(self, name: str, text: str = "because") -> None:
        self.name, self.text = name, text


class FakeSystemd:
    """Serves one connection after another. `calls` are the methods called, with their arguments."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], *, job_result: str = "done") -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self.handlers: dict[str, Handler] = {
            "Hello": lambda _: ("s", (":1.5",)),
            "AddMatch": lambda _: ("", ()),
            "Subscribe": lambda _: ("", ()),
            "StartTransientUnit": lambda _: ("o", (JOB,)),
            "StopUnit": lambda _: ("o", (JOB,)),
            "ResetFailedUnit": lambda _: ("", ()),
            "SetUnitProperties": lambda _: ("", ()),
            "GetUnit": lambda _: ("o", (UNIT,)),
            **handlers,
        }
        self.job_result = job_result
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def names(self) -> list[str]:
        """The methods called, but for those that open every connection."""
        return [name for name, _ in self.calls if name not in ("Hello", "AddMatch", "Subscribe")]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._talk(connection)
                except (ConnectionError, TimeoutError):
                    pass

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(10.0)
        assert _read_line(connection).startswith(b"\0AUTH EXTERNAL ")
        connection.sendall(b"OK 1234deadbeef\r\n")
        assert _read_line(connection) == b"BEGIN\r\n"
        parser = Parser()
        serial = 0
        while data := connection.recv(4096):
            parser.add_data(data)
            while (message := parser.get_next_message()) is not None:
                for answer in self._answers(message):
                    serial += 1
                    connection.sendall(answer.serialise(serial=serial))

    def _answers(self, message: Message) -> list[Message]:
        assert message.header.message_type is MessageType.method_call
        name = str(message.header.fields[HeaderFields.member])
        self.calls.append((name, message.body))
        answer = self.handlers[name](message.body)
        if answer is None:
            return []
        if isinstance(answer, Refusal):
            return [new_error(message, answer.name, "s", (answer.text,))]
        answers = [new_method_return(message, answer[0] or None, answer[1])]
        if name in ("StartTransientUnit", "StopUnit"):
            others = new_signal(_MANAGER, "JobRemoved", "uoss", (6, JOB[:-1] + "6", "other.scope", "failed"))
            ours = new_signal(_MANAGER, "JobRemoved", "uoss", (7, JOB, "u", self.job_result))
            answers = [others, *answers, ours]
        return answers


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        if not (data := connection.recv(1)):
            raise ConnectionResetError
        line += data
    return line
