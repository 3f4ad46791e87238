"""Lambda is adapted so that the anchor's divergence stays near its target, in whole runs."""

import pytest

from anchortrain.metrics import read_metrics
from anchortrain.train import train
from tests.train.conftest import experiment

TARGET = 0.4
# The narrow annotations are trained on, so that loss and anchor pull in opposite directions to the end.
CONFLICT = [
    "LossConfig.objective = 'unmasked'",
    "LossConfig.anchor_rows = 8",
    "OptimizerConfig.schedule = 'constant'",
    "OptimizerConfig.learning_rate = 0.005",
    "EvaluateConfig.every_steps = 1000",
]


@pytest.mark.slow
@pytest.mark.parametrize("first, expected", [(0.1, "more"), (2.0, "less")])
def test_the_divergence_is_held_where_a_constant_lambda_misses_it(data, base, tmp_path, first, expected):
    drift, weights = {}, {}
    for target in (0.0, TARGET):
        more = [f"LossConfig.anchor_weight = {first}", f"LossConfig.anchor_target = {target}"]
        paths = {"init_from": base, "train": data.instructions, "anchor_data": data.draws}
        settings = experiment(*CONFLICT, *more, steps=100, heldout={"draws": data.heldout_draws}, **paths)
        run_dir = tmp_path / str(target)
        drift[target] = train(settings, run_dir)["heldout/draws/kl"]
        lines = read_metrics(run_dir / "metrics.jsonl")
        weights[target] = [line["train/anchor/weight"] for line in lines if "train/anchor/weight" in line]
    assert drift[0.0] > 2 * TARGET if expected == "more" else drift[0.0] < TARGET / 2
    assert TARGET / 2 < drift[TARGET] < 2 * TARGET
    assert weights[0.0] == pytest.approx([first] * 100) and len(weights[TARGET]) == 100
    assert weights[TARGET][-1] > 2 * first if expected == "more" else weights[TARGET][-1] < first / 2
