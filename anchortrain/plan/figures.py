"""From counted work to time: the roofline of a step on a slice, and what follows for a run. Imports nothing heavy."""

import math

from anchortrain.config import Experiment
from anchortrain.plan.costs import Costs
from anchortrain.plan.slices import Slice

SECONDS_PER_DAY = 86_400


def step_tokens(experiment: Experiment) -> int:
    """Tokens of a step, padding included; the anchor's rows are not counted."""
    return experiment.data.length * experiment.data.batch_rows


def run_steps(experiment: Experiment) -> int:
    """Steps of the whole run, as the trainer counts them."""
    return math.ceil(experiment.run.tokens / step_tokens(experiment))


def padded(vocabulary_size: int) -> int:
    """Rows of embedding and head, as `sharding.padded_vocabulary`, which imports JAX."""
    return -(-vocabulary_size // 128) * 128


def matrix_parameters(experiment: Experiment) -> int:
    """Parameters that every token is multiplied by: matrices of the layers and the head, not the embedding."""
    m = experiment.model
    head_dim = m.d_model // m.n_heads
    attention = 2 * m.d_model * m.n_heads * head_dim + 2 * m.d_model * m.n_kv_heads * head_dim
    return m.n_layers * (attention + 3 * m.d_model * m.d_ff) + m.d_model * padded(m.vocabulary_size)


def model_flops(experiment: Experiment) -> float:
    """FLOPs that one step needs on all devices, without anything computed twice.

    A token costs 2 a parameter forward and 4 backward; attention over the keys before it (half the row on average, as
    if each row were one document) 2 * length * d_model a layer forward and twice that backward. The rows of the anchor
    cost as much, and the reference's forward pass a third of it.
    """
    m, length = experiment.model, experiment.data.length
    forward = length * (2 * matrix_parameters(experiment) + 2 * m.n_layers * length * m.d_model)
    rows, anchored = experiment.data.batch_rows, 0
    if experiment.loss.anchor_weight:
        rows += experiment.loss.anchor_rows
        anchored = experiment.loss.anchor_rows * (experiment.loss.anchor_reference == "online")
    return float(forward) * (3 * rows + anchored)


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
