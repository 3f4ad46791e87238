"""A run that was killed, at any moment, ends as if it had not been: metrics and parameters, bit for bit."""

import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from anchortrain.checkpoint import CHECKPOINTS, load_run
from anchortrain.metrics import read_metrics
from anchortrain.model.parameters import params_of
from tests.train.conftest import bindings, command

STEPS = 150


@pytest.fixture(scope="module")
def settings(data, base) -> list[str]:
    """Anchored post-training: two loaders, a reference, an adapted lambda, held-out sets of both kinds."""
    return bindings(
        "LossConfig.anchor_weight = 0.5",
        "LossConfig.anchor_target = 0.1",
        "LossConfig.syntax_share = 0.5",
        "RunConfig.accumulation = 2",
        "EvaluateConfig.every_steps = 40",
        "EvaluateConfig.batches = 1",
        steps=STEPS,
        train=data.instructions,
        anchor_data=data.draws,
        init_from=base,
        heldout={"text": data.instructions, "draws": data.heldout_draws},
    )


def start(run_dir: Path, settings: list[str], *, every: int) -> subprocess.Popen:
    """The same command each time, but for how often it saves."""
    cache = run_dir.parent.parent / "cache"
    return command(["--out", str(run_dir)], [*settings, f"CheckpointConfig.every_steps = {every}"], cache)


def lines_in(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(process: subprocess.Popen, condition) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.0005)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def kill_while_saving(run_dir: Path, settings: list[str]) -> list[str]:
    """Kills a run while a checkpoint is being written; returns what it had begun to write."""
    checkpoints = run_dir / CHECKPOINTS
    for _ in range(5):
        process = start(run_dir, settings, every=1)
        before = set(checkpoints.iterdir())
        wait_until(
            process, lambda before=before: any("tmp" in path.name for path in set(checkpoints.iterdir()) - before)
        )
        kill(process)
        if left := [path.name for path in checkpoints.iterdir() if "tmp" in path.name]:
            return left
    pytest.fail("no checkpoint was caught being written")


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    process = start(run_dir, settings, every=1000)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0 and "heldout/draws/kl " in stdout, stderr  # so TensorFlow was never imported
    return run_dir


@pytest.fixture(scope="module")
def killed(settings, whole, tmp_path_factory) -> SimpleNamespace:
    """A run killed while training, killed while saving, stopped by SIGTERM, and then left to finish."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    first = start(run_dir, settings, every=7)
    wait_until(first, lambda: lines_in(run_dir) >= 20)
    kill(first)
    lost = lines_in(run_dir)
    left = kill_while_saving(run_dir, settings)
    before = lines_in(run_dir)
    third = start(run_dir, settings, every=1000)
    wait_until(third, lambda: lines_in(run_dir) > before + 10)
    third.send_signal(signal.SIGTERM)
    stderr = third.communicate(timeout=300)[1]
    stopped_at = load_run(run_dir).step
    last = start(run_dir, settings, every=1000)
    assert last.wait(timeout=300) == 0, last.communicate()
    return SimpleNamespace(
        run_dir=run_dir,
        lost=lost,
        left=left,
        code=third.returncode,
        stderr=stderr,
        stopped_at=stopped_at,
    )


def without_times(run_dir: Path) -> list[dict]:
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def test_the_kills_hit_what_they_should(killed):
    assert 20 <= killed.lost < STEPS
    assert killed.left and all(name.partition(".")[0].isdigit() for name in killed.left)
    assert not [path for path in killed.run_dir.rglob("*") if "tmp" in path.name or "partial" in path.name]


def test_sigterm_saves_and_says_how_to_go_on(killed):
    assert killed.code == 130
    assert killed.stderr.splitlines()[-1] == (
        f"anchortrain: stopped after step {killed.stopped_at} of {STEPS}; the same command continues"
    )


def test_metrics_are_those_of_an_uninterrupted_run(killed, whole):
    expected = without_times(whole)
    assert [line["step"] for line in expected if "train/loss/text_term" in line] == list(range(1, STEPS + 1))
    assert without_times(killed.run_dir) == expected
    weights = [line["train/anchor/weight"] for line in expected if "train/anchor/weight" in line]
    assert len(weights) == STEPS == len(set(weights))  # adapted at every step


def test_parameters_are_those_of_an_uninterrupted_run(killed, whole):
    found, expected = load_run(killed.run_dir), load_run(whole)
    assert found.step == expected.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, params_of(found.model), params_of(expected.model))
