"""The front door of the configuration: gin files or a run's JSON in, a checked `Experiment` out.

    experiment = load(["gin_configs/base.gin"], ["RunConfig.tokens = 2000000"])
    save_json(experiment, run_dir / "config.json")   # with versions; load_json repeats the run from it alone

gin binds fields by class: `ModelConfig.d_model = 64`. See `gin_reader` for the grammar.
"""

import dataclasses
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import anchortrain
from anchortrain.config import Experiment
from anchortrain.config_checks import check_values
from anchortrain.config_reader import build, read_bindings, sections
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from anchortrain.gin_reader import Bound
from anchortrain.nearest import suggest

if TYPE_CHECKING:
    import ml_collections

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
# Beside the sections of the experiment in a run's JSON: how it was made. Not read back.
_PROVENANCE = ("versions", "git_commit")


def load(gin_files: Sequence[str | Path], bindings: Sequence[str] = ()) -> Experiment:
    """The experiment that gin files and then single bindings describe; what they leave open has its default.

    Raises UserError, with file and line, on anything unknown, mistyped or impossible.
    """
    return _build(read_bindings(Experiment, gin_files, bindings))


def load_json(path: str | Path) -> Experiment:
    """The experiment that `save_json` wrote.

    Raises UserError when the file is missing or damaged, or when it lacks a field: a default of today need not be
    the value that the run had.
    """
    where = str(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration: {error.strerror}", where=where) from None
    except ValueError as error:
        raise UserError(f"is not JSON: {error}", where=where) from None
    sections = _sections()
    _check_names(content, [*sections, *_PROVENANCE], sections, "the configuration", where)
    bound = {}
    for name, cls in sections.items():
        fields = {field.name: field for field in dataclasses.fields(cls)}
        _check_names(content[name], fields, fields, name, where)
        for field, value in content[name].items():
            bound[f"{cls.__name__}.{field}"] = Bound(_from_pairs(value, fields[field].type), where)
    return _build(bound)


def save_json(experiment: Experiment, path: str | Path) -> None:
    """Writes the resolved configuration with versions and git commit, whole or not at all."""
    write_json_atomic(path, json.loads(to_frozen_config_dict(experiment).to_json()) | _provenance())


def to_frozen_config_dict(experiment: Experiment) -> "ml_collections.FrozenConfigDict":
    """Sections and fields as an immutable `ml_collections` tree.

    A mapping becomes a tuple of pairs: its keys are paths, which may hold dots, which a ConfigDict refuses; and their
    order, which it would not keep, is part of the run.
    """
    import ml_collections

    tree = dataclasses.asdict(experiment)
    for section in tree.values():
        section.update({k: tuple(v.items()) for k, v in section.items() if isinstance(v, dict)})
    return ml_collections.FrozenConfigDict(tree)


def _sections() -> dict[str, type]:
    """Field of `Experiment` -> dataclass."""
    return sections(Experiment)


def _build(bound: Mapping[str, Bound]) -> Experiment:
    """The checked experiment of `Class.field` -> value."""
    experiment = build(Experiment, bound)
    check_values(experiment, {name: one.where for name, one in bound.items()})
    return experiment


def _check_names(value: Any, known: Sequence[str], required: Sequence[str], what: str, where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{what} must be an object, got {type(value).__name__}", where=where)
    for name in value:
        if name not in known:
            raise UserError(f"unknown name {name!r} in {what}", where=where, mend=suggest(name, known))
    for name in required:
        if name not in value:
            mend = "was it written by another version of anchortrain?"
            raise UserError(f"{what} lacks {name!r}", where=where, mend=mend)


def _from_pairs(value: Any, kind: Any) -> Any:
    """JSON has mappings as lists of pairs; anything else is left for `typed` to judge."""
    pairs = get_origin(kind) is dict and isinstance(value, list)
    return (
        dict(value)
        if pairs and all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in value)
        else value
    )


def _provenance() -> dict[str, Any]:
    versions = {"anchortrain": anchortrain.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"versions": versions, "git_commit": git_commit()}


def git_commit() -> str | None:
    """The commit of this code, with "-dirty" after local changes; None outside a repository that tracks it."""
    here = Path(__file__).resolve()
    try:
        # An installed copy may lie inside somebody else's repository.
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", here.name], cwd=here.parent, check=True, capture_output=True
        )
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here.parent,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip() or None
