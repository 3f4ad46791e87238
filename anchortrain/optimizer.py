"""Learning-rate schedules and the optimizer."""

import jax
import optax

from anchortrain.config import OptimizerConfig

# Parameters that are tables or scales rather than matrices acting on hidden states: no weight decay, no Muon.
_NOT_MATRICES = ("norm", "embedding", "head")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then cosine, warm-up-stable-decay or constant."""
    peak, final = config.learning_rate, config.learning_rate * config.final_share
    warmup = max(1, round(config.warmup_share * steps))
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), final)
    parts, bounds = [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
    if config.schedule == "wsd":
        decay = max(1, round(config.decay_share * steps))
        parts.append(optax.linear_schedule(peak, final, decay))
        bounds.append(max(steps - decay, warmup))
    return optax.join_schedules(parts, bounds)


def _is_matrix(params: optax.Params) -> optax.Params:
    """A tree of booleans: which parameters are matrices acting on hidden states."""

    def matrix(path, leaf: jax.Array) -> bool:
        name = path[-1].key
        return leaf.ndim >= 2 and not any(part in name for part in _NOT_MATRICES)

    return jax.tree_util.tree_map_with_path(matrix, params)


def _decayed(params: optax.Params) -> optax.Params:
    """A tree of booleans: matrices and the head are decayed, norms and the embedding are not."""
    return jax.tree_util.tree_map_with_path(lambda path, matrix: matrix or path[-1].key == "head", _is_matrix(params))


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or Muon (Adam for tables and norms), on a dict of parameters."""
    schedule = make_schedule(config, steps)
    if config.name == "muon":
        # Stacked layers lead with their own axis: [layers, in, out].
        dims = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
        update = optax.contrib.muon(
            schedule,
            muon_weight_dimension_numbers=lambda params: jax.tree.map(
                lambda m: dims if m else None, _is_matrix(params)
            ),
            weight_decay=config.weight_decay,
            weight_decay_mask=_decayed,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            eps=config.eps,
            consistent_rms=0.2,  # updates the size of Adam's, so that both share a learning rate
        )
    else:
        update = optax.adamw(
            schedule, config.beta1, config.beta2, config.eps, weight_decay=config.weight_decay, mask=_decayed
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
