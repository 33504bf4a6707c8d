"""A line from one process to another: JSON messages over TCP, closed when either dies."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

# A machine that has lost its power or network closes nothing: the kernel asks after these
# silent seconds, every so many seconds, so often. 25 seconds in all.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_UNANSWERED_MS = 25_000


def encoded(message: Any) -> bytes:
    """Writes a JSON-able value as a line sends it."""
    return json.dumps(message).encode() + b"\n"


class Line:
    """Sends and receives JSON values; any thread may send, one may receive.

    The kernel keeps watch: once the other process is gone `receive` raises, however busy Python
    is on either side.
    """

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in (_KEEP_ALIVE | {"TCP_USER_TIMEOUT": _UNANSWERED_MS}).items():
            if hasattr(socket, name):  # as on Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._connection = connection
        self._incoming = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        """Sends a JSON-able value.

        Raises:
          OSError: if the other process is gone.
        """
        self.send_encoded(encoded(message))

    def send_encoded(self, data: bytes) -> None:
        """Sends what `encoded` gave: to many, a large value is encoded once.

        Raises:
          OSError: if the other process is gone.
        """
        with self._sending:
            self._connection.sendall(data)

    def receive(self, timeout_seconds: float | None = None) -> Any:
        """Waits for the next value.

        Raises:
          OSError: if the other process is gone, or nothing came in time.
          ValueError: if what came is not JSON.
        """
        self._connection.settimeout(timeout_seconds)
        data = self._incoming.readline()
        self._connection.settimeout(None)
        if not data.endswith(b"\n"):
            raise ConnectionError("the connection was closed")
        return json.loads(data)

    def is_closed(self) -> bool:
        """Whether the other side has closed the line or is gone; to ask once all is received."""
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def address(self) -> str:
        """The other side's network address."""
        return str(self._connection.getpeername()[0]).removeprefix("::ffff:")

    def close(self) -> None:
        """Closes the line; the other side's `receive` raises."""
        self._incoming.close()
        self._connection.close()
