"""The system bus, as little of it as asking systemd takes: one connection, one thread, every wait with a time-out.

The messages are jeepney's; its connections are not used, for their greeting waits without end. Source: D-Bus
Specification, "Authentication Protocol", "Message Protocol".
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    Parser,
    find_system_bus,
    new_method_call,
)
from jeepney.auth import BEGIN, AuthenticationError, Authenticator

from ..errors import DeadlineExceededError, InternalError, UnavailableError

__all__ = ["Bus", "BusError"]

_READ_SIZE: Final = 1 << 16
_BUS: Final = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")


class BusError(Exception):
    """The other side's answer to a call: an error with its `name`, such as org.freedesktop.systemd1.UnitExists."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text or 'no reason given'} ({name})")
        self.name = name


class Bus:
    """A connection to a message bus; all its waits together may take until `deadline`."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        """Talk over *connection*, which is connected and becomes this object's, until *deadline* (time.monotonic)."""
        self._socket = connection
        self._deadline = deadline
        self._parser = Parser()
        self._serial = 0
        self._signals: deque[Message] = deque()

    @classmethod
    def open_system(cls, timeout: float) -> Bus:
        """Connect to the system bus and introduce this process to it; *timeout* is for all that is done over it.

        Raises: UnavailableError when there is no bus or it will not have us, DeadlineExceededError.
        """
        address = find_system_bus()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        bus = cls(connection, time.monotonic() + timeout)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
            bus.authenticate()
            bus.call(_BUS, "Hello")
        except (OSError, AuthenticationError, BusError) as error:
            bus.close()
            raise UnavailableError(
                f"the system's message bus cannot be used: {address}: {error}; the systemd cgroup driver needs it: "
                "start dbus, or set the kubelet's cgroupDriver to cgroupfs"
            ) from error
        except BaseException:
            bus.close()
            raise
        return bus

    def __enter__(self) -> Bus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def authenticate(self) -> None:
        """Say as whom we come, which the kernel confirms.

        Raises: AuthenticationError, UnavailableError, DeadlineExceededError.
        """
        authenticator = Authenticator()
        for line in authenticator:
            self._send(line)  # nothing, when the answer is not whole yet
            authenticator.feed(self._receive())
        self._send(BEGIN)

    def call(self, address: DBusAddress, method: str, signature: str = "", *arguments: object) -> tuple[object, ...]:
        """Call a method and give what it returns. Raises: BusError, UnavailableError, DeadlineExceededError."""
        self._serial += 1
        message = new_method_call(address, method, signature or None, arguments)
        self._send(message.serialise(serial=self._serial))
        while True:
            answer = self._next()
            if answer.header.fields.get(HeaderFields.reply_serial) != self._serial:
                if answer.header.message_type is MessageType.signal:
                    self._signals.append(answer)
                continue
            if answer.header.message_type is MessageType.error:
                text = answer.body[0] if answer.body and isinstance(answer.body[0], str) else ""
                raise BusError(str(answer.header.fields.get(HeaderFields.error_name)), text)
            return answer.body

    def subscribe(self, rule: str) -> None:
        """Have the bus send the signals that the match *rule* describes. Raises: as `call`."""
        self.call(_BUS, "AddMatch", "s", rule)

    def wait_for_signal(self, member: str, is_wanted: Callable[[tuple[object, ...]], bool]) -> tuple[object, ...]:
        """Give the first signal *member* that *is_wanted*, since the first call. Raises: as `call` but BusError."""
        while True:
            message = self._signals.popleft() if self._signals else self._next()
            is_signal = message.header.message_type is MessageType.signal
            if is_signal and message.header.fields.get(HeaderFields.member) == member and is_wanted(message.body):
                return message.body

    def _next(self) -> Message:
        while (message := self._get_parsed()) is None:
            self._parser.add_data(self._receive())
        return message

    def _get_parsed(self) -> Message | None:
        try:
            return self._parser.get_next_message()
        except (ValueError, KeyError, IndexError) as error:
            raise InternalError(f"the system's message bus sent what is no message: {error}") from error

    def _send(self, data: bytes) -> None:
        self._bound()
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise self._too_late() from error
        except OSError as error:
            raise _lost(error.strerror or str(error)) from error

    def _receive(self) -> bytes:
        self._bound()
        try:
            data = self._socket.recv(_READ_SIZE)
        except TimeoutError as error:
            raise self._too_late() from error
        except OSError as error:
            raise _lost(error.strerror or str(error)) from error
        if not data:
            raise _lost("it has closed the connection")
        return data

    def _bound(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._too_late()
        self._socket.settimeout(left)

    def _too_late(self) -> DeadlineExceededError:
        return DeadlineExceededError("systemd did not answer over the system's message bus in time")


def _lost(reason: str) -> UnavailableError:
    return UnavailableError(f"the connection to the system's message bus is lost: {reason}")
