"""Reading a study's `study.json`, `results.jsonl` and `curves.jsonl`, checked field by field.

A study may be unfinished: rows may be missing and any figure may be null. What is there must be sound.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError
from anchortrain.files import read_text
from anchortrain.nearest import suggest
from anchortrain.scaling.results import AXES, Curve, Row, Study


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

    def names(self, field: str) -> list[str]:
        value = self.values.get(field)
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.fail(field, "must be a list of strings")
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
    prior = record.numbers("prior_bits") if record.values.get("prior_bits") is not None else {}
    if not all(seed.isdecimal() for seed in prior):
        raise record.fail("prior_bits", "must be an object from seed to bits")
    if record.whole("seeds") < 1:
        raise record.fail("seeds", "must be at least 1")
    return Study(
        name=record.text("name"),
        sizes=dict(sorted(sizes.items(), key=lambda item: item[1])),
        methods=tuple(record.names("methods")),
        seeds=record.whole("seeds"),
        sweep_size=_size(record, "sweep_size", sizes),
        defaults={axis: defaults[axis] for axis in AXES},
        prior_bits={int(seed): bits for seed, bits in prior.items()},
        base_gate=record.number("base_gate"),
        command=record.text("command") if record.values.get("command") is not None else None,
        ladder=tuple(record.names("ladder")) if "ladder" in record.values else (),
        learning_rates=_learning_rates(record),
    )


def _learning_rates(record: _Record) -> tuple[tuple[str, float, float], ...]:
    """What the bases come to with other learning rates than the rule's; not every study tries."""
    found = record.values.get("learning_rates", [])
    if not isinstance(found, list):
        raise record.fail("learning_rates", "must be a list")
    entries = [_Record(one, f"{record.where}, learning_rates") for one in found]
    tried = [(one.text("size"), one.number("factor"), one.number("document_loss")) for one in entries]
    return tuple((size, factor, loss) for size, factor, loss in tried if factor is not None and loss is not None)


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
