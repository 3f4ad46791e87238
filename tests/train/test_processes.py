"""Several processes train one run as one process does; what goes wrong on one of them ends them all, in one line."""

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from anchortrain.checkpoint import CHECKPOINTS, FINISHED, load_run
from anchortrain.metrics import read_metrics
from anchortrain.peers import EXIT_PEER_LOST
from anchortrain.train import Stopped, StopSignals, train
from anchortrain.training.timing import GOODPUT_FILE, account, read_goodput
from tests.train.conftest import bindings, command, experiment

STEPS = 64  # enough that a kill after the eighth comes before the last
SECONDS = 240  # for a start on a busy machine
HOST = socket.gethostname()


def free_port() -> int:
    """One of which the next is free, too."""
    while True:
        with socket.create_server(("", 0)) as one:
            port = one.getsockname()[1]
            try:
                socket.create_server(("", port + 1)).close()
                return port
            except OSError:
                continue


class Pod:
    """Processes of one run on loopback; `each` holds what differs: `out`, `devices`, `cwd`, `more` settings."""

    def __init__(self, run_dir: Path, settings: list[str], cache: Path, each: list[dict], *, count: int = 0) -> None:
        port = free_port()
        self.processes: list[subprocess.Popen] = []
        for i, one in enumerate(each):
            place, devices, extra = one.get("out", run_dir), one.get("devices", 1), one.get("more", [])
            who = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count or len(each)), "--process_id", str(i)]
            options = ["--out", str(place), "--timeout", str(one.get("timeout", 120)), *who]
            self.processes.append(command(options, [*settings, *extra], cache, devices=devices, cwd=one.get("cwd")))

    def end(self) -> tuple[list[int], list[str]]:
        """Exit codes and the last lines on stderr."""
        try:
            said = [process.communicate(timeout=SECONDS)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        print(*said, sep="\n---\n")
        return [process.returncode for process in self.processes], [text.strip().split("\n")[-1] for text in said]

    def wait_until(self, condition) -> None:
        while not condition():
            assert all(process.poll() is None for process in self.processes), self.end()
            time.sleep(0.001)


def common(data, every: int = 1000, steps: int = STEPS) -> dict:
    return {"steps": steps, "train": data.documents, "heldout": {"documents": data.heldout}}, (
        "EvaluateConfig.every_steps = 6",
        "EvaluateConfig.batches = 1",
        f"CheckpointConfig.every_steps = {every}",
    )


def settings(data, *more: str, every: int = 1000, steps: int = STEPS) -> list[str]:
    paths, own = common(data, every, steps)
    return bindings(*own, *more, **paths)


def losses(run_dir: Path) -> dict[tuple[int, str], float]:
    lines = read_metrics(run_dir / "metrics.jsonl")
    return {(line["step"], name): value for line in lines for name, value in line.items() if "/loss" in name}


def assert_same(run_dir: Path, other: Path) -> None:
    found, expected = losses(run_dir), losses(other)
    assert found.keys() == expected.keys() and len(found) > STEPS
    # Sums in another order differ in their last bits, and training makes that grow: 1.7e-4 with jax 0.12.
    np.testing.assert_allclose([found[k] for k in expected], list(expected.values()), rtol=5e-4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """The run as one process makes it."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    paths, own = common(data)
    train(experiment(*own, **paths), run_dir)
    return run_dir


@pytest.mark.parametrize(
    "count, devices, mesh",
    [
        pytest.param(2, 1, ["MeshConfig.fsdp = 2"], marks=pytest.mark.slow),
        # Processes that hold the same rows.
        (4, 1, ["MeshConfig.fsdp = 2", "MeshConfig.tensor = 2"]),
    ],
)
def test_many_processes_are_one_run(data, cache, alone, tmp_path, count, devices, mesh):
    codes, said = Pod(tmp_path / "run", settings(data, *mesh), cache, [{"devices": devices}] * count).end()
    assert codes == [0] * count and said[0] == f"run: {tmp_path}/run"
    assert_same(tmp_path / "run", alone)


def test_a_run_goes_on_elsewhere_and_back_and_a_death_ends_all(data, cache, alone, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    paths, own = common(data)
    here = experiment(*own, **paths)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="stopped after step 5 of 64"):
        patch.setattr(StopSignals, "reached", lambda self, step: step == 5)
        train(here, run_dir)
    mesh = ["MeshConfig.fsdp = 2", "MeshConfig.tensor = 2"]
    pod = Pod(run_dir, settings(data, *mesh, every=8), cache, [{"devices": 2}] * 2)
    pod.wait_until(lambda: (run_dir / CHECKPOINTS / "8").exists())
    pod.processes[1].kill()
    killed = time.monotonic()
    (code, _), (said, _) = pod.end()
    assert code == EXIT_PEER_LOST and time.monotonic() - killed < 20
    assert said == f"anchortrain: error: process 1 ({HOST}) has ended unexpectedly; the same command continues"
    assert load_run(run_dir).step in range(8, STEPS, 8)
    train(here, run_dir)
    assert_same(run_dir, alone)
    seconds = account(read_goodput(run_dir / GOODPUT_FILE))
    assert all(seconds[kind] > 0 for kind in ("init", "restore", "compile", "data", "step", "checkpoint", "down"))
    finished = json.loads((run_dir / FINISHED).read_text())
    assert finished["seconds"] == pytest.approx(seconds) and 0 < finished["goodput"] < 0.5


def test_signals_to_any_stop_all_after_the_same_step(data, cache, tmp_path):
    run_dir = tmp_path / "run"
    pod = Pod(run_dir, settings(data, steps=100_000), cache, [{}, {}])
    pod.wait_until(lambda: (run_dir / "metrics.jsonl").exists() and (run_dir / "metrics.jsonl").stat().st_size)
    pod.processes[1].send_signal(signal.SIGTERM)
    pod.processes[0].send_signal(signal.SIGINT)
    codes, said = pod.end()
    step = load_run(run_dir).step
    assert codes == [130, 130]
    assert set(said) == {f"anchortrain: stopped after step {step} of 100000; the same command continues"}


def test_a_directory_that_is_not_shared(data, cache, tmp_path):
    codes, said = Pod(tmp_path, settings(data), cache, [{"out": tmp_path / "a"}, {"out": tmp_path / "b"}]).end()
    assert codes == [2, 2] and not list(tmp_path.iterdir())
    for name, line in zip("ab", said, strict=True):
        assert line == (
            f"anchortrain: error: {tmp_path / name}: what process 0 writes there is not seen by process 1; "
            "give --out a directory that all hosts share"
        )


def test_a_mistake_on_one_process_ends_the_others(data, cache, tmp_path):
    relative = bindings(steps=STEPS, train=data.documents.name)
    each = [{"cwd": data.documents.parent}, {"cwd": tmp_path}]
    codes, said = Pod(tmp_path / "run", relative, cache, each).end()
    line = "documents: no such directory; make it with `anchortrain prepare`"
    assert codes == [2, 2] and not list(tmp_path.iterdir())
    assert said == [f"anchortrain: error: process 1 ({HOST}): {line}", f"anchortrain: error: {line}"]


@pytest.mark.parametrize(
    "each, count, message",
    [
        (
            [{"timeout": 10}, {"timeout": 10}],
            3,
            f"of 3 processes 2 did not come, 0 ({HOST}), 1 ({HOST}) did (within 10 s)",
        ),
        (
            [{}, {"more": ["OptimizerConfig.beta1 = 0.5"]}],
            2,
            f"processes differ in OptimizerConfig.beta1: 0.9 on 0 ({HOST}) but 0.5 on 1 ({HOST})",
        ),
        ([{}, {"devices": 2}], 2, "processes differ in local devices: 1 on 0 but 2 on 1"),
    ],
    ids=["missing", "configuration", "devices"],
)
def test_processes_that_cannot_train_together(data, cache, tmp_path, each, count, message):
    codes, said = Pod(tmp_path / "run", settings(data), cache, each, count=count).end()
    assert codes == [2] * len(each) and set(said) == {f"anchortrain: error: {message}"}
