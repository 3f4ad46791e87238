"""A first meeting of a run's processes, in plain Python: whoever is missing or differs is named, and nobody hangs.

`jax.distributed.initialize` waits or aborts when a process is missing, without saying which. So process 0 listens here
first, each other process connects and sends one line of JSON about itself, and when all have come, or the time is
over, process 0 tells everyone the same verdict. The connections stay open: `peers` watches them while the run lasts.

    process i -> 0   {"anchortrain": 1, "id": 3, "host": "t1k-w3", "facts": {"jax": "0.10.2", …}}
    0 -> process i   {"wait": seconds until the verdict at the latest}
    0 -> process i   {"verdict": null or what is wrong, "hosts": ["t1k-w0", …]}

What comes from the network is only ever read as JSON of bounded size; a connection that sends anything else is closed.
"""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anchortrain.errors import UserError

_PROTOCOL = 1
_MOST_BYTES = 1 << 20  # of one line
_MOST_BRACKETS = 500  # in a line, those in strings included; ours has some ten
_HELLO_SECONDS = 10.0  # a connection that says nothing for so long is closed
_SAY_SECONDS = 30.0  # between two lines about who is waited for
_SLACK_SECONDS = 15.0  # by which a verdict may come later than announced

Say = Callable[[str], None]


class Member(NamedTuple):
    """One process, as it describes itself. Processes whose `facts` differ cannot train together."""

    id: int
    host: str
    facts: Mapping[str, str]


class Meeting(NamedTuple):
    """Everybody has come. Process 0 has a connection to every other one, these have one to it."""

    me: Member
    hosts: list[str]  # by process id
    connections: dict[int, socket.socket]  # by the process id of the other end


def receive(me: Member, count: int, port: int, timeout: float, say: Say) -> Meeting:
    """Process 0: waits on `port` for `count - 1` others, at most `timeout` seconds; they get the same verdict.

    Raises UserError naming who is missing or differs, or when the port cannot be had.
    """
    deadline = time.monotonic() + timeout
    with listen(port) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        guests: dict[socket.socket, _Guest] = {}
        told = time.monotonic()
        while _came(guests) < count - 1 and time.monotonic() < deadline:
            for key, _ in selector.select(min(1.0, max(0.0, deadline - time.monotonic()))):
                if key.fileobj is listener:
                    _accept(listener, selector, guests)
                elif not guests[key.fileobj].read(deadline):
                    _drop(key.fileobj, selector, guests)
            for connection in [c for c, guest in guests.items() if guest.overdue()]:
                _drop(connection, selector, guests)
            if time.monotonic() - told > _SAY_SECONDS:
                told = time.monotonic()
                say(f"waiting: {_missing([me, *_members(guests)], count)}")
    members = [me, *_members(guests)]
    problem = judge(members, count, timeout)
    verdict = {"verdict": problem, "hosts": [member.host for member in sorted(members, key=_id)]}
    for connection, guest in guests.items():
        if guest.member:
            with contextlib.suppress(OSError):  # who has gone meanwhile is noticed by those that watch
                send(connection, verdict)
        if problem or not guest.member:
            connection.close()
    if problem:
        raise UserError(problem)
    return Meeting(me, verdict["hosts"], {guest.member.id: c for c, guest in guests.items() if guest.member})


def join(me: Member, host: str, port: int, timeout: float, say: Say) -> Meeting:
    """Any other process: tells process 0 of itself and waits for the verdict.

    Raises UserError with the verdict, or when process 0 gives none.
    """
    deadline, told = time.monotonic() + timeout, time.monotonic()
    while True:
        try:
            return _ask(me, host, port)
        except (OSError, ValueError) as error:  # it may not have started yet
            reason = _reason(error)
        if time.monotonic() >= deadline:
            what = f"process 0 at {host}:{port} did not answer within {timeout:g} s: {reason}"
            raise UserError(what, mend="is it running, and does --coordinator name its host?")
        if time.monotonic() - told > _SAY_SECONDS:
            told = time.monotonic()
            say(f"waiting for process 0 at {host}:{port}: {reason}")
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def judge(members: Sequence[Member], count: int, timeout: float) -> str | None:
    """What keeps these processes from training together; None when nothing does."""
    by_id: dict[int, list[str]] = {}
    for member in members:
        by_id.setdefault(member.id, []).append(member.host)
    problems = [
        f"process id {i} was given to {len(hosts)} processes, on {', '.join(hosts)}"
        for i, hosts in sorted(by_id.items())
        if len(hosts) > 1
    ]
    if set(range(count)) - set(by_id):
        problems.append(f"{_missing(members, count)} (within {timeout:g} s)")
    names = dict.fromkeys(name for member in members for name in member.facts)
    problems += [differs for name in names if (differs := _difference(name, members))]
    return "; ".join(problems) or None


def _id(member: Member) -> int:
    return member.id


def _missing(members: Sequence[Member], count: int) -> str:
    came = {member.id: member.host for member in members}
    missing = ", ".join(str(i) for i in range(count) if i not in came)
    return (
        f"of {count} processes {missing} did not come, " + ", ".join(f"{i} ({came[i]})" for i in sorted(came)) + " did"
    )


def _difference(name: str, members: Sequence[Member]) -> str | None:
    values: dict[str, list[Member]] = {}
    for member in sorted(members, key=_id):
        values.setdefault(member.facts.get(name, "absent"), []).append(member)
    if len(values) == 1:
        return None
    parts = [f"{value} on {', '.join(f'{m.id} ({m.host})' for m in having)}" for value, having in values.items()]
    return f"processes differ in {name}: {' but '.join(parts)}"


# -- process 0 -----------------------------------------------------------------------------------


class _Guest:
    """A connection that may turn out to be one of our processes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.since = connection, time.monotonic()
        self.member: Member | None = None
        self._buffer = b""

    def read(self, deadline: float) -> bool:
        """Takes in what has come; False when the connection is of no use (any more)."""
        try:
            got = self.connection.recv(1 << 16)
            self._buffer += got
            if not got or self.member or len(self._buffer) > _MOST_BYTES:
                return False
            if b"\n" in self._buffer:
                self.member = _member(parse(self._buffer))
                send(self.connection, {"wait": max(0.0, deadline - time.monotonic())})
        except (OSError, ValueError):
            return False
        return True

    def overdue(self) -> bool:
        return self.member is None and time.monotonic() - self.since > _HELLO_SECONDS


def listen(port: int) -> socket.socket:
    """A socket on every interface. Raises UserError when the port cannot be had."""
    dual = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=1024
        )
    except (OSError, OverflowError) as error:
        what = f"process 0 cannot listen on port {port}: {_reason(error)}"
        mend = "does another run use it? choose other ports by --coordinator and --rendezvous_port"
        raise UserError(what, mend=mend) from None


def _accept(listener: socket.socket, selector: selectors.BaseSelector, guests: dict[socket.socket, _Guest]) -> None:
    with contextlib.suppress(OSError):  # it has gone again
        connection, _ = listener.accept()
        connection.settimeout(_HELLO_SECONDS)
        guests[connection] = _Guest(connection)
        selector.register(connection, selectors.EVENT_READ)


def _drop(connection: socket.socket, selector: selectors.BaseSelector, guests: dict[socket.socket, _Guest]) -> None:
    selector.unregister(connection)
    del guests[connection]
    connection.close()


def _members(guests: dict[socket.socket, _Guest]) -> list[Member]:
    return [guest.member for guest in guests.values() if guest.member]


def _came(guests: dict[socket.socket, _Guest]) -> int:
    return len(_members(guests))


def _member(hello: dict[str, Any]) -> Member:
    """Raises ValueError unless `hello` is of a process of this protocol."""
    number, host, facts = hello.get("id"), hello.get("host"), hello.get("facts")
    ours = hello.get("anchortrain") == _PROTOCOL and type(number) is int and isinstance(host, str)
    if not ours or not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise ValueError("not a process of anchortrain")
    return Member(number, host, facts)


# -- the others ----------------------------------------------------------------------------------


def _ask(me: Member, host: str, port: int) -> Meeting:
    connection = socket.create_connection((host, port), timeout=_HELLO_SECONDS)
    try:
        send(connection, {"anchortrain": _PROTOCOL} | me._asdict())
        wait = parse(_line(connection, _HELLO_SECONDS)).get("wait")
        if not isinstance(wait, int | float) or not 0 <= wait < 1e6:
            raise ValueError("what answers there is not process 0 of anchortrain")
        answer = parse(_line(connection, wait + _SLACK_SECONDS))
        if "verdict" not in answer or not isinstance(answer.get("hosts"), list):
            raise ValueError("what answers there is not process 0 of anchortrain")
        if answer["verdict"]:
            raise UserError(str(answer["verdict"]))
        return Meeting(me, [str(name) for name in answer["hosts"]], {0: connection})
    except BaseException:
        connection.close()
        raise


# -- lines of JSON -------------------------------------------------------------------------------


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """One line of JSON."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def _line(connection: socket.socket, timeout: float) -> bytes:
    """What comes up to the next newline, within `timeout` seconds; nothing of what follows is taken."""
    line, deadline = b"", time.monotonic() + timeout
    while not line.endswith(b"\n") and len(line) < _MOST_BYTES:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        got = connection.recv(1)
        if not got:
            break
        line += got
    return line


def parse(line: bytes) -> dict[str, Any]:
    """The object in a line. Raises ValueError when there is none."""
    # What a stranger nests deeply is not even tried: json.loads would recurse.
    nested = line.count(b"[") + line.count(b"{") > _MOST_BRACKETS
    try:
        value = None if nested else json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("it closed the connection" if not line else "what answers there is not anchortrain")
    return value


def _reason(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "no answer"
    return (getattr(error, "strerror", None) or str(error)).lower()
