"""Rounds: what each trains on, from where and anchored to what; resuming; without the anchor."""

import json

import pytest

from anchortrain import experiment as experiments
from anchortrain.checkpoint import last_round, load_run
from anchortrain.errors import UserError
from anchortrain.rehearsal import rounds
from anchortrain.rehearsal.config import load
from anchortrain.rehearsal.harvest import harvest
from anchortrain.rehearsal.rounds import lines, rehearse
from anchortrain.rehearsal.shortage import Shortage
from tests.rehearsal.test_harvest import BINDINGS
from tests.train.conftest import bindings


def settings(data, base, *more, anchor=True):
    anchored = (
        [
            "LossConfig.anchor_weight = 0.1",
            "LossConfig.anchor_rows = 8",
            f"LossConfig.anchor_data = {str(data.draws)!r}",
        ]
        if anchor
        else []
    )
    paths = {"train": data.instructions, "init_from": base}
    small = ["RehearsalConfig.tokens = 2000", "RehearsalConfig.draws = 32", "RehearsalConfig.retries = 1"]
    bound = dict(one.split(" = ", 1) for one in [*BINDINGS, *small, *anchored, *more])
    return load([], [*bindings(steps=20, **paths), *(f"{name} = {value}" for name, value in bound.items())])


@pytest.fixture(scope="module")
def done(data, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal") / "r"
    return out, rehearse(settings(data, base, "RehearsalConfig.learning_rate = 0.01"), out)


def test_a_round_goes_on_from_the_one_before_under_the_same_anchor(done, data, base):
    out, whole = done
    first, second = (experiments.load_json(out / name / "config.json") for name in ("round_0", "round_1"))
    assert first.run.init_from == str(base) and second.run.init_from == str(out / "round_0")
    assert second.loss.anchor_run == str(base) and first.loss.anchor_run == ""
    assert second.data.train == {str(data.instructions): 0.5, str(out / "harvest_1" / "prepared"): 0.5}
    assert second.run.tokens == 2000 and second.optimizer.learning_rate == 0.01 and second.data.seed != first.data.seed
    assert json.loads((out / "rehearsal.json").read_text()) == whole
    assert [one["round"] for one in whole["rounds"]] == [0, 1]
    assert whole["rounds"][1]["harvest"]["tokens"]["generated"] > 0
    assert whole["rounds"][1]["trained_tokens"] >= 2000
    assert "records of 32 plans" in lines(whole)[1]


def test_finished_ones_return_at_once_and_go_on_for_more_rounds(done, data, base, tmp_path):
    out, whole = done
    rate = "RehearsalConfig.learning_rate = 0.01"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert rehearse(settings(data, base, rate), out) == whole
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UserError, match="was made with rehearsal.share = 0.5, now it is 0.4"):
        rehearse(settings(data, base, rate, "RehearsalConfig.share = 0.4"), out)
    more = rehearse(settings(data, base, rate, "RehearsalConfig.rounds = 2"), out)
    assert [one["round"] for one in more["rounds"]] == [0, 1, 2] and more["rounds"][:2] == whole["rounds"]
    last = experiments.load_json(out / "round_2" / "config.json")
    assert last.loss.anchor_run == str(base) and last.run.init_from == str(out / "round_1")
    shares = {path.removeprefix(str(out)): share for path, share in last.data.train.items()}
    harvests = [shares["/harvest_1/prepared"], shares["/harvest_2/prepared"]]
    assert sum(harvests) == pytest.approx(0.5) and min(harvests) > 0.1


def test_it_starts_from_a_finished_run_and_works_without_the_anchor(data, base, tmp_path):
    config = settings(data, base, f"RehearsalConfig.start = {str(base)!r}", anchor=False)
    whole = rehearse(config, tmp_path / "r")
    assert whole["rounds"][0]["run"] == str(base) and not (tmp_path / "r" / "round_0").exists()
    assert experiments.load_json(tmp_path / "r" / "round_1" / "config.json").loss.anchor_run == str(base)


def test_what_cannot_work_is_said_before_anything_is_trained(data, base, tmp_path):
    missing = settings(data, base, "RehearsalConfig.checkers = 'story_parser'", "RehearsalConfig.world = 'nowhere'")
    with pytest.raises(UserError, match="nowhere: cannot read the story world"):
        rehearse(missing, tmp_path / "r")
    with pytest.raises(UserError, match="is no finished run"):
        rehearse(settings(data, base, f"RehearsalConfig.start = {str(tmp_path)!r}"), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_later_harvest_that_is_too_small_is_an_error_or_the_end(done, data, base, monkeypatch):
    out, first = done
    (out / "rehearsal.json").unlink()  # of other rounds than those below

    def short(*args, round, **kwargs):
        if round == 2:
            raise Shortage("only 3 of 32 drawn plans were kept", where=str(args[2]))
        return harvest(*args, round=round, **kwargs)

    monkeypatch.setattr(rounds, "harvest", short)
    more = ("RehearsalConfig.learning_rate = 0.01", "RehearsalConfig.rounds = 3")
    with pytest.raises(UserError, match="only 3 of 32"):
        rehearse(settings(data, base, *more), out)
    assert not (out / "rehearsal.json").exists()
    whole = rehearse(settings(data, base, *more, "RehearsalConfig.on_shortage = 'stop'"), out)
    assert whole["rounds"] == first["rounds"] and "only 3 of 32" in whole["stopped"]
    assert lines(whole)[-1].startswith("stopped before round 2: ")
    # What is sampled is its last round.
    assert last_round(out) == out / "round_1" and last_round(base) == base
    assert load_run(out).info == load_run(out / "round_1").info
