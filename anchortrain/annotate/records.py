"""Records to annotate: what of them is a passage, and what they become.

A document has chunks, an instruction one response. Whatever other fields a record has are kept. What is written is the
format of docs/data.md, so that `anchortrain prepare` takes it as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotation import Annotation
from anchortrain.data.records import load_object, named, record_id, text_field
from anchortrain.data.sources import Line
from anchortrain.errors import UserError

FAILED = "failed"  # field of a chunk or an instruction: why it has no annotation yet
OTHERS = "fields"  # Parquet's column with a record's other fields, as a JSON object
_OURS = ("id", "text", "chunks", "annotations", "prompt", "response", "annotation", FAILED, OTHERS)
_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "", "developer": "", "tool": "Tool"}


class Record(NamedTuple):
    """A document (`prompt` None) or an instruction."""

    id: str
    where: str
    texts: tuple[str, ...]  # chunks, or the one response
    prompt: str | None
    fields: dict[str, Any]  # everything else that the record has

    def passage(self, i: int) -> Passage:
        """What an annotator is told of chunk `i`."""
        before = self.prompt if self.prompt is not None else self.texts[i - 1] if i else ""
        return Passage(self.texts[i], before, chunk_type(self.texts[i]), self.id, i, self.fields)

    def product(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The record with its annotations, as it is written."""
        said = [_said(answer) for answer in answers]
        if self.prompt is None:
            chunks = [{"text": text} | one for text, one in zip(self.texts, said, strict=True)]
            return {"id": self.id, "chunks": chunks} | self.fields
        return {"id": self.id, "prompt": self.prompt, "response": self.texts[0]} | said[0] | self.fields


def _said(answer: Answer) -> dict[str, Any]:
    if answer.failed is not None:
        return {"annotation": None, FAILED: answer.failed}
    return {"annotation": None if answer.annotation is None else as_json(answer.annotation)}


def as_json(annotation: Annotation) -> dict[str, Any]:
    """`{"topic": "fox", "character": ["fox", "crow"]}`. Tags of one key must stand together."""
    values: dict[str, list[str]] = {}
    for key, value in annotation:
        values.setdefault(key, []).append(value)
    return {key: many[0] if len(many) == 1 else many for key, many in values.items()}


class Names(NamedTuple):
    """Names of the fields of a record; see `config.SourceConfig`."""

    text: str
    id: str
    prompt: str
    response: str
    messages: str


Parser = Callable[[Line], Record]


def parser(kind: str, names: Names, cut: Callable[[str], list[str]]) -> Parser:
    """What makes records of lines: `kind` is "documents" or "instructions", `cut` makes chunks of a text."""
    if kind == "documents":
        return lambda line: _document(line, names, cut)
    return lambda line: _instruction(line, names)


def _id(value: Mapping[str, Any], line: Line, names: Names) -> str:
    return record_id(value.get(names.id) if names.id else None, names.id, line)


def _document(line: Line, names: Names, cut: Callable[[str], list[str]]) -> Record:
    value = load_object(line)
    field = names.text if names.text in value or "chunks" not in value else "chunks"
    if field not in value:
        there = ", ".join(map(repr, list(value)[:8])) or "nothing"
        mend = f"name it: --text_field NAME{' (or --kind instructions)' if names.response in value else ''}"
        raise UserError(f"no field {field!r} (there is {there})", where=line.where, mend=mend)
    if isinstance(value[field], list):
        texts = _given_chunks(value[field], field, line.where)
    else:
        texts = cut(text_field(value[field], field, line.where))
    return Record(_id(value, line, names), line.where, tuple(texts), None, _others(value, {field, names.id}))


def _given_chunks(value: list[Any], field: str, where: str) -> list[str]:
    """A list of texts, or of objects with `text`, is the user's own cut. Texts get the blank line between chunks."""
    if not value:
        raise UserError(f"field {field!r} is empty", where=where, mend="fill it or leave the record out")
    texts = []
    for i, one in enumerate(value):
        whole = isinstance(one, dict)
        name = f"{field}[{i}]"
        if whole and "text" not in one:
            raise UserError(f"no field 'text' in {name}", where=where, mend="a chunk is a text or has the field 'text'")
        text = text_field(one["text"] if whole else one, name, where)
        texts.append(text if whole or i == len(value) - 1 or text.endswith("\n\n") else text + "\n\n")
    return texts


def _instruction(line: Line, names: Names) -> Record:
    value = load_object(line)
    asked = names.prompt.partition("+")[0]
    if names.messages in value and not (asked in value and names.response in value):
        prompt, response = _conversation(value[names.messages], names.messages, line.where)
        used: set[str] = set()
    else:
        parts = names.prompt.split("+")  # such as instruction+input
        for field in (parts[0], names.response):
            if field not in value:
                there = ", ".join(map(repr, list(value)[:8])) or "nothing"
                option = "--prompt_field" if field == parts[0] else "--response_field"
                what = f"no field {field!r} and no {names.messages!r} (there is {there})"
                raise UserError(what, where=line.where, mend=f"name it: {option} NAME")
        texts = [text_field(value[part], part, line.where, empty=True) for part in parts if value.get(part) is not None]
        prompt = "\n\n".join(filter(None, texts))
        response = text_field(value[names.response], names.response, line.where)
        used = {*parts, names.response}
    return Record(_id(value, line, names), line.where, (response,), prompt, _others(value, used | {names.id}))


def _conversation(value: Any, field: str, where: str) -> tuple[str, str]:
    """Prompt and response of a chat: its last message is the response, all before it the prompt."""
    if not isinstance(value, list) or not value:
        got = "an empty one" if value == [] else named(value)
        raise UserError(f"field {field!r} must be a list of messages, got {got}", where=where)
    turns = []
    for i, one in enumerate(value):
        name = f"{field}[{i}]"
        role = one.get("role") if isinstance(one, dict) else None
        if not isinstance(role, str) or role not in _SPEAKERS:
            mend = f"a message has a 'role' ({', '.join(_SPEAKERS)}) and 'content'"
            raise UserError(f"{name} is no message", where=where, mend=mend)
        turns.append((role, text_field(_content(one.get("content")), f"{name}.content", where, empty=True)))
    if turns[-1][0] != "assistant" or not turns[-1][1]:
        mend = "leave the record out, or cut it after an answer"
        raise UserError(f"the last message of {field!r} is not an answer of the assistant", where=where, mend=mend)
    before = [turn for turn in turns[:-1] if turn[1]]
    if len(before) == 1:
        return before[0][1], turns[-1][1]
    said = [f"{_SPEAKERS[role]}: {text}" if _SPEAKERS[role] else text for role, text in before]
    return "\n\n".join(said), turns[-1][1]


def _content(value: Any) -> Any:
    """A message's text; a list of parts is what several servers write for it."""
    texts = [one.get("text") if isinstance(one, dict) else None for one in value] if isinstance(value, list) else []
    if texts and all(isinstance(text, str) for text in texts):
        return "".join(texts)
    return "" if value is None else value


def _others(value: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    """The fields that are kept. One with a name of ours is kept under another."""
    others = {}
    for name, one in value.items():
        if name in used:
            continue
        while name in _OURS or name in others:
            name = f"source_{name}"
        others[name] = one
    return others
