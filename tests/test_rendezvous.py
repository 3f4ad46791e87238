"""The first meeting: whoever is missing or differs is named to everyone, and no stranger disturbs it."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from anchortrain import rendezvous
from anchortrain.errors import UserError
from anchortrain.rendezvous import Meeting, Member, join, receive

FACTS = {"jax": "1", "DataConfig.length": "64"}


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0)) as one:
        return one.getsockname()[1]


def member(number: int, **facts: str) -> Member:
    return Member(number, f"host{number}", FACTS | facts)


def meet(port: int, members: list[Member], count: int, timeout: float = 20.0, delays: dict | None = None) -> list:
    """What each process gets, a Meeting or the text of its UserError."""

    def one(me: Member) -> Meeting | str:
        time.sleep((delays or {}).get(me.id, 0.0))
        try:
            if me.id == 0:
                return receive(me, count, port, timeout, print)
            return join(me, "127.0.0.1", port, timeout, print)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(one, members))


@pytest.mark.parametrize("late", [0, 2])
def test_all_come_in_whatever_order(port, late):
    meetings = meet(port, [member(i) for i in range(4)], 4, delays={late: 1.0})
    assert [meeting.hosts for meeting in meetings] == [["host0", "host1", "host2", "host3"]] * 4
    assert [set(meeting.connections) for meeting in meetings] == [{1, 2, 3}, {0}, {0}, {0}]
    # The connections go on: nothing of what follows the verdict was read.
    rendezvous.send(meetings[0].connections[2], {"done": True})
    assert rendezvous.parse(meetings[2].connections[0].recv(100)) == {"done": True}


def test_one_process_meets_itself(port):
    assert meet(port, [member(0)], 1)[0].hosts == ["host0"]


@pytest.mark.parametrize(
    "members, count, timeout, message",
    [
        ([member(0), member(2)], 4, 1.0, "of 4 processes 1, 3 did not come, 0 (host0), 2 (host2) did (within 1 s)"),
        (
            [member(0), member(1), member(2, jax="2")],
            3,
            20.0,
            "processes differ in jax: 1 on 0 (host0), 1 (host1) but 2 on 2 (host2)",
        ),
        (
            [member(0), member(1), member(1)._replace(host="other")],
            3,
            20.0,
            "process id 1 was given to 2 processes, on ",
        ),
        (
            [member(0), Member(1, "host1", {"jax": "1"})],
            2,
            20.0,
            "processes differ in DataConfig.length: 64 on 0 (host0) but absent on 1 (host1)",
        ),
    ],
    ids=["missing", "versions", "duplicate", "older"],
)
def test_everyone_gets_the_same_verdict(port, members, count, timeout, message):
    started = time.monotonic()
    said = meet(port, members, count, timeout)
    assert len(set(said)) == 1 and message in said[0] and "\n" not in said[0]
    assert time.monotonic() - started < 10


def test_who_came_early_waits_as_long_as_process_0_does(port):
    """Its own time is over first, but by then it has been told when the verdict will be."""
    said = []

    def early() -> None:
        with pytest.raises(UserError) as caught:
            join(member(1), "127.0.0.1", port, 1.0, print)
        said.append(str(caught.value))

    thread = threading.Thread(target=early)
    thread.start()
    assert "1 s" not in meet(port, [member(0)], 3, 2.5)[0]
    thread.join()
    assert said == ["of 3 processes 2 did not come, 0 (host0), 1 (host1) did (within 2.5 s)"]


@pytest.mark.parametrize(
    "host, reason", [("127.0.0.1", "connection refused"), ("no-such-host.invalid", "the name cannot be resolved")]
)
def test_process_0_does_not_come(port, host, reason):
    with pytest.raises(UserError) as caught:
        join(member(1), host, port, 1.0, print)
    assert f"process 0 at {host}:{port} did not answer within 1 s: {reason}; is it running" in str(caught.value)


def test_somebody_else_answers(port):
    with socket.create_server(("127.0.0.1", port)) as stranger:

        def answer() -> None:
            while True:
                try:
                    connection, _ = stranger.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError, match="did not answer within 1 s: what answers there is not anchortrain"):
            join(member(1), "127.0.0.1", port, 1.0, print)
        stranger.shutdown(socket.SHUT_RDWR)


def test_the_port_is_in_use(port):
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True):
        with pytest.raises(UserError, match=rf"process 0 cannot listen on port {port}: .*in use.*choose other ports"):
            receive(member(0), 2, port, 5.0, print)


GARBAGE = [
    b"",
    b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x80\x04\x95\n",
    b"[" * 100_000 + b"\n",
    b'{"anchortrain": 1, "id": true, "host": "x", "facts": {}}\n',
    b'{"anchortrain": 1, "id": 1, "host": "x", "facts": {"jax": {}}}\n',
    json.dumps({"anchortrain": 2, "id": 1, "host": "x", "facts": {}}).encode() + b"\n",
    b"x" * (2 << 20),
]


def test_strangers_are_sent_away_and_the_meeting_goes_on(port):
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(meet, port, [member(0)], 2)
        silent = None
        for garbage in GARBAGE:
            while True:
                try:
                    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            silent = connection if not garbage else silent
            try:
                connection.sendall(garbage)
            except OSError:
                continue  # sent away while it was still talking
            if garbage:
                with pytest.raises((ConnectionError, StopIteration)):
                    assert connection.recv(100) == b""
                    raise StopIteration
        assert not zero.done()
        one = pool.submit(meet, port, [member(1)], 2)
        assert one.result()[0].hosts == zero.result()[0].hosts == ["host0", "host1"]
        assert silent.recv(100) == b""


def test_who_comes_and_goes_is_missing(port):
    with ThreadPoolExecutor(1) as pool:
        zero = pool.submit(meet, port, [member(0)], 3, 1.5)
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            rendezvous.send(connection, {"anchortrain": 1} | member(1)._asdict())
            assert "wait" in rendezvous.parse(connection.recv(1000))
        assert "of 3 processes 1, 2 did not come, 0 (host0) did" in zero.result()[0]
