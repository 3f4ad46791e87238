"""From counted work to time: the roofline of a step on a slice, and what follows for a run. Imports nothing heavy."""

import math

from anchortrain.config import Experiment
from anchortrain.flops import train_flops_per_token
from anchortrain.plan.costs import Costs
from anchortrain.plan.slices import Slice

SECONDS_PER_DAY = 86_400


def step_tokens(experiment: Experiment) -> int:
    """Tokens of a step, padding included; the anchor's rows are not counted."""
    return experiment.data.length * experiment.data.batch_rows


def run_steps(experiment: Experiment) -> int:
    """Steps of the whole run, as the trainer counts them."""
    return math.ceil(experiment.run.tokens / step_tokens(experiment))


def model_flops(experiment: Experiment) -> float:
    """FLOPs that one step needs on all devices, without anything computed twice.

    The rows of the anchor cost as much as others, and the reference's forward pass a third of it.
    """
    length = experiment.data.length
    row = length * train_flops_per_token(experiment.model, experiment.model.vocabulary_size, length)
    rows = float(experiment.data.batch_rows)
    if experiment.loss.anchor_weight:
        rows += experiment.loss.anchor_rows * (1 + experiment.loss.anchors_online / 3)
    return row * rows


def roofline(costs: Costs, where: Slice) -> dict[str, float]:
    """Seconds of one run of a program: of computing, of both networks, with and without overlap.

    Every instruction takes the longer of its FLOPs at peak and its bytes at full HBM bandwidth.
    """
    compute = sum(one.times * max(one.flops / where.peak_flops, one.bytes / where.hbm_bandwidth) for one in costs.work)
    ici, dcn = costs.ici_bytes / where.ici_bandwidth, costs.dcn_bytes / where.dcn_bandwidth
    return {
        "compute_seconds": compute,
        "ici_seconds": ici,
        "dcn_seconds": dcn,
        "overlapped_seconds": max(compute, ici, dcn),
        "serial_seconds": compute + ici + dcn,
    }


def run_figures(experiment: Experiment, where: Slice, step_seconds: float) -> dict[str, float]:
    """What a step's time means for the run."""
    return {
        "mfu_roofline": model_flops(experiment) / (step_seconds * where.peak_flops * where.devices),
        "tokens_per_day": step_tokens(experiment) / step_seconds * SECONDS_PER_DAY,
        "days": run_steps(experiment) * step_seconds / SECONDS_PER_DAY,
    }
