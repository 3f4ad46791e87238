"""Watches the connections between a run's processes: when one fails or vanishes, all end, and say which it was.

A process whose neighbour has died waits for it in a collective that Python cannot interrupt. The connections of
`rendezvous` end with the process that held them, which the system tells the other end at once (or within
`SILENCE_SECONDS` when the whole host is gone), so a thread notices, passes it on, and ends this process.
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable

from anchortrain.rendezvous import Meeting, parse, send

EXIT_PEER_LOST = 75  # EX_TEMPFAIL: nothing is wrong with the run; start it again and it continues
SILENCE_SECONDS = 60
_PROBES = 3


def leave(line: str, code: int) -> None:
    """Ends this process at once: on the ordinary way out jax would wait for the others."""
    print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Peers:
    """Everybody else, from after the meeting to the end of the run."""

    def __init__(self, meeting: Meeting, leave: Callable[[str, int], None] = leave) -> None:
        """Watches from now on; `leave` is how this process ends, with a last line and an exit code."""
        self._leave = leave
        self._id, self._hosts = meeting.me.id, meeting.hosts
        self._open = dict(meeting.connections)
        self._lock = threading.Lock()  # of whoever ends this process
        for connection in self._open.values():
            _probe_when_silent(connection)
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def done(self) -> None:
        """This process has ended its run as it should; from now on others may leave."""
        self._tell({"done": True})

    def fail(self, text: str, code: int) -> None:
        """Tells everybody that this process ends, and why; they end with the same exit code."""
        self._lock.acquire()  # for good: what happens to the others from now on is our doing
        self._tell({"failed": f"{self._name(self._id)}: {' '.join(text.split())}", "code": code})

    def _watch(self) -> None:
        buffers = dict.fromkeys(self._open, b"")
        with selectors.DefaultSelector() as selector:
            for number, connection in self._open.items():
                connection.setblocking(True)
                connection.settimeout(None)
                selector.register(connection, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        got = key.fileobj.recv(1 << 16)
                    except OSError:
                        got = b""
                    *lines, buffers[key.data] = (buffers[key.data] + got).split(b"\n")
                    if self._hear(key.data, lines, ended=not got):
                        selector.unregister(key.fileobj)

    def _hear(self, number: int, lines: list[bytes], *, ended: bool) -> bool:
        """Acts on what process `number` says; True when nothing more is expected of it."""
        for line in lines:
            try:
                message = parse(line)
            except ValueError:
                continue  # whatever it was, the end of the connection will tell
            if message.get("done"):
                return True
            self._end(str(message.get("failed")), int(message.get("code", 1)))
            return True
        if ended:
            self._end(f"{self._name(number)} has ended unexpectedly; the same command continues", EXIT_PEER_LOST)
        return ended

    def _end(self, text: str, code: int) -> None:
        with self._lock:
            self._tell({"failed": text, "code": code})
            self._leave(f"anchortrain: error: {text}", code)

    def _tell(self, message: dict) -> None:
        for connection in self._open.values():
            with contextlib.suppress(OSError):
                send(connection, message)

    def _name(self, number: int) -> str:
        return f"process {number} ({self._hosts[number]})"


def _probe_when_silent(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = SILENCE_SECONDS // (_PROBES + 1)
    for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", seconds), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
