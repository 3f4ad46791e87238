"""One harvest by a tiny run: what is written, how it continues, and what it says when it is too small."""

import json
import shutil

import numpy as np
import pytest

from anchortrain.checkpoint import load_run
from anchortrain.cli import main
from anchortrain.data.prepared import PreparedDataset
from anchortrain.data.records import read_instructions
from anchortrain.decode.sampler import resample_responses
from anchortrain.decode.settings import SamplingConfig
from anchortrain.errors import UserError
from anchortrain.rehearsal import checker as checkers
from anchortrain.rehearsal.checker import Verdict
from anchortrain.rehearsal.config import load
from anchortrain.rehearsal.harvest import harvest
from anchortrain.rehearsal.prompts import from_data

BINDINGS = [
    "RehearsalConfig.checkers = 'likelihood'",
    "RehearsalConfig.draws = 48",
    "RehearsalConfig.least = 4",
    "RehearsalConfig.batch_size = 32",
    "RehearsalConfig.max_annotation_tokens = 24",
    "RehearsalConfig.max_response_tokens = 32",
    "RehearsalConfig.likelihood_quantile = 0.5",
]


def settings(*more):
    return load([], [*BINDINGS, *more])


@pytest.fixture(scope="module")
def pools(data):
    return from_data({str(data.instructions): 1.0}, data.vocabulary.hash)


@pytest.fixture(scope="module")
def made(base, pools, tmp_path_factory):
    out = tmp_path_factory.mktemp("harvest") / "h"
    return out, harvest(base, pools, out, settings(), reference=str(base))


def test_what_is_written(made, data, base):
    out, figures = made
    assert json.loads((out / "harvest.json").read_text()) == figures
    kept = list(read_instructions([out / "records.jsonl"]))
    assert len(kept) == figures["records"] == figures["confirmed"] >= 4
    assert figures["drawn"] == 48 and figures["confirmed_at_once"] + sum(figures["rejected"].values()) == 48
    assert "likelihood: unlikely" in figures["rejected"]
    prepared = PreparedDataset(out / "prepared")
    assert [example.id for example in prepared] == [one.id for one in kept]
    assert prepared.manifest.tokens == figures["tokens"]["written"] > 0 < figures["tokens"]["generated"]
    for name in ("drawn", "written"):
        assert figures["entropy"][name]["bits"] >= 0 and figures["entropy"][name]["bits_se"] >= 0
    provenance = [json.loads(line)["provenance"] for line in (out / "records.jsonl").read_text().splitlines()]
    assert {one["run"] for one in provenance} == {str(base)} and {one["round"] for one in provenance} == {1}
    assert all(one["checkers"]["likelihood"] < 0 for one in provenance)
    # With "stratify" a rejected plan is written again.
    assert figures["retries"] > 0 and any(one["attempt"] for one in provenance)


def test_a_stopped_harvest_continues_to_the_same(made, base, pools, tmp_path):
    out, figures = made
    shutil.copytree(out, tmp_path / "h")
    for name in ("harvest.json", "records.jsonl"):
        (tmp_path / "h" / name).unlink()
    parts = sorted((tmp_path / "h" / "samples").iterdir())
    parts[-1].unlink()
    again = harvest(base, pools, tmp_path / "h", settings(), reference=str(base))
    assert {**again, "seconds": 0} == {**figures, "seconds": 0}
    assert (tmp_path / "h" / "records.jsonl").read_bytes() == (out / "records.jsonl").read_bytes()
    before = (tmp_path / "h" / "harvest.json").stat().st_mtime_ns
    harvest(base, pools, tmp_path / "h", settings(), reference=str(base))
    assert (tmp_path / "h" / "harvest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="was made with draws = 48, now it is 64"):
        harvest(base, pools, tmp_path / "h", settings("RehearsalConfig.draws = 64"), reference=str(base))


def test_a_small_harvest_says_why_and_goes_on_with_other_settings(made, base, pools, tmp_path):
    """None is drawn again: the samples of the first call are enough for the second."""
    shutil.copytree(made[0] / "samples", tmp_path / "h" / "samples")
    shutil.copy(made[0] / "begun.json", tmp_path / "h")
    strict = settings("RehearsalConfig.least_logprob = -1e-9", "RehearsalConfig.correction = 'none'")
    with pytest.raises(UserError) as error:
        harvest(base, pools, tmp_path / "h", strict, reference=str(base))
    assert "only 0 of 48 drawn plans were kept, at least 4 are needed" in str(error.value)
    assert "likelihood: unlikely; lower RehearsalConfig.likelihood_quantile" in str(error.value)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "h" / "samples").iterdir()}
    best = settings(
        "RehearsalConfig.least_logprob = -1e-9", "RehearsalConfig.correction = 'none'", "RehearsalConfig.best = 6"
    )
    figures = harvest(base, pools, tmp_path / "h", best, reference=str(base))
    assert figures["best"] == figures["records"] == 6 and figures["confirmed"] == 0
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


class OnlyFoxes:
    """A filter that narrows: it keeps few plans with another hero."""

    def check(self, rows):
        foxes = [["hero", "fox"] in row["annotation"] or row["index"] % 4 == 0 for row in rows]
        return [Verdict(fox, "" if fox else "no fox", None) for fox in foxes]

    def close(self):
        """Nothing to end."""


def test_reweighting_brings_the_distribution_back(monkeypatch, base, pools, tmp_path):
    monkeypatch.setattr(checkers, "_open", lambda *_: OnlyFoxes())
    more = ["RehearsalConfig.draws = 320", "RehearsalConfig.max_weight = 8.0"]
    raked = settings(*more, "RehearsalConfig.correction = 'reweight'")
    figures = harvest(base, pools, tmp_path / "h", raked, reference=str(base))
    written = [json.loads(line) for line in (tmp_path / "h" / "records.jsonl").read_text().splitlines()]
    drawn = [json.loads(line) for path in (tmp_path / "h" / "samples").iterdir() for line in path.open()]
    kept = [row for row, verdict in zip(drawn, OnlyFoxes().check(drawn), strict=True) if verdict.kept]

    def foxes(rows):
        return np.mean([["hero", "fox"] in row["annotation"] for row in rows])

    assert foxes(kept) - foxes(drawn) > 0.1
    assert abs(foxes(written) - foxes(drawn)) < 0.4 * (foxes(kept) - foxes(drawn))
    assert max(map(int, figures["copies"])) > 1
    assert len({one["id"] for one in written}) == len(written) == figures["records"]


def test_another_response_keeps_prompt_and_plan(made, base):
    loaded = load_run(base)
    rows = [json.loads(line) for line in next((made[0] / "samples").glob("*.jsonl")).read_text().splitlines()][:8]
    sampling = SamplingConfig(max_response_tokens=settings().rehearsal.max_response_tokens, batch_size=32)
    again = resample_responses(loaded.model, loaded.vocabulary, rows, sampling, indices=range(100, 108), seed=3)
    assert [row["annotation"] for row in again] == [row["annotation"] for row in rows]
    assert [row["index"] for row in again] == list(range(100, 108))
    assert all(row["annotation_wellformed"] for row in again)
    assert [row["response"] for row in again] != [row["response"] for row in rows]
    turned = resample_responses(
        loaded.model, loaded.vocabulary, rows[::-1], sampling, indices=range(107, 99, -1), seed=3
    )
    assert [row["response"] for row in turned[::-1]] == [row["response"] for row in again]


def test_commands_line(base, data, tmp_path, capsys):
    words = ["harvest", str(base), "--data", str(data.instructions), "--out", str(tmp_path / "h")]
    for binding in [*BINDINGS, f"RehearsalConfig.reference = {str(base)!r}"]:
        words += ["--gin_bindings", binding]
    assert main(words) == 0
    assert "records of 48 plans" in capsys.readouterr().out
    assert main(["harvest", str(base), "--out", str(tmp_path / "x"), "--prompts", "p", "--data", "d"]) == 2
