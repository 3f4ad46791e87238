"""The labels annotator: tags that the corpus already has, in fields of its records or in a table beside it."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from anchortrain.annotate.config import LabelsConfig
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.schema import Key, Schema
from anchortrain.annotation import AnnotationError, Tag, make_tag
from anchortrain.data.records import load_object
from anchortrain.data.sources import read_lines
from anchortrain.errors import UserError

_WORDS = 5  # of a label, at most: longer answers are sentences, no tags
_MOST = 6  # tags of a chunk
_ARTICLE = re.compile(r"(?:a|an|the)\s+(?=\S)", re.IGNORECASE)

_Found = list[tuple[str, str]]  # key and text


def check(config: LabelsConfig) -> None:
    """Raises UserError on labels that no corpus could have, and on a bad table."""
    if not config.fields and not config.table:
        mend = "give --labels FIELD … or bind LabelsConfig.table"
        raise UserError("the labels annotator has neither fields nor a table", mend=mend)
    for key in (*config.fields, *config.rename.values()):
        _check_key(key, "LabelsConfig")
    if config.table:
        _read_table(config)


class LabelsAnnotator:
    """Tags from `LabelsConfig.fields` and `LabelsConfig.table`.

    A label is made a value as the schema's key of that name says; keys that it does not have take any text of up to
    five words. Longer labels are left out.
    """

    def __init__(self, config: LabelsConfig, schema: Schema) -> None:
        """Reads the table, which has to fit into memory. Raises UserError on a bad one."""
        self._fields = config.fields
        self._order = [*config.fields, *config.rename.values()]
        self._keys = {key.name: key for key in schema.keys}
        self._table = _read_table(config) if config.table else {}

    def annotate(self, passages: Sequence[Passage]) -> list[Answer]:
        """An answer without annotation where the corpus has no label."""
        return [self._answer(passage) for passage in passages]

    def close(self) -> None:
        pass

    def _answer(self, passage: Passage) -> Answer:
        found = [(key, text) for key, field in self._fields.items() for text in _values(passage, field)]
        found += self._table.get((passage.record, passage.index), []) + self._table.get((passage.record, None), [])
        tags = self._tags(found)
        order = list(dict.fromkeys([*self._order, *(tag.key for tag in tags)]))
        return Answer(tuple(sorted(tags, key=lambda tag: order.index(tag.key))[:_MOST]) or None)

    def _tags(self, found: _Found) -> list[Tag]:
        tags: dict[tuple[str, str], Tag] = {}
        for name, text in found:
            key = self._keys.get(name) or Key(name, words=_WORDS, case="keep")
            value = key.value(
                _ARTICLE.sub("", text.strip(), count=1) if _ARTICLE.match(text.strip()) else text, cut=False
            )
            if value is not None:
                tags.setdefault((name, value.lower()), make_tag(name, value))
        return list(tags.values())


def _check_key(key: str, where: str) -> None:
    try:
        make_tag(key, "x")
    except AnnotationError as error:
        raise UserError(str(error), where=where) from None


def _values(passage: Passage, field: str) -> list[str]:
    """The labels of a field: a text or number, a list of them, or a list with one entry for each chunk."""
    value: Any = passage.fields
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, list) and value and isinstance(value[0], list | None):
        value = value[passage.index] if passage.index < len(value) else None
    return [str(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | int | float)]


def _read_table(config: LabelsConfig) -> dict[tuple[str, int | None], _Found]:
    """(record, index of the chunk or None for all) -> labels, in the order of the table."""
    table: dict[tuple[str, int | None], _Found] = defaultdict(list)
    for line in read_lines([config.table]):
        row = load_object(line)
        for field in (config.table_record, config.table_key, config.table_value):
            if field not in row:
                there = ", ".join(map(repr, list(row)[:8]))
                raise UserError(
                    f"no field {field!r} (there is {there})", where=line.where, mend="bind LabelsConfig.table_*"
                )
        keys, values = _strings(row[config.table_key]), _strings(row[config.table_value])
        if not keys or not values:
            continue
        key = config.rename.get(keys[0], re.sub(r"[^a-z0-9]+", "_", keys[0].lower()).strip("_"))
        _check_key(key, line.where)
        indices = _chunks(row, config.table_chunks, line.where)
        for index in indices if len(indices) <= (config.table_span or len(indices)) else ():
            table[str(row[config.table_record]), index].append((key, values[0]))
    return dict(table)


def _strings(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one is not None and one != ""]


def _chunks(row: Mapping[str, Any], field: str, where: str) -> list[int | None]:
    """Indices from 0 of the chunks that a row is about."""
    value = row.get(field) if field else None
    if value is None:
        return [None]
    numbers = value if isinstance(value, list) else [value]
    if not all(type(one) is int and one > 0 for one in numbers):
        what = f"field {field!r} must be a number from 1, or a list of them, got {value!r}"
        raise UserError(what, where=where)
    return [one - 1 for one in numbers]
