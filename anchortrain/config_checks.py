"""Choices and ranges of the configuration, all in one place."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from anchortrain.compiler import PROFILES
from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.nearest import suggest

CHOICES: dict[str, tuple[str, ...]] = {
    "ModelConfig.compute_dtype": ("float32", "bfloat16"),
    "ModelConfig.remat": ("none", "dots", "attention", "full"),
    "ModelConfig.attention": ("auto", "reference", "splash", "cudnn"),
    "LossConfig.objective": ("masked", "unmasked"),
    "LossConfig.anchor_direction": ("forward", "reverse", "js"),
    "LossConfig.anchor_source": ("draws", "data"),
    "LossConfig.anchor_reference": ("online", "stored"),
    "OptimizerConfig.name": ("adamw", "muon"),
    "OptimizerConfig.schedule": ("cosine", "wsd", "constant"),
    "RunConfig.compiler_profile": ("", *PROFILES),
}


class _Range(NamedTuple):
    """What a number may be, and the words for it."""

    holds: Callable[[float], bool]
    words: str


_POSITIVE = _Range(lambda x: x > 0, "positive")
_NOT_NEGATIVE = _Range(lambda x: x >= 0, "0 or more")
_SHARE = _Range(lambda x: 0 <= x <= 1, "between 0 and 1")
_BELOW_ONE = _Range(lambda x: 0 <= x < 1, "at least 0 and less than 1")
_SEED = _Range(lambda x: 0 <= x < 2**31, "at least 0 and less than 2**31")
_AXIS = _Range(lambda x: x == -1 or x > 0, "positive, or -1 for whatever is left")

# Every number has a range here, so that a new field cannot be forgotten (a test asserts it).
RANGES: dict[str, _Range] = {
    **dict.fromkeys(("ModelConfig.d_model", "ModelConfig.n_layers", "ModelConfig.n_heads"), _POSITIVE),
    **dict.fromkeys(("ModelConfig.n_kv_heads", "ModelConfig.d_ff"), _POSITIVE),
    **dict.fromkeys(("ModelConfig.rope_theta", "ModelConfig.norm_eps"), _POSITIVE),
    "ModelConfig.vocabulary_size": _NOT_NEGATIVE,
    **dict.fromkeys(("DataConfig.length", "DataConfig.batch_rows", "LossConfig.anchor_rows"), _POSITIVE),
    "DataConfig.train": _POSITIVE,  # of each share
    "DataConfig.seed": _SEED,
    "LossConfig.syntax_share": _SHARE,
    "LossConfig.anchor_weight": _NOT_NEGATIVE,
    "LossConfig.anchor_target": _NOT_NEGATIVE,
    "LossConfig.z_loss": _NOT_NEGATIVE,
    **dict.fromkeys(("OptimizerConfig.learning_rate", "OptimizerConfig.eps"), _POSITIVE),
    "OptimizerConfig.clip_norm": _POSITIVE,
    **dict.fromkeys(("OptimizerConfig.warmup_share", "OptimizerConfig.decay_share"), _SHARE),
    "OptimizerConfig.final_share": _SHARE,
    **dict.fromkeys(("OptimizerConfig.beta1", "OptimizerConfig.beta2"), _BELOW_ONE),
    "OptimizerConfig.weight_decay": _NOT_NEGATIVE,
    **dict.fromkeys(("MeshConfig.data", "MeshConfig.fsdp"), _AXIS),
    **dict.fromkeys(("MeshConfig.sequence", "MeshConfig.tensor"), _AXIS),
    "MeshConfig.slices": _POSITIVE,
    **dict.fromkeys(("CheckpointConfig.every_steps", "CheckpointConfig.keep"), _POSITIVE),
    **dict.fromkeys(("EvaluateConfig.every_steps", "EvaluateConfig.batches"), _POSITIVE),
    **dict.fromkeys(("RunConfig.tokens", "RunConfig.accumulation", "RunConfig.log_every"), _POSITIVE),
    "RunConfig.seed": _SEED,
}


def check_values(experiment: Experiment, where: Mapping[str, str] | None = None) -> None:
    """Raises UserError on the first value that no run could have.

    Args:
      experiment: with fields of the right types.
      where: `Class.field` -> place where it was bound, for the message; defaults have none.
    """
    where = where or {}
    for section in dataclasses.fields(experiment):
        for field in dataclasses.fields(section.type):
            name = f"{section.type.__name__}.{field.name}"
            _check_field(getattr(getattr(experiment, section.name), field.name), name, where.get(name))
    for names, holds, what in _relations(experiment):
        if not holds:
            raise UserError(what, where=next((where[name] for name in names if name in where), None))


def _check_field(value: Any, name: str, where: str | None) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        choices = ", ".join(map(repr, CHOICES[name]))
        mend = suggest(value, CHOICES[name]) if value else None
        raise UserError(f"{name} must be one of {choices}, got {value!r}", where=where, mend=mend)
    if name in RANGES:
        for key, number in value.items() if isinstance(value, dict) else [(None, value)]:
            if not RANGES[name].holds(number):
                shown = name if key is None else f"{name}[{key!r}]"
                raise UserError(f"{shown} must be {RANGES[name].words}, got {number}", where=where)


def _relations(experiment: Experiment) -> list[tuple[tuple[str, ...], bool, str]]:
    """What must hold between fields: (names, whether it does, what to say if not)."""
    model, data, loss = experiment.model, experiment.data, experiment.loss
    optimizer, mesh, run = experiment.optimizer, experiment.mesh, experiment.run
    shares = optimizer.warmup_share + optimizer.decay_share
    free = [axis.name for axis in dataclasses.fields(mesh) if getattr(mesh, axis.name) == -1]
    stored = loss.anchor_weight > 0 and loss.anchor_reference == "stored"
    return [
        _divides("ModelConfig.n_heads", model.n_heads, "ModelConfig.d_model", model.d_model),
        _divides("ModelConfig.n_kv_heads", model.n_kv_heads, "ModelConfig.n_heads", model.n_heads),
        (
            ("ModelConfig.n_heads", "ModelConfig.d_model"),
            model.d_model // model.n_heads % 2 == 0,
            f"ModelConfig.d_model / n_heads must be even for RoPE, got {model.d_model} / {model.n_heads}",
        ),
        _divides("RunConfig.accumulation", run.accumulation, "DataConfig.batch_rows", data.batch_rows),
        *(
            [_divides("RunConfig.accumulation", run.accumulation, "LossConfig.anchor_rows", loss.anchor_rows)]
            if loss.anchor_weight
            else []
        ),
        (
            ("LossConfig.anchor_data", "LossConfig.anchor_weight", "LossConfig.anchor_source"),
            not loss.anchor_weight or loss.anchor_source != "draws" or loss.anchor_data != "",
            "LossConfig.anchor_data must name the draws of `anchortrain draw` when LossConfig.anchor_weight > 0",
        ),
        (
            ("LossConfig.anchor_reference", "LossConfig.anchor_source"),
            not stored or loss.anchor_source == "draws",
            "LossConfig.anchor_reference = 'stored' needs anchor_source = 'draws': only draws store distributions",
        ),
        (
            ("LossConfig.anchor_target", "LossConfig.anchor_weight"),
            not loss.anchor_target or loss.anchor_weight > 0,
            "LossConfig.anchor_target needs LossConfig.anchor_weight > 0, the value that lambda begins with",
        ),
        (
            ("OptimizerConfig.decay_share", "OptimizerConfig.warmup_share"),
            optimizer.schedule != "wsd" or shares <= 1,
            f"OptimizerConfig.warmup_share + decay_share must be at most 1, got {shares:g}",
        ),
        (
            tuple(f"MeshConfig.{axis}" for axis in free),
            len(free) <= 1,
            f"only one axis of MeshConfig may be -1, got {' and '.join(free)}",
        ),
        (
            ("MeshConfig.slices", "MeshConfig.data"),
            mesh.data == -1 or mesh.data % mesh.slices == 0,
            f"MeshConfig.slices must divide MeshConfig.data ({mesh.data}), got {mesh.slices}",
        ),
        (
            ("MeshConfig.sequence", "DataConfig.length"),
            mesh.sequence < 1 or data.length % mesh.sequence == 0,
            f"MeshConfig.sequence must divide DataConfig.length ({data.length}), got {mesh.sequence}",
        ),
    ]


def _divides(part: str, part_value: int, whole: str, whole_value: int) -> tuple[tuple[str, ...], bool, str]:
    what = f"{part} must divide {whole} ({whole_value}), got {part_value}"
    return (part, whole), whole_value % part_value == 0, what
