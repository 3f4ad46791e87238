"""Each benchmark runs at its smallest size and reports what it should; never how fast."""

import json

import jax
import pytest

from benchmarks import anchor, configurations, loader, matmul_peak, startup, train_step
from benchmarks.sizes import SIZES


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(benchmark, *arguments) -> the rows of the JSON, after a look at the table."""
    jax.devices()  # the tests' eight devices are for this process, but not for its children
    monkeypatch.delenv("XLA_FLAGS", raising=False)

    def run_benchmark(benchmark, *arguments: str) -> list[dict]:
        path = tmp_path / "report.json"
        benchmark.main([*arguments, "--json", str(path)])
        report = json.loads(path.read_text())
        table = capsys.readouterr().out
        assert report["benchmark"] in table and all(column.title in table for column in benchmark.COLUMNS)
        assert report["rows"] and report["machine"]["cpus"] > 0
        return report["rows"]

    return run_benchmark


def test_sizes_are_what_their_names_say():
    assert SIZES["9m"].parameters >= 9_000_000 and SIZES["40m"].parameters >= 40_000_000


def test_train_step(run, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(matmul_peak, "peak", lambda: 1e11)
    ours, theirs = run(train_step, "--sizes", "tiny", "--blocks", "2", "--block_seconds", "0.01")
    assert (ours["contestant"], theirs["contestant"]) == ("anchortrain", "torch eager")
    assert ours["times_slower"] == 1.0 and theirs["times_slower"] > 0 and 0 < ours["mfu"] < 1


def test_contestants_that_compute_different_losses_are_refused():
    with pytest.raises(RuntimeError, match="torch computes something else"):
        train_step.check_losses({"anchortrain": 2.0, "torch": 2.1})


def test_matmul_peak(run):
    pytest.importorskip("torch")
    (row,) = run(matmul_peak, "--sizes", "64", "--block_seconds", "0.001")
    assert row["size"] == 64 and min(row["jax_flops"], row["torch_flops"]) > 0


def test_anchor(run):
    rows = run(anchor, "--sizes", "tiny", "--blocks", "2", "--block_seconds", "0.01")
    assert [row["way"] for row in rows] == ["masked", "stored", "online"]
    assert rows[0]["times_masked"] == 1.0 and all(row["seconds_per_step"] > 0 for row in rows)


def test_loader(run, monkeypatch):
    monkeypatch.setattr(loader, "CASES", {"quick start": loader.Case(60, 150, 224, 5, 100)})
    (row,) = run(loader, "--seconds", "0.02")
    assert row["tokens_per_cpu_second"] > 0 and 0.5 < row["fill"] <= 1 and 0 <= row["waiting"] <= 1


@pytest.mark.slow
def test_startup(run):
    rows = run(startup, "--size", "tiny", "--repeats", "1")
    assert [row["cache"] for row in rows] == ["none", "warm"] and all(row["seconds"] > 0 for row in rows)


def test_the_page_of_configurations():
    runs = {*configurations.CONFIGURATIONS, *configurations.ANCHORS.values(), *configurations.PEERS.values()}
    figures = ("hbm_bytes", "hbm_limit_bytes", "flops_per_step", "step_seconds_roofline", "tokens_per_day", "days")
    record = dict.fromkeys((*figures, "temp_bytes", "argument_bytes"), 2e9) | {"chips": 4, "devices": 4}
    record |= {"mesh": {"fsdp": 4}, "mfu_roofline": 0.25}
    text = configurations.PAGE.read_text()
    made = configurations.page(text, dict.fromkeys(runs, record))
    assert made.count("25%") == len(configurations.CONFIGURATIONS) and made.count("2.00 GB | 2.00 GB") == 2
    assert made.count("\n") == text.count("\n")  # the page has every row already
    assert configurations.page(made, dict.fromkeys(runs, record)) == made
