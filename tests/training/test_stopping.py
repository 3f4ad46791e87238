"""Signals while a run trains: asked for after a step, or handed on when it is too late for that."""

import signal

import pytest

from anchortrain.training.stopping import Stopped, StopSignals


@pytest.fixture(autouse=True)
def interruptible():
    """Both signals raise KeyboardInterrupt, as in a command that has more to do than one run."""
    before = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_stops_after_the_step(number):
    with pytest.raises(Stopped), StopSignals() as stop:
        assert not stop.reached(1)
        signal.raise_signal(number)
        assert stop.reached(2)
        raise Stopped
    assert signal.getsignal(number) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_after_the_last_step_is_not_lost(number):
    finished = []
    with pytest.raises(KeyboardInterrupt) as raised, StopSignals():
        signal.raise_signal(number)
        finished.append("checkpoint")
    assert finished and not isinstance(raised.value, Stopped)


def test_a_second_stops_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.reached(1)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")


def test_without_a_signal_nothing_happens():
    with StopSignals() as stop:
        assert not stop.reached(1)
