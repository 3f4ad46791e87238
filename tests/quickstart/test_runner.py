"""Stages as processes: run once, told when they fail, stopped with the others."""

import time

import pytest

from anchortrain.errors import UserError
from anchortrain.quickstart.runner import Runner


def _runner(tmp_path):
    said = []
    return Runner(tmp_path, {"one": 1.0, "two": 3.0}, said.append), said


def test_a_stage_whose_output_exists_is_not_run_again(tmp_path):
    runner, said = _runner(tmp_path)
    output = tmp_path / "output"
    output.touch()
    assert runner.command("one", ["no-such-command"], output) == output
    assert not said and runner.ended == {"one"}


def test_a_failing_stage_gives_its_last_line_and_its_log(tmp_path):
    runner, _ = _runner(tmp_path)
    with pytest.raises(UserError, match=r"stage one failed with exit code 2: .*no-such-command.*one\.log"):
        runner.command("one", ["no-such-command"], tmp_path / "output")


def test_the_estimate_follows_the_costs(tmp_path):
    runner, said = _runner(tmp_path)
    assert runner.estimate() == "estimating the time left"
    runner.command("one", ["--version"], tmp_path / "output")
    assert "one: done" in said[0] and "left" in said[0]


def test_a_failing_track_stops_the_other(tmp_path):
    runner, _ = _runner(tmp_path)

    def slow():
        # The module run is `timeit`, which repeats a statement: a process that takes long and loads nothing.
        runner.command("one", ["-n", "1", "-r", "1", "import time; time.sleep(60)"], tmp_path / "x", module="timeit")

    def fails():
        while not runner.status():
            time.sleep(0.05)
        runner.command("two", ["no-such-command"], tmp_path / "y")

    started = time.monotonic()
    with pytest.raises(UserError, match="stage two failed"):
        runner.run_tracks([slow, fails], lambda: None)
    assert time.monotonic() - started < 30
