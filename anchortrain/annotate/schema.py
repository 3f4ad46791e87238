"""Schemas: which tags an annotation may have. A schema is a TOML file, ours in `schemas/` or the user's own.

about = "Stories, tales and novels."
suits = ["prose", "verse"]        # types of chunk that are annotated at all, see `chunk_types`
max_tags = 6                      # of an annotation

[keys.location]                   # keys in the order in which tags are written
about = "where it happens"        # said to a language model, and to whoever reads the file
most = 2                          # values, at most (default 1)
words = 4                         # of a value, at most (default 4); longer ones are cut
case = "keep"                     # "lower" (default) folds case
values = ["sea", "forest"]        # closed list; none means free text
suits = ["prose"]                 # types of chunk, fewer than the schema's
offline = "location"              # extractor of the offline annotator (default: the one called like the key)
cues = {sea = ["sea", "waves"]}   # value -> words or phrases that give it away, for the extractor "cues"
"""

import dataclasses
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from anchortrain.annotate.chunk_types import TYPES
from anchortrain.annotation import MAX_VALUE_CHARACTERS, Annotation, AnnotationError, make_tag
from anchortrain.errors import UserError
from anchortrain.files import read_text
from anchortrain.nearest import suggest

CASES = ("lower", "keep")
_CONTROL = re.compile(r"</?[A-Za-z_]{1,20}>|<\|[^|<>]{1,40}\|>")
_PLAIN = re.compile(r"[A-Za-z0-9 .'-]*")  # nothing to normalise
_EDGES = " \t.,:!?\"'“”‘’`*_-–—()[]{}"


@dataclasses.dataclass(frozen=True)
class Key:
    """What the tags of one key may be; the fields are those of the file."""

    name: str
    about: str = ""
    values: tuple[str, ...] = ()
    most: int = 1
    words: int = 4
    case: str = "lower"
    suits: tuple[str, ...] = ()
    offline: str = ""
    cues: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def value(self, text: str, *, cut: bool = True) -> str | None:
        """A value that the grammar and this key allow, made from any text; None when nothing is left of it.

        White space is joined, control characters and whatever looks like a control token vanish, ';' becomes ',', so
        that no text can forge a delimiter. A value with too many words is cut, or refused when `cut` is False.
        """
        plain = text
        if not _PLAIN.fullmatch(text):  # most values of the offline annotator are
            plain = _CONTROL.sub(" ", unicodedata.normalize("NFKC", text).replace(";", ","))
            plain = "".join(" " if unicodedata.category(c)[0] in "CZ" or c in "<>" else c for c in plain)
        words = (plain.lower() if self.case == "lower" else plain).strip(_EDGES).split()
        if len(words) > self.words and not cut:
            return None
        joined = " ".join(words[: self.words])[:MAX_VALUE_CHARACTERS].strip(_EDGES)
        if not joined:
            return None
        if self.values:
            allowed = {one.lower(): one for one in self.values}
            return allowed.get(joined.lower())
        return joined


@dataclasses.dataclass(frozen=True)
class Schema:
    """Which tags an annotation may have, in which order."""

    name: str
    about: str
    keys: tuple[Key, ...]
    suits: tuple[str, ...] = TYPES
    max_tags: int = 6

    def key(self, name: str) -> Key | None:
        return next((key for key in self.keys if key.name == name), None)

    def keys_for(self, kind: str) -> tuple[Key, ...]:
        """The keys that suit a chunk of this type; none when the schema does not suit it."""
        return tuple(key for key in self.keys if kind in self.suits and (not key.suits or kind in key.suits))

    def annotation(self, found: Mapping[str, Iterable[str]], kind: str, *, cut: bool = True) -> Annotation:
        """The annotation made of the values found for each key, best first: normalised, each once, in order.

        Args:
          found: key -> any texts; keys that are not in the schema, or do not suit `kind`, are left out.
          kind: type of the chunk.
          cut: see `Key.value`.
        """
        ranked = []
        for place, key in enumerate(self.keys_for(kind)):
            kept: dict[str, str] = {}
            for text in found.get(key.name, ()):
                value = key.value(text, cut=cut)
                if value is not None:
                    kept.setdefault(value.lower(), value)
            ranked += [(rank, place, key.name, value) for rank, value in enumerate(list(kept.values())[: key.most])]
        # Every key's best value comes before any key's second.
        chosen = sorted(sorted(ranked)[: self.max_tags], key=lambda one: (one[1], one[0]))
        tags = []
        for _, _, name, value in chosen:
            try:
                tags.append(make_tag(name, value))
            except AnnotationError:  # nothing that `Key.value` lets through; a value is dropped before a run is
                continue
        return tuple(tags)

    def to_json(self) -> dict[str, Any]:
        """Plain values that decide what annotations look like: for manifests and cache keys."""
        return dataclasses.asdict(self)


def load_schema(name: str) -> Schema:
    """One of ours by name, or the user's by path (`*.toml`). Raises UserError with file and field."""
    if name.endswith(".toml"):
        return parse_schema(read_text(name, "the schema"), Path(name).stem, name)
    ours = schema_names()
    if name not in ours:
        raise UserError(f"unknown schema {name!r}", mend=f"{suggest(name, ours)} (or give a *.toml file)")
    path = resources.files("anchortrain.annotate") / "schemas" / f"{name}.toml"
    return parse_schema(path.read_text(encoding="utf-8"), name, f"{name}.toml")


def schema_names() -> list[str]:
    """The schemas that come with the package."""
    folder = resources.files("anchortrain.annotate") / "schemas"
    return sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml"))


def parse_schema(text: str, name: str, where: str) -> Schema:
    """The schema of a TOML text. Raises UserError naming the field."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"bad TOML: {error}", where=where) from None
    fields = {"about": str, "suits": list, "max_tags": int, "keys": dict}
    _check(content, fields, "the schema", where)
    if not content.get("keys"):
        raise UserError("the schema has no keys", where=where, mend="add a table such as [keys.topic]")
    keys = tuple(_key(key, value, where) for key, value in content["keys"].items())
    suits = _types(content.get("suits", list(TYPES)), "suits", where)
    max_tags = content.get("max_tags", 6)
    if max_tags < 1:
        raise UserError(f"max_tags must be at least 1, got {max_tags}", where=where)
    return Schema(name, content.get("about", ""), keys, suits, max_tags)


def _key(name: str, value: Any, where: str) -> Key:
    shown = f"keys.{name}"
    fields = {"about": str, "values": list, "most": int, "words": int, "case": str}
    _check(value, fields | {"suits": list, "offline": str, "cues": dict}, shown, where)
    try:
        make_tag(name, "x")
    except AnnotationError as error:
        raise UserError(str(error), where=where) from None
    for field in ("most", "words"):
        if value.get(field, 1) < 1:
            raise UserError(f"{shown}.{field} must be at least 1, got {value[field]}", where=where)
    if value.get("case", "lower") not in CASES:
        raise UserError(f"{shown}.case must be 'lower' or 'keep', got {value['case']!r}", where=where)
    cues = {}
    for one, phrases in value.get("cues", {}).items():
        cues[one] = tuple(_strings(phrases, f"{shown}.cues.{one}", where))
    key = Key(
        name,
        value.get("about", ""),
        tuple(_strings(value.get("values", []), f"{shown}.values", where)),
        value.get("most", 1),
        value.get("words", 4),
        value.get("case", "lower"),
        _types(value.get("suits", []), f"{shown}.suits", where),
        value.get("offline", "cues" if cues else ""),
        cues,
    )
    for one in (*key.values, *key.cues):
        if key.value(one) is None or (key.value(one) or "").lower() != one.lower():
            mend = "it must be one of values, without ';', '<', '>' or punctuation at its ends, and within `words`"
            raise UserError(f"{shown}: the value {one!r} is not allowed", where=where, mend=mend)
    return key


def _check(value: Any, fields: Mapping[str, type], what: str, where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a table", where=where)
    for name, one in value.items():
        if name not in fields:
            raise UserError(f"unknown field {name!r} of {what}", where=where, mend=suggest(name, fields))
        if type(one) is not fields[name]:
            raise UserError(f"{name} of {what} must be of type {fields[name].__name__}, got {one!r}", where=where)


def _strings(value: Any, what: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise UserError(f"{what} must be a list of strings, got {value!r}", where=where)
    return value


def _types(value: Any, what: str, where: str) -> tuple[str, ...]:
    for one in _strings(value, what, where):
        if one not in TYPES:
            raise UserError(f"{what}: unknown type of chunk {one!r}", where=where, mend=suggest(one, TYPES))
    return tuple(value)
