"""Reading what a study wrote: `study.json`, `results.jsonl` and `curves.jsonl`, checked field by field.

A study may be unfinished: rows may be missing and any figure may be null. What is there must be sound.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError
from anchortrain.files import read_text
from anchortrain.nearest import suggest

# What a sweep varies; everywhere else each is at the study's default.
AXES = ("narrowness", "examples", "tokens", "temperature")
BASE, SFT = "base", "sft"


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: the samples and losses of one model at one temperature. None: not measured.

    Entropies in bits, divergence and losses in nats, shares in 0..1, `_se` their standard errors over samples.
    """

    size: str
    method: str
    seed: int
    parameters: float | None = None  # non-embedding
    narrowness: float | None = None  # of the post-training data: share of attributes from the favourites
    examples: float | None = None  # distinct post-training examples
    tokens: float | None = None  # post-training budget
    temperature: float | None = None
    n: float | None = None  # samples
    text_bits: float | None = None
    text_bits_se: float | None = None
    annotation_bits: float | None = None
    wellformed_bits: float | None = None
    wellformed_bits_se: float | None = None
    wellformed: float | None = None
    agreement: float | None = None
    annotation_wellformed: float | None = None
    finished: float | None = None
    drift: float | None = None  # KL(R_ref || R) on held-out prompts
    drift_se: float | None = None
    sft_nll: float | None = None  # of held-out post-training data, per text token
    document_nll: float | None = None  # of held-out documents, base only
    data_bits: float | None = None  # entropy of the post-training data
    base_agreement: float | None = None
    train_tokens: float | None = None  # since the base
    generated_tokens: float | None = None  # since the base
    flops: float | None = None  # since the base; of the base itself: its pretraining
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses or divergence during one training run.

    `kind` "pretrain": points (tokens, flops, held-out loss in nats); "drift": (tokens, KL in nats, its standard error).
    """

    kind: str
    size: str
    method: str
    seed: int
    narrowness: float | None
    points: tuple[tuple[float | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """What was to be measured, and what has been."""

    name: str
    sizes: Mapping[str, float]  # name -> non-embedding parameters, ascending
    methods: tuple[str, ...]
    seeds: int
    sweep_size: str
    defaults: Mapping[str, float]  # of AXES
    prior_bits: Mapping[int, float]  # seed -> entropy of the world
    base_gate: float | None  # agreement that a base must reach
    command: str | None
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()

    @functools.cached_property
    def index(self) -> Mapping[tuple[str, str], list[Row]]:
        """(method, size) -> rows."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.method, row.size), []).append(row)
        return found

    @functools.cached_property
    def own_budget(self) -> frozenset[tuple[str, str]]:
        """(method, size) that never ran with the default number of tokens, such as SFT given more compute.

        Their budget is their own, so "at the default" does not ask for it.
        """
        default = self.defaults["tokens"]
        usual = {key for key, rows in self.index.items() if any(_close(row.tokens, default) for row in rows)}
        return frozenset(self.index.keys() - usual)

    def at(self, method: str, size: str, **axes: float | None) -> dict[int, Row]:
        """Seed -> row of a method at a size, with each of AXES as given, else at its default.

        The base has no post-training, so only its temperature counts. A repeated measurement replaces the earlier
        one; of several budgets of its own a method counts with the largest.
        """
        found: dict[int, Row] = {}
        rows = self.index.get((method, size), ())
        for row in sorted(rows, key=lambda row: row.tokens or 0) if (method, size) in self.own_budget else rows:
            if all(self._matches(row, axis, axes.get(axis)) for axis in AXES):
                found[row.seed] = row
        return dict(sorted(found.items()))

    def _matches(self, row: Row, axis: str, wanted: float | None) -> bool:
        if row.method == BASE and axis != "temperature":
            return True
        if wanted is None and axis == "tokens" and (row.method, row.size) in self.own_budget:
            return True
        default = self.defaults[axis]
        return _close(getattr(row, axis), default if wanted is None else wanted, default)

    def values_of(self, axis: str, method: str, size: str) -> list[float]:
        """The values of an axis at which a method was measured with the other axes at their defaults, ascending."""
        rows = self.index.get((method, size), ())
        given = {getattr(row, axis) for row in rows}
        found = {self.defaults[axis] if value is None else value for value in given}
        return [value for value in sorted(found) if self.at(method, size, **{axis: value})]

    def measured(self, method: str) -> list[str]:
        """Sizes at which a method was measured with every axis at its default."""
        return [size for size in self.sizes if self.at(method, size)]


def _close(value: float | None, wanted: float, default: float | None = None) -> bool:
    """Whether a row's coordinate is the wanted one; one that the row does not give is `default`, or else any."""
    value = default if value is None else value
    return value is None or math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-12)


def read_study(directory: str | Path) -> Study:
    """The study in a directory. Curves may be missing; rows may not.

    Raises UserError naming file, line and field.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError("no such directory", where=str(directory), mend="give what `anchortrain scaling` wrote")
    study = _study(directory / "study.json")
    rows = tuple(_row(record, study) for record in _records(directory / "results.jsonl"))
    if not rows:
        raise UserError("holds no results yet", where=str(directory / "results.jsonl"), mend="run the study first")
    path = directory / "curves.jsonl"
    curves = tuple(_curve(record, study) for record in _records(path)) if path.exists() else ()
    return dataclasses.replace(study, rows=rows, curves=curves)


class _Record:
    """A JSON object with its place, whose fields are taken with a check of their kind."""

    def __init__(self, values: Any, where: str) -> None:
        self.where = where
        if not isinstance(values, dict):
            raise UserError("must be a JSON object", where=where)
        self.values = values

    def fail(self, field: str, what: str) -> UserError:
        return UserError(f"field {field!r} {what}, found {_shown(self.values.get(field))}", where=self.where)

    def text(self, field: str) -> str:
        value = self.values.get(field)
        if not isinstance(value, str) or not value:
            raise self.fail(field, "must be a string")
        return value

    def whole(self, field: str) -> int:
        value = self.values.get(field)
        if type(value) is not int:
            raise self.fail(field, "must be a whole number")
        return value

    def number(self, field: str) -> float | None:
        value = self.values.get(field)
        if not is_number_or_null(value):
            raise self.fail(field, "must be a finite number or null")
        return value

    def numbers(self, field: str) -> dict[str, float]:
        value = self.values.get(field)
        if not isinstance(value, dict) or None in value.values() or not all(map(is_number_or_null, value.values())):
            raise self.fail(field, "must be an object of finite numbers")
        return value


def is_number_or_null(value: Any) -> bool:
    """Whether a JSON value is null or a finite number (true and false are none)."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:59] + "…"


def _parsed(text: str, where: str) -> _Record:
    try:
        return _Record(json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken JSON: {error}", where=where) from None


def _records(path: Path) -> Iterator[_Record]:
    for number, line in enumerate(read_text(path, "a file of the study").split("\n"), 1):
        if line.strip():
            yield _parsed(line, f"{path}:{number}")


def _study(path: Path) -> Study:
    record = _parsed(read_text(path, "the study's description"), str(path))
    sizes, defaults = record.numbers("sizes"), record.numbers("defaults")
    if not sizes or min(sizes.values()) <= 0 or len(set(sizes.values())) < len(sizes):
        raise record.fail("sizes", "must name different positive numbers of parameters")
    if missing := [axis for axis in AXES if axis not in defaults]:
        raise record.fail("defaults", f"must have {', '.join(missing)}")
    methods = record.values.get("methods")
    if not isinstance(methods, list) or not all(isinstance(one, str) and one for one in methods):
        raise record.fail("methods", "must be a list of strings")
    prior = record.numbers("prior_bits") if record.values.get("prior_bits") is not None else {}
    if not all(seed.isdecimal() for seed in prior):
        raise record.fail("prior_bits", "must be an object from seed to bits")
    if record.whole("seeds") < 1:
        raise record.fail("seeds", "must be at least 1")
    return Study(
        name=record.text("name"),
        sizes=dict(sorted(sizes.items(), key=lambda item: item[1])),
        methods=tuple(methods),
        seeds=record.whole("seeds"),
        sweep_size=_size(record, "sweep_size", sizes),
        defaults={axis: defaults[axis] for axis in AXES},
        prior_bits={int(seed): bits for seed, bits in prior.items()},
        base_gate=record.number("base_gate"),
        command=record.text("command") if record.values.get("command") is not None else None,
    )


def _size(record: _Record, field: str, sizes: Mapping[str, float]) -> str:
    name = record.text(field)
    if name not in sizes:
        raise UserError(
            f"field {field!r}: no size {name!r} in study.json", where=record.where, mend=suggest(name, sizes)
        )
    return name


_SHARES = ("wellformed", "agreement", "annotation_wellformed", "finished", "base_agreement")
_NOT_NEGATIVE = ("parameters", "n", "tokens", "examples", "temperature", "text_bits_se", "wellformed_bits_se", "flops")


def _row(record: _Record, study: Study) -> Row:
    fields = [field.name for field in dataclasses.fields(Row)[3:]]
    values = {field: record.number(field) for field in fields}
    checks: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
        (_SHARES, lambda value: 0 <= value <= 1, "must lie in 0..1"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "must not be negative"),
    )
    for names, holds, what in checks:
        for field in names:
            value = values[field]
            if value is not None and not holds(value):
                raise record.fail(field, what)
    return Row(
        size=_size(record, "size", study.sizes), method=record.text("method"), seed=record.whole("seed"), **values
    )


_POINT = {"pretrain": "[tokens, flops, loss]", "drift": "[tokens, kl, se]"}


def _curve(record: _Record, study: Study) -> Curve:
    kind = record.text("kind")
    if kind not in _POINT:
        raise record.fail("kind", f"must be {' or '.join(_POINT)}")
    points = record.values.get("points")
    sound = isinstance(points, list) and all(
        isinstance(one, list) and len(one) == 3 and all(map(is_number_or_null, one)) for one in points
    )
    if not sound:
        raise record.fail("points", f"must be a list of {_POINT[kind]}")
    return Curve(
        kind=kind,
        size=_size(record, "size", study.sizes),
        method=record.text("method"),
        seed=record.whole("seed"),
        narrowness=record.number("narrowness"),
        points=tuple(map(tuple, points)),
    )
