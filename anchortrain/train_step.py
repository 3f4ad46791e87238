"""The train state, the train step and the evaluation step.

One function of the batch is differentiated: `loss.loss_terms`. Its denominators are known from the
data before any forward pass, so gradients of microbatches add up to exactly the whole batch's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anchortrain import anchor_control
from anchortrain import loss as losses
from anchortrain.anchor_control import AnchorControl
from anchortrain.config import LossConfig, ModelConfig
from anchortrain.loss import Batch, Term, Terms
from anchortrain.model.parameters import Params, make_model, model_with, params_of
from anchortrain.model.transformer import LOGICAL_AXES, Transformer
from anchortrain.sharding import named, spec


class TrainState(NamedTuple):
    """What a step changes. `params` are float32; `optimizer` is optax's; `anchor` is None where lambda is constant."""

    params: Params
    optimizer: Any
    anchor: AnchorControl | None = None

    def items(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        return {name: part for name, part in self._asdict().items() if part is not None}


def abstract_state(shapes: Params, optimizer: optax.GradientTransformation, config: LossConfig) -> TrainState:
    """The shapes of a train state, of those of its parameters."""
    return jax.eval_shape(lambda p: TrainState(p, optimizer.init(p), anchor_control.initial(config)), shapes)


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, config: LossConfig, mesh: Mesh
) -> TrainState:
    """The state before the first step, on the mesh. It holds `params` themselves, which the step will donate."""
    shardings = state_shardings(mesh, abstract_state(params, optimizer, config))

    def rest(params: Params) -> tuple:
        return optimizer.init(params), anchor_control.initial(config)

    return TrainState(params, *jax.jit(rest, out_shardings=(shardings.optimizer, shardings.anchor))(params))


def param_shardings(mesh: Mesh, params: Params) -> Params:
    """Shardings by each parameter's name; the tree may hold arrays or their shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: named(mesh, LOGICAL_AXES[path[-1].key], leaf.shape), params
    )


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Optimizer moments lie as their parameters do; everything else is replicated."""
    by_shape_and_name = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        by_shape_and_name[path[-1].key, leaf.shape] = named(mesh, LOGICAL_AXES[path[-1].key], leaf.shape)

    def of(path, leaf) -> NamedSharding:
        name = getattr(path[-1], "key", None)
        return by_shape_and_name.get((name, leaf.shape), NamedSharding(mesh, PartitionSpec()))

    return jax.tree_util.tree_map_with_path(of, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes, tokens of a row over the sequence axis."""
    return NamedSharding(mesh, spec(("batch", "length")))


def init_params(config: ModelConfig, vocabulary_size: int, seed: int, mesh: Mesh) -> Params:
    """Freshly initialised parameters, made directly where they belong; the same on every mesh."""

    def init() -> Params:
        return params_of(make_model(config, vocabulary_size, seed))

    return jax.jit(init, out_shardings=param_shardings(mesh, jax.eval_shape(init)))()


def _microbatches(batch: Batch, accumulation: int) -> Batch:
    """[rows, …] to [accumulation, rows / accumulation, …]; each device keeps an equal share of every one."""

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // accumulation, accumulation, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def gradients(
    abstract: Transformer,
    params: Params,
    reference: Params | None,
    batch: Batch,
    config: LossConfig,
    accumulation: int = 1,
    anchor_weight: jax.Array | None = None,
) -> tuple[Params, Terms]:
    """The gradient of the objective over a whole batch, and the sums of its terms and metrics.

    `anchor_weight` is lambda where it is not the configuration's.
    """
    weights = losses.term_weights(batch)
    coefficients = losses.coefficients(config.anchor_weight if anchor_weight is None else anchor_weight)
    scale = {name: coefficients[name] / jnp.maximum(weight, 1.0) for name, weight in weights.items()}

    def objective(params: Params, part: Batch) -> tuple[jax.Array, Terms]:
        frozen = None if reference is None else model_with(abstract, reference)
        terms, metrics = losses.loss_terms(model_with(abstract, params), frozen, part, config)
        total = sum(scale[name] * term.sum for name, term in terms.items())
        return total, metrics | {f"loss/{name}_term": term for name, term in terms.items()}

    differentiate = jax.grad(objective, has_aux=True)
    if accumulation == 1:
        return differentiate(params, batch)

    def add(total: tuple, part: Batch) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, differentiate(params, part)), None

    parts = _microbatches(batch, accumulation)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(differentiate, params, first))
    return jax.lax.scan(add, zeros, parts)[0]


def make_train_step(
    mesh: Mesh,
    abstract: Transformer,
    optimizer: optax.GradientTransformation,
    config: LossConfig,
    accumulation: int = 1,
    compiler_options: dict[str, str] | None = None,
) -> Callable[[TrainState, Params | None, Batch], tuple[TrainState, Terms]]:
    """The compiled step (state, reference parameters, batch) -> (state, metrics). The state is donated.

    `compiler_options` are XLA's, such as `compiler.options` gives.
    """
    shardings = state_shardings(mesh, abstract_state(params_of(abstract), optimizer, config))

    def step(state: TrainState, reference: Params | None, batch: Batch) -> tuple[TrainState, Terms]:
        anchor = state.anchor
        weight = None if anchor is None else anchor.weight
        grads, metrics = gradients(abstract, state.params, reference, batch, config, accumulation, weight)
        updates, opt_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        if anchor is not None:
            anchor = anchor_control.adapted(anchor, *metrics["anchor/kl"], config)
        metrics = metrics | {"grad_norm": Term(optax.tree.norm(grads), jnp.ones(()))}
        if "anchor" in batch:
            used = jnp.float32(config.anchor_weight) if weight is None else weight
            metrics |= {"anchor/weight": Term(used, jnp.ones(()))}
        return TrainState(params, opt_state, anchor), metrics

    # Left to itself the compiler may lay the new state out otherwise, and the second step would compile again.
    out = shardings, NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=out, compiler_options=compiler_options)


def make_evaluate_step(abstract: Transformer) -> Callable[[Params, Batch], Terms]:
    """The compiled evaluation (parameters, batch) -> metrics by role."""

    def step(params: Params, batch: Batch) -> Terms:
        model = model_with(abstract, params)
        hidden = model.hidden(batch["inputs"], batch["positions"], batch["segment_ids"])
        text, metrics = losses.text_term(model, hidden, batch)
        return metrics | {"loss": text}

    return jax.jit(step)


def make_drift_step(abstract: Transformer) -> Callable[[Params, Params | None, Batch], Terms]:
    """The compiled `loss.drift_terms` (parameters, reference's or None, batch of draws) -> metrics."""

    def step(params: Params, reference: Params | None, batch: Batch) -> Terms:
        model = model_with(abstract, params)
        frozen = None if reference is None else model_with(abstract, reference)
        hidden = model.hidden(batch["inputs"], batch["positions"], batch["segment_ids"])
        return losses.drift_terms(model, hidden, frozen, batch)

    return jax.jit(step)
