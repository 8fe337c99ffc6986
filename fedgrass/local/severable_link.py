"""A second hold on a client's TCP connection, by which another thread can break it."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress


class SeverableLink:
    """Breaks a connection that belongs to another thread. Every method may be called from any thread.

    The client tells of each socket when it opens it and before it closes it. Asking the client for its socket
    later would be a race: between the question and the answer's use the client's thread may close the socket,
    and its number may by then be somebody else's connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hold: socket.socket | None = None
        self._is_severed = False

    def opened(self, descriptor: int) -> None:
        """The client has opened a socket: keep a hold of it, or break it if the link is severed."""
        with self._lock:
            self._let_go()
            self._hold = socket.socket(fileno=os.dup(descriptor))
            if self._is_severed:
                self._break()

    def closing(self) -> None:
        """The client is about to close its socket: the peer sees the end only when this hold is gone too."""
        with self._lock:
            self._let_go()

    def sever(self) -> None:
        """Break the connection without a word, and every further one until `mend`."""
        with self._lock:
            self._is_severed = True
            self._break()

    def mend(self) -> None:
        """Leave the next connection alone."""
        with self._lock:
            self._is_severed = False

    def _break(self) -> None:
        if self._hold is not None:
            with suppress(OSError):  # the peer has broken it already
                self._hold.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.close()
            self._hold = None
