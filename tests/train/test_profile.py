"""`--profile_steps` leaves a trace of just these steps that XProf and TensorBoard open."""

import gzip
import json

import pytest

from anchortrain.cli import main
from anchortrain.errors import UserError
from anchortrain.metrics import read_metrics
from anchortrain.train import train
from anchortrain.training.profiling import parse_steps
from tests.train.conftest import experiment


def test_a_trace_of_two_steps(data, tmp_path):
    train(experiment(steps=5, train=data.documents), tmp_path / "run", profile_steps=(2, 3))
    (directory,) = (tmp_path / "run" / "profile" / "plugins" / "profile").iterdir()
    (xplane,) = directory.glob("*.xplane.pb")
    assert xplane.stat().st_size > 1000
    (trace,) = directory.glob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {event["args"]["step_num"] for event in events if event.get("name") == "train"} == {"2", "3"}
    line = read_metrics(tmp_path / "run" / "metrics.jsonl")[1]
    assert line.keys() >= {f"time/{name}" for name in ("data", "step", "checkpoint", "evaluate", "data_share")}
    assert line.keys() >= {"time/tokens_per_second", "time/goodput"} and "time/mfu" not in line  # a CPU


@pytest.mark.parametrize("text", ["3", "a:b", "0:3", "4:3", "1:2:3", "-1:2", "1:²", ""])
def test_not_a_range(text, tmp_path, capsys):
    if text:
        assert (
            main(["train", f"--profile_steps={text}", "--out", str(tmp_path), "--gin_bindings", "RunConfig.seed=1"])
            == 2
        )
        assert f"--profile_steps: must be FIRST:LAST with 1 <= FIRST <= LAST, got {text!r}" in capsys.readouterr().err
    with pytest.raises(UserError):
        parse_steps(text)


def test_steps_that_will_not_be_run(data, tmp_path):
    with pytest.raises(UserError, match="--profile_steps: 2:6 is not within the steps that are left, 1:5"):
        train(experiment(steps=5, train=data.documents), tmp_path / "run", profile_steps=(2, 6))
