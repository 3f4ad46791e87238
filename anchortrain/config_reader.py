"""From gin files to frozen dataclasses: which fields there are, what types they have, and what is bound to them.

A root dataclass has one field for each section, and each section is a dataclass of plain values with defaults.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from anchortrain.errors import UserError
from anchortrain.gin_reader import Bound, read_gin

_Root = TypeVar("_Root")


def sections(root: type) -> dict[str, type]:
    """Field of the root -> dataclass of the section."""
    return {field.name: field.type for field in dataclasses.fields(root)}


def read_bindings(root: type, files: Sequence[str | Path], bindings: Sequence[str]) -> dict[str, Bound]:
    """`Class.field` -> what gin files and then single bindings bind to it. Raises UserError, see `gin_reader`."""
    schema = {cls.__name__: [field.name for field in dataclasses.fields(cls)] for cls in sections(root).values()}
    return {f"{cls}.{field}": bound for (cls, field), bound in read_gin(files, bindings, schema).items()}


def build(root: type[_Root], bound: Mapping[str, Bound]) -> _Root:
    """The root with what is bound, and defaults elsewhere. Raises UserError on a value of another type."""
    built = {}
    for section, cls in sections(root).items():
        values = {}
        for field in dataclasses.fields(cls):
            name = f"{cls.__name__}.{field.name}"
            if name in bound:
                values[field.name] = typed(bound[name].value, field.type, name, bound[name].where)
        built[section] = cls(**values)
    return root(**built)


def typed(value: Any, kind: Any, name: str, where: str | None) -> Any:
    """`value` as a field of type `kind`: int, float (an int will do), bool, str, or dict or tuple of these.

    Raises UserError naming the field, the type expected and the value got.
    """
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise _type_error(value, kind, name, where)
        key_kind, value_kind = get_args(kind)
        return {
            typed(k, key_kind, f"a key of {name}", where): typed(v, value_kind, f"{name}[{k!r}]", where)
            for k, v in value.items()
        }
    if get_origin(kind) is tuple:  # tuple[kind, ...]; gin files write it as a list, too
        if not isinstance(value, list | tuple):
            raise _type_error(value, kind, name, where)
        return tuple(typed(v, get_args(kind)[0], f"{name}[{i}]", where) for i, v in enumerate(value))
    # bool is an int to Python, but `n_layers = True` is a mistake.
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) <= 1e308 else math.inf
        if not math.isfinite(number):
            raise UserError(f"{name} must be a finite number, got {value}", where=where)
        return number
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise _type_error(value, kind, name, where)


def _type_error(value: Any, kind: Any, name: str, where: str | None) -> UserError:
    expected = kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)
    mend = f"write {int(value)}" if kind is int and isinstance(value, float) and value.is_integer() else None
    got = f"{type(value).__name__} {value!r}"
    return UserError(f"{name} must be of type {expected}, got {got}", where=where, mend=mend)
