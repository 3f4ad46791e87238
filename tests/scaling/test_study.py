"""A tiny study with real processes: stopped, killed, shared by two commands, one of its tasks broken and mended."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

SIZES = {"s": 16, "m": 32}
_MODEL = """
ModelConfig.d_model = {width}
ModelConfig.n_layers = 1
ModelConfig.n_heads = 2
ModelConfig.n_kv_heads = 2
ModelConfig.d_ff = 32
DataConfig.length = 224
DataConfig.batch_rows = 4
"""
_STUDY = """
StudyConfig.name = 'tiny'
StudyConfig.sizes = ['s']
StudyConfig.seeds = 1
StudyConfig.methods = {'sft': 'post.gin', 'kl': 'post.gin + anchor.gin'}
SourceConfig.documents = 200
SourceConfig.examples = 60
MeasureConfig.samples = 16
MeasureConfig.draws = 64
MeasureConfig.heldout_draws = 64
MeasureConfig.max_annotation_tokens = 40
MeasureConfig.max_response_tokens = 24
MeasureConfig.batch_size = 16
"""
# After so little training hardly any annotation closes; of 64 some do.


@pytest.fixture
def gin(tmp_path):
    directory = tmp_path / "gin"
    directory.mkdir()
    for size, width in SIZES.items():
        (directory / f"model_{size}.gin").write_text(_MODEL.format(width=width))
    (directory / "pretrain.gin").write_text("RunConfig.tokens = 60_000\nOptimizerConfig.name = 'muon'\n")
    (directory / "post.gin").write_text("RunConfig.tokens = 5_000\n")
    (directory / "anchor.gin").write_text("LossConfig.anchor_weight = 0.1\nLossConfig.anchor_rows = 2\n")
    (directory / "study.gin").write_text(_STUDY)
    return directory / "study.gin"


def _start(gin, out, *arguments):
    command = [sys.executable, "-m", "anchortrain", "scaling", "--gin_file", str(gin), "--out", str(out), *arguments]
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from anchortrain.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", script, *command[3:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)


def _workers(out):
    """Processes that hold a lock of the study."""
    held = [json.loads(path.read_text()) for path in (out / "locks").glob("*") if "." not in path.name]
    return [one["pid"] for one in held]


@pytest.mark.slow
def test_a_study_is_stopped_killed_shared_and_mended(gin, tmp_path):
    out = tmp_path / "out"
    process = _start(gin, out, "--workers", "1")
    _wait_for(lambda: (out / "data" / "s0" / "tokenizer.json").exists(), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert _workers(out) == [] and not (out / "data" / "s0" / "ready.json").exists()

    # Two commands share what is left, one task of which is broken; a worker is killed in the middle of a task.
    (gin.parent / "post.gin").write_text("RunConfig.tokens = 5_000\nOptimizerConfig.learning_rate = 1e30\n")
    first, second = _start(gin, out, "--workers", "1"), _start(gin, out, "--workers", "1")
    _wait_for(lambda: (out / "runs" / "s" / "s0" / "base" / "metrics.jsonl").exists(), first)
    os.kill(_workers(out)[0], signal.SIGKILL)
    codes = []
    for process in (first, second):
        _, errors = process.communicate(timeout=300)
        codes.append(process.returncode)
        assert "Traceback" not in errors
    assert codes == [2, 2], errors
    results = {path.parent.name for path in (out / "results").rglob("*.json")}
    assert results == {"base"}, errors
    assert "lower OptimizerConfig.learning_rate" in (out / "failed" / "train--s--s0--sft--n0.8_e60").read_text()

    # Mended and finished; what was made before is kept.
    (gin.parent / "post.gin").write_text("RunConfig.tokens = 5_000\n")
    before = (out / "runs" / "s" / "s0" / "base" / "finished.json").stat().st_mtime_ns
    for path in (out / "runs" / "s" / "s0").iterdir():
        if path.name in ("sft", "kl"):  # begun with a learning rate that is no longer asked for
            shutil.rmtree(path)
    process = _start(gin, out, "--workers", "2")
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (out / "runs" / "s" / "s0" / "base" / "finished.json").stat().st_mtime_ns == before
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["base", "sft", "kl"]
    assert all(row["n"] == 16 and row["flops"] > 0 and row["parameters"] == 2560 for row in rows)
    assert rows[2]["drift"] is not None and rows[1]["sft_nll"] > 0 and rows[0]["document_nll"] > 0
    assert json.loads((out / "study.json").read_text())["sizes"] == {"s": 2560}
    assert (out / "report" / "report.html").exists() and "left with 2 workers" in told

    # Once more: nothing is run, and --list says so.
    process = _start(gin, out)
    assert process.wait(timeout=60) == 0
    process = _start(gin, out, "--list")
    listed, errors = process.communicate(timeout=60)
    assert all(line.startswith("finished") for line in listed.splitlines()), listed
    assert "anchortrain train --gin_file" in listed and "tasks are finished" in errors


def test_a_worker_that_is_killed_costs_nothing_that_was_saved(gin, data, tmp_path):
    """On prepared data: nothing imports TensorFlow."""
    (gin.parent / "model_s.gin").write_text(
        _MODEL.format(width=16).replace("length = 224", "length = 64").replace("batch_rows = 4", "batch_rows = 8")
    )
    (gin.parent / "pretrain.gin").write_text(
        "RunConfig.tokens = 40_000\nOptimizerConfig.learning_rate = 0.02\nCheckpointConfig.every_steps = 20\n"
    )
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Tell"}\n')
    sets = {"pretrain": data.documents, "heldout": data.heldout, "sft": data.instructions}
    sets |= {"plain": data.documents, "plain_heldout": data.heldout, "sft_plain": data.plain}
    sets |= {"sft_heldout": data.instructions, "sft_plain_heldout": data.plain}
    prepared = {name: {str(path): 1.0} for name, path in sets.items()}
    with gin.open("a") as file:
        file.write(
            f"SourceConfig.prepared = {prepared!r}\nSourceConfig.prompts = {str(tmp_path / 'prompts.jsonl')!r}\n"
        )
    out = tmp_path / "out"
    process = _start(gin, out, "--workers", "1")
    base = out / "runs" / "s" / "s0" / "base"
    _wait_for(lambda: list((base / "checkpoints").glob("[0-9]*")) if base.exists() else False, process)
    os.kill(_workers(out)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "a worker ended with exit code -9" in errors
    assert len(errors.strip().splitlines()) == 1, errors
    process = _start(gin, out, "--workers", "1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["base", "sft", "kl"]
    assert rows[2]["drift"] < 20 and rows[2]["drift_se"] > 0 and rows[1]["drift"] is None
    assert rows[0]["text_bits"] is None and rows[2]["annotation_wellformed"] is not None


def test_mistakes_end_in_one_line_with_exit_code_2(gin, tmp_path):
    for arguments, words in (
        (["--workers", "0"], "--workers: must be at least 1"),
        (["--task", "train/s/s0/bass"], "did you mean 'train/s/s0/base'?"),
        (["--task", "train/s/s0/base"], "what it needs is not finished"),
        (["--gin_bindings", "StudyConfig.sizes = ['xl']"], "no such gin file"),
    ):
        process = _start(gin, tmp_path / "out", *arguments)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2 and len(errors.strip().splitlines()) == 1, errors
        assert words in errors
