"""metrics.jsonl: a resumed run's file is an uninterrupted one's."""

import json
import math

import numpy as np
import pytest

from anchortrain.errors import UserError
from anchortrain.metrics import METRICS_FILE, TENSORBOARD_DIR, MetricsWriter, read_metrics


def write_steps(run_dir, steps, resume_step=0) -> None:
    with MetricsWriter(run_dir, resume_step=resume_step) as writer:
        for step in steps:
            writer.write(step, {"tokens": step * 8, "train/loss": 1 / step})


def test_one_json_object_a_line_and_tensorboard_beside_it(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"tokens": 8, "train/loss": np.float32(2.5)})
        # Readable at once, before the writer is closed.
        assert json.loads((tmp_path / METRICS_FILE).read_text()) == {"step": 1, "tokens": 8, "train/loss": 2.5}
    assert list((tmp_path / TENSORBOARD_DIR).glob("events.out.tfevents.*"))


def test_nan_and_infinities_become_null(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": np.float32("-inf"), "d": 0})
    line = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "a": None, "b": None, "c": None, "d": 0}


@pytest.mark.parametrize("torn", ["", '{"step": 7, "tok', '{"step": 7}', "\x00\x00", "12"])
def test_resumed_equals_uninterrupted(tmp_path, torn):
    write_steps(tmp_path / "whole", range(1, 10))
    write_steps(tmp_path / "killed", range(1, 7))
    with open(tmp_path / "killed" / METRICS_FILE, "a") as file:
        file.write(torn)
    write_steps(tmp_path / "killed", range(5, 10), resume_step=4)
    assert (tmp_path / "killed" / METRICS_FILE).read_bytes() == (tmp_path / "whole" / METRICS_FILE).read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_starting_over_drops_everything(tmp_path):
    write_steps(tmp_path, range(1, 7))
    write_steps(tmp_path, range(1, 3))
    assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [1, 2]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / METRICS_FILE
    path.write_text(path.read_text().replace('{"step": 2,', '{"step": 2;'))
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: is not a line of metrics"):
        MetricsWriter(tmp_path, resume_step=3)
    assert '{"step": 2;' in path.read_text()
