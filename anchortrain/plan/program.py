"""The programs of a run, compiled for devices that need not be there.

Arguments are shapes with shardings; no array is made and no data read.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anchortrain.config import Experiment, padded_vocabulary
from anchortrain.decode.loop import Rows, Tables, generate
from anchortrain.decode.settings import SamplingConfig
from anchortrain.errors import UserError
from anchortrain.model.parameters import abstract_model, model_with, params_of
from anchortrain.optimizer import make_optimizer
from anchortrain.plan.figures import run_steps
from anchortrain.sharding import check_fits, make_mesh, spec
from anchortrain.train_step import abstract_state, batch_sharding, make_train_step, param_shardings, state_shardings

# See `data.packing`.
_BATCH_FIELDS = {
    "inputs": jnp.int32,
    "targets": jnp.int32,
    "input_roles": jnp.uint8,
    "target_roles": jnp.uint8,
    "loss_weights": jnp.float32,
    "anchor_positions": jnp.float32,
    "segment_ids": jnp.int32,
    "positions": jnp.int32,
}
_STORED_FIELDS = {"reference_ids": jnp.int32, "reference_log_probs": jnp.float32}

# Tokens of each stored distribution: the default of `anchortrain draw --top_k`.
_STORED_TOKENS = 32

# States of the sampler's grammar: a typical schema of ten keys. Its tables are small beside the parameters.
_GRAMMAR_STATES = 64
_PROMPT_SLOTS = 128


class Program(NamedTuple):
    """A program with its arguments in place, and what kinds of arguments those are, in bytes per device."""

    lowered: jax.stages.Lowered
    argument_bytes: dict[str, int]
    sizes: dict[str, int]  # of the batch


def mesh_of(experiment: Experiment, devices: Sequence[Any]) -> Mesh:
    """The run's mesh. Raises UserError where it does not suit the devices, or the model and its batches."""
    try:
        mesh = make_mesh(experiment.mesh, devices)
    except (NotImplementedError, ValueError) as error:  # what jax raises for a shape that its layout cannot place
        sizes = {f.name: getattr(experiment.mesh, f.name) for f in dataclasses.fields(experiment.mesh)}
        what = f"the mesh {sizes} cannot be laid out on the interconnect: {str(error).splitlines()[0]}"
        raise UserError(what, where="MeshConfig", mend="use powers of two") from None
    check_fits(mesh, experiment)
    return mesh


def abstract_batch(experiment: Experiment, mesh: Mesh) -> dict[str, Any]:
    """The arrays of one step's batch, with the anchor's rows where there are any."""
    sharding, length = batch_sharding(mesh), experiment.data.length

    def rows(count: int, fields: dict[str, Any], *more: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct((count, length, *more), dtype, sharding=sharding)
            for name, dtype in fields.items()
        }

    batch: dict[str, Any] = rows(experiment.data.batch_rows, _BATCH_FIELDS)
    loss = experiment.loss
    if loss.anchor_weight:
        batch["anchor"] = rows(loss.anchor_rows, _BATCH_FIELDS)
        if loss.anchor_reference == "stored":
            batch["anchor"] |= rows(loss.anchor_rows, _STORED_FIELDS, _STORED_TOKENS)
    return batch


def train_program(experiment: Experiment, mesh: Mesh) -> Program:
    """The train step, exactly as the trainer makes it."""
    model = abstract_model(experiment.model, experiment.model.vocabulary_size)
    optimizer = make_optimizer(experiment.optimizer, run_steps(experiment))
    shapes = params_of(model)
    state = abstract_state(shapes, optimizer, experiment.loss)
    state = _placed(state, state_shardings(mesh, state))
    reference = state.params if experiment.loss.anchors_online else None
    batch = abstract_batch(experiment, mesh)
    with jax.set_mesh(mesh):
        step = make_train_step(mesh, model, optimizer, experiment.loss, experiment.run.accumulation)
        lowered = step.lower(state, reference, batch)
    kinds = {"parameters": state.params, "optimizer": state.optimizer, "reference": reference, "batch": batch}
    sizes = {"rows": experiment.data.batch_rows, "length": experiment.data.length}
    return Program(lowered, {kind: _bytes(tree) for kind, tree in kinds.items()}, sizes)


def sampler_program(experiment: Experiment, mesh: Mesh) -> Program:
    """The sampler's loop on the same mesh: as many samples at once as the batch has rows."""
    model = abstract_model(experiment.model, experiment.model.vocabulary_size)
    shapes = params_of(model)
    params = _placed(shapes, param_shardings(mesh, shapes))
    settings = SamplingConfig()
    prompt = min(_PROMPT_SLOTS, max(2, experiment.data.length // 4))
    steps = min(settings.max_annotation_tokens + settings.max_response_tokens, experiment.data.length - prompt)
    # Rows alone are spread: a prompt is short, and the rest has one number or two a row.
    by_row = NamedSharding(mesh, spec(("batch",)))
    rows = _abstract_rows(experiment.data.batch_rows, prompt, by_row)
    tables = _abstract_tables(padded_vocabulary(experiment.model.vocabulary_size), NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        lowered = generate.lower(model_with(model, params), tables, rows, steps=steps)
    return Program(
        lowered,
        {"parameters": _bytes(params), "batch": _bytes(rows), "grammar": _bytes(tables)},
        {"rows": experiment.data.batch_rows, "prompt_tokens": prompt, "new_tokens": steps},
    )


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _bytes(tree: Any) -> int:
    """Bytes on one device, without the padding of tiles."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _abstract_rows(count: int, prompt: int, sharding: NamedSharding) -> Rows:
    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=sharding)

    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    return Rows(
        prompt_BP=array(jnp.int32, prompt),
        padding_B=array(jnp.int32),
        key_B=array(key),
        state_B=array(jnp.int32),
        temperature_B2=array(jnp.float32, 2),
        limit_B2=array(jnp.int32, 2),
    )


def _abstract_tables(vocabulary: int, sharding: NamedSharding) -> Tables:
    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    states = _GRAMMAR_STATES
    return Tables(
        next_state_SV=array(jnp.int16, states, vocabulary),
        cost_SV=array(jnp.uint8, states, vocabulary),
        value_cost_SV=None,
        characters_V=array(jnp.int16, vocabulary),
        role_S=array(jnp.uint8, states),
        text_stage_S=array(jnp.bool_, states),
        terminal_S=array(jnp.bool_, states),
    )
