"""Prompts: a template file for each domain, filled in with the schema and a passage.

A template has two parts, each begun by a line of its own; what stands before the first is comment:

    How I ask about poems.
    [system]
    You annotate poems. Answer with one JSON object with these keys, at most {{max_tags}} values in all:
    {{keys}}
    [user]
    {"before": {{before}}, "passage": {{passage}}}

| placeholder | becomes |
|---|---|
| `{{about}}` | what the schema is for |
| `{{keys}}` | a line for each key that suits the passage: name, meaning, limits, allowed values |
| `{{max_tags}}` | values of an annotation, at most |
| `{{kind}}` | type of the passage, such as prose or code |
| `{{passage}}`, `{{before}}` | the texts, as JSON strings with their quotes; only in the user part |

Passages are data. They are put in as JSON strings, in one pass whose result is not looked at again, and what looks like
a control token of a chat template is escaped: no passage can end its string or open another message. Without a system
part (its line may be left out) only a user message is sent, for models that know no other.
"""

import hashlib
import json
import re
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import Key, Schema
from anchortrain.errors import UserError
from anchortrain.files import read_text
from anchortrain.nearest import suggest

GENERAL = "general"  # the template of schemas that have none of their own

_SECTION = re.compile(r"^\[(system|user)\][ \t]*$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{\{([^{}\n]*)\}\}")
_OF_SCHEMA = ("about", "keys", "max_tags", "kind")
_OF_PASSAGE = ("passage", "before")
# How control tokens of chat templates begin: <|im_end|>, <start_of_turn>, </s>, [INST], <<SYS>>, <｜end▁of▁sentence｜>.
_CONTROL = re.compile(r"<(?=[|｜<]|/?[A-Za-z_]+>)|\[(?=/?[A-Z_]{3,20}\])")

Message = dict[str, str]


class Template:
    """The two parts of a template file. Placeholders are known and in their places."""

    def __init__(self, name: str, system: str, user: str) -> None:
        self.name, self.system, self.user = name, system, user

    @cached_property
    def sha256(self) -> str:
        """Of both parts; comments do not count."""
        return hashlib.sha256(json.dumps([self.system, self.user]).encode()).hexdigest()

    def messages(self, schema: Schema, passage: Passage, context_characters: int) -> list[Message]:
        """The messages of the first request for a passage; `before` keeps its last `context_characters`."""
        kept = passage.before[max(0, len(passage.before) - context_characters) :]
        filled = {
            "about": schema.about,
            "keys": "\n".join(key_line(key) for key in schema.keys_for(passage.kind)),
            "max_tags": str(schema.max_tags),
            "kind": passage.kind,
            "passage": json_string(passage.text),
            "before": json_string(kept if len(kept) == len(passage.before) else f"…{kept}"),
        }
        parts = (("system", self.system), ("user", self.user))
        return [{"role": role, "content": _fill(text, filled)} for role, text in parts if text]


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found.group(1).strip()], text)


def json_string(text: str) -> str:
    """A JSON string with its quotes, in which nothing looks like a control token of a chat template."""
    # Lone surrogates have no UTF-8 form and stay escaped.
    plain = json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", plain)


def key_line(key: Key) -> str:
    """`- "location": where it happens. At most 3 words.`"""
    if key.values:
        values = ", ".join(json.dumps(value, ensure_ascii=False) for value in key.values)
        limit = f"{'One' if key.most == 1 else f'Up to {key.most}'} of {values}."
    else:
        words = f"{key.words} word{'s' * (key.words > 1)}"
        limit = f"At most {words}." if key.most == 1 else f"Up to {key.most} values of at most {words} each."
    return f'- "{key.name}"{f": {key.about}" if key.about else ""}. {limit}'


class Source(NamedTuple):
    """A template file's content and names."""

    name: str
    text: str
    where: str


def load_template(path: str, schema: Schema) -> Template:
    """The user's template, or the one that belongs to the schema when `path` is "". Raises UserError."""
    if path:
        return read_template(path)
    folder = resources.files("anchortrain.annotate") / "prompts"
    name = schema.name if (folder / f"{schema.name}.txt").is_file() else GENERAL
    text = (folder / f"{name}.txt").read_text(encoding="utf-8")
    return parse_template(Source(name, text, f"{name}.txt"))


def read_template(path: str) -> Template:
    """The template in a file. Raises UserError."""
    return parse_template(Source(Path(path).name, read_text(path, "the template"), path))


def parse_template(source: Source) -> Template:
    """Raises UserError on a part that is missing or there twice, and on placeholders that are unknown or misplaced."""
    _, *pieces = _SECTION.split(source.text)
    names, texts = pieces[::2], [text.strip() for text in pieces[1::2]]
    parts = dict(zip(names, texts, strict=True))
    if len(parts) < len(names) or not parts.get("user"):
        mend = "it needs the line [system] with the system message after it, then the line [user] with the user message"
        raise UserError("the template must have each part once, and the user part", where=source.where, mend=mend)
    for name, text in parts.items():
        _check_placeholders(name, text, source.where)
    if "passage" not in _placeholders(parts["user"]):
        raise UserError("the user part lacks {{passage}}", where=source.where, mend="put it where the passage belongs")
    return Template(source.name, parts.get("system", ""), parts["user"])


def _check_placeholders(part: str, text: str, where: str) -> None:
    for name in _placeholders(text):
        if name not in (*_OF_SCHEMA, *_OF_PASSAGE):
            mend = suggest(name, [*_OF_SCHEMA, *_OF_PASSAGE])
            raise UserError(f"unknown placeholder {name!r} in the {part} part", where=where, mend=mend)
        if part == "system" and name in _OF_PASSAGE:
            raise UserError(f"{{{{{name}}}}} belongs into the user part: it is data, no instruction", where=where)


def _placeholders(text: str) -> list[str]:
    return [name.strip() for name in _PLACEHOLDER.findall(text)]
