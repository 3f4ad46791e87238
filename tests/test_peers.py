"""When one process fails or vanishes, all end, and say which it was."""

import queue
import socket

import pytest

from anchortrain import peers
from anchortrain.peers import EXIT_PEER_LOST, Peers
from anchortrain.rendezvous import Meeting, Member

HOSTS = ["host0", "host1", "host2"]


@pytest.fixture
def three(monkeypatch):
    """Three processes' `Peers`, the sockets of each, and a queue of the (line, code) with which they end."""
    ended: queue.Queue = queue.Queue()

    def leave(line: str, code: int) -> None:
        ended.put((line, code))

    pairs = {i: socket.socketpair() for i in (1, 2)}
    monkeypatch.setattr(peers, "_probe_when_silent", lambda connection: None)  # these are no TCP
    found = [Peers(Meeting(Member(0, "host0", {}), HOSTS, {i: pair[0] for i, pair in pairs.items()}), leave)]
    found += [Peers(Meeting(Member(i, HOSTS[i], {}), HOSTS, {0: pair[1]}), leave) for i, pair in pairs.items()]
    yield found, pairs, ended
    for pair in pairs.values():
        for one in pair:
            one.close()


def test_an_error_is_told_to_all(three):
    found, _, ended = three
    found[2].fail("the disk is full", 2)
    line = "anchortrain: error: process 2 (host2): the disk is full"
    assert [ended.get(timeout=10) for _ in range(2)] == [(line, 2)] * 2  # processes 0 and 1


def test_a_death_is_told_to_all(three):
    found, pairs, ended = three
    pairs[1][1].shutdown(socket.SHUT_RDWR)
    text = "process 1 (host1) has ended unexpectedly; the same command continues"
    # Process 1 is alive here: it hears of itself, or sees process 0 vanish.
    ends = [ended.get(timeout=10) for _ in range(3)]
    assert ends.count((f"anchortrain: error: {text}", EXIT_PEER_LOST)) >= 2


def test_who_is_done_may_leave(three):
    found, pairs, ended = three
    for one in found:
        one.done()
    for pair in pairs.values():
        pair[1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(queue.Empty):
        ended.get(timeout=0.5)
