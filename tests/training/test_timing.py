"""Where the time goes: seconds of an interval add up, and goodput knows of what was lost."""

import json
import time

import pytest

from anchortrain.training.timing import GOODPUT_FILE, KINDS, Clock, account, read_goodput


def line(started: float, at: float, done: int, /, **seconds: float) -> dict:
    return {"started": started, "time": at, "step": done, "seconds": dict.fromkeys(KINDS, 0.0) | seconds}


KILLED = [
    line(100, 110, 0, init=10),
    line(100, 130, 4, init=10, step=18, checkpoint=2),
    line(100, 140, 6, init=10, step=28, checkpoint=2),
]
RESUMED = [line(150, 160, 4, init=5, restore=5), line(150, 170, 6, init=5, restore=5, step=10)]


def test_an_attempt_accounts_for_all_its_time():
    found = account(KILLED)
    assert found["init"] == 10 and found["step"] == 28 and found["lost"] == found["down"] == 0
    assert sum(found.values()) == 40


def test_steps_after_the_checkpoint_are_lost_and_so_is_the_time_between():
    found = account(KILLED + RESUMED)
    assert found["step"] == 18 + 10 and found["lost"] == 10 and found["down"] == 10 and found["init"] == 15
    assert sum(found.values()) == 70


def test_an_attempt_without_a_checkpoint_is_lost():
    found = account([*KILLED, line(150, 151, 0, init=1)])
    assert found["step"] == 0 and found["lost"] == 30 and found["init"] == 11


def test_the_seconds_of_an_interval_add_up(tmp_path):
    clock = Clock(tmp_path, started=time.time() - 2, tokens_per_step=10, flops_per_step=1.0, peak=100.0)
    with clock.spent("restore"):
        time.sleep(0.05)
    clock.begin(4)
    began = time.perf_counter()
    with clock.spent("compile"):
        time.sleep(0.05)
    with clock.spent("data"):
        time.sleep(0.05)
    time.sleep(0.1)
    clock.mark(5)
    with clock.spent("evaluate"):
        time.sleep(0.03)
    time.sleep(0.1)
    found = clock.mark(7)
    assert (
        found["time/evaluate"] == pytest.approx(0.03, rel=0.7) and found["time/data"] == 0 == found["time/data_share"]
    )
    assert found["time/seconds_per_step"] == pytest.approx(0.05, rel=0.5)
    assert found["time/tokens_per_second"] == pytest.approx(10 / found["time/seconds_per_step"])
    assert found["time/mfu"] == pytest.approx(0.01 / found["time/seconds_per_step"])
    total = clock.total()
    assert total["init"] == pytest.approx(1.95, abs=0.1) and total["restore"] == pytest.approx(0.05, rel=0.7)
    assert sum(total.values()) == pytest.approx(2 + time.perf_counter() - began, abs=0.1)
    assert found["time/goodput"] == pytest.approx(total["step"] / sum(total.values()))
    assert account(read_goodput(tmp_path / GOODPUT_FILE)) == pytest.approx(total)


def test_a_later_attempt_adds_to_the_earlier_ones(tmp_path):
    path = tmp_path / GOODPUT_FILE
    path.write_text("".join(json.dumps(one) + "\n" for one in KILLED) + '{"started": 100, "ti')
    clock = Clock(tmp_path, tokens_per_step=1)
    clock.begin(4)
    clock.note(6)
    total = clock.total()
    assert total["lost"] == 10 and total["down"] > 1e9  # since 1970
    assert len(read_goodput(path)) == len(KILLED) + 2 and path.read_text().count("\n") == len(KILLED) + 2


def test_who_does_not_write_leaves_no_file(tmp_path):
    clock = Clock(tmp_path, tokens_per_step=1, write=False)
    clock.begin(0)
    assert clock.mark(1)["time/goodput"] >= 0 and not list(tmp_path.iterdir())
