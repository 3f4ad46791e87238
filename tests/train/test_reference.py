"""The reference may be another run than the one that training starts from."""

import jax
import numpy as np
import pytest

from anchortrain.checkpoint import load_run
from anchortrain.metrics import read_metrics
from anchortrain.model.parameters import params_of
from anchortrain.train import Trainer, train
from tests.train.conftest import experiment

ANCHOR = ["LossConfig.anchor_weight = 1.0", "LossConfig.anchor_rows = 8"]


@pytest.fixture(scope="module")
def moved(data, base, tmp_path_factory):
    """A run that went on from the base without an anchor."""
    run_dir = tmp_path_factory.mktemp("moved") / "run"
    train(experiment("LossConfig.objective = 'unmasked'", steps=10, train=data.instructions, init_from=base), run_dir)
    return run_dir


def settings(data, *more: str, **paths):
    common = {"steps": 2, "train": data.instructions, "anchor_data": data.draws}
    return experiment(*ANCHOR, *more, **common, heldout={"draws": data.heldout_draws}, **paths)


def test_rounds_go_on_from_the_last_one_while_the_reference_stays(data, base, moved, tmp_path):
    trainer = Trainer(settings(data, init_from=moved, anchor_run=base), tmp_path / "run", None, None)
    for found, run_dir in ((trainer.initial, moved), (trainer.reference, base)):
        jax.tree.map(np.testing.assert_array_equal, found, params_of(load_run(run_dir).model))
    trainer.run()
    first = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert first["train/anchor/kl"] > 0.1  # the run had moved away from the reference before it began


def test_the_same_run_is_loaded_once(data, base, tmp_path):
    written_otherwise = base.parent / "." / ".." / base.parent.name / base.name
    trainer = Trainer(settings(data, init_from=base, anchor_run=written_otherwise), tmp_path / "run", None, None)
    assert trainer.reference is trainer.initial
    drift = trainer.run()["heldout/draws/kl"]
    assert drift == train(settings(data, init_from=base), tmp_path / "by default")["heldout/draws/kl"]


def test_a_reference_that_is_not_needed_is_not_loaded(data, base, moved, tmp_path):
    plain = experiment(steps=1, train=data.instructions, init_from=moved, anchor_run=base)
    assert Trainer(plain, tmp_path / "run", None, None).reference is None
