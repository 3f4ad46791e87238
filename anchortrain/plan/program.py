"""The programs of a run, compiled for devices that need not be there.

Arguments are shapes with shardings; no array is made and no data read.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anchortrain.config import Experiment
from anchortrain.decode.decoder import Decoder
from anchortrain.decode.loop import empty_places, map_axes, programs
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.tables import Tables
from anchortrain.errors import UserError
from anchortrain.model.parameters import abstract_model, model_with, params_of
from anchortrain.optimizer import make_optimizer
from anchortrain.plan.figures import run_steps
from anchortrain.sharding import check_fits, make_mesh, platform, spec
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

# Of the sampler's grammars: 16 of a typical schema of ten keys. Their tables are small beside the parameters.
_GRAMMAR_ROWS, _TOKEN_CLASSES = 16 * 64, 512
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
    """The loop of decoding on the same mesh: as many samples at once as the batch has rows, at their full length."""
    model = abstract_model(experiment.model, experiment.model.vocabulary_size)
    shapes = params_of(model)
    params = _placed(shapes, param_shardings(mesh, shapes))
    settings = SamplingConfig()
    prompt = min(_PROMPT_SLOTS, max(2, experiment.data.length // 4))
    steps = min(settings.max_annotation_tokens + settings.max_response_tokens, experiment.data.length - prompt)
    rows, whole = experiment.data.batch_rows, NamedSharding(mesh, PartitionSpec())

    def placed(x: jax.ShapeDtypeStruct, axes: Sequence[str | None]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec(axes)))

    def number(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((), dtype, sharding=whole)

    with jax.set_mesh(mesh):
        decoder = jax.eval_shape(Decoder.of, model_with(model, params)).map_axes(placed)
        places = jax.eval_shape(partial(empty_places, rows=rows, capacity=prompt + steps), decoder)
        places, tables = map_axes(places, placed), _abstract_tables(decoder.head_DV.shape[1], whole)
        lowered = programs(platform()).advance.lower(
            decoder, tables, places, places.active_B, number(jnp.int32), number(jnp.int32), filtered=False
        )
    return Program(
        lowered,
        {"parameters": _bytes(decoder), "batch": _bytes(places), "grammar": _bytes(tables)},
        {"rows": rows, "prompt_tokens": prompt, "new_tokens": steps},
    )


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _bytes(tree: Any) -> int:
    """Bytes on one device, without the padding of tiles."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _abstract_tables(vocabulary: int, sharding: NamedSharding) -> Tables:
    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    rows, classes = _GRAMMAR_ROWS, _TOKEN_CLASSES
    return Tables(
        class_V=array(jnp.int32, vocabulary),
        next_state_NJ=array(jnp.int16, rows, classes),
        free_cost_NJ=array(jnp.uint8, rows, classes),
        cost_NJ=array(jnp.uint8, rows, classes),
        value_cost_NJ=array(jnp.uint8, rows, classes),
        characters_V=array(jnp.int16, vocabulary),
        role_N=array(jnp.uint8, rows),
        text_stage_N=array(jnp.bool_, rows),
        terminal_N=array(jnp.bool_, rows),
    )
