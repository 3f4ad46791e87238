"""What a chat completion says: strictly one JSON object with the keys of the schema, or a reason why not.

Nothing here trusts the server: every shape is checked, and nothing is guessed or repaired.
"""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple, NoReturn

from anchortrain.annotate.llm.prompts import json_string

MAX_REASON_CHARACTERS = 200

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
_MAX_COUNT = 10**9  # of tokens in one request; more is no count


class BadAnswer(Exception):
    """An answer that cannot be used. `complaint`: the model itself can mend it when told the reason."""

    def __init__(self, reason: str, *, complaint: bool) -> None:
        self.reason, self.complaint = reason, complaint
        super().__init__(reason)


class Usage(NamedTuple):
    """Tokens that the server counted."""

    prompt_tokens: int
    answer_tokens: int


def one_line(text: str, limit: int = MAX_REASON_CHARACTERS) -> str:
    """At most `limit` printable characters on one line."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * limit]).split())
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def load_json(text: str) -> Any:
    """Any JSON value. Raises ValueError, also on NaN, a key that is there twice, and nesting without end."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def envelope(text: str) -> dict[str, Any]:
    """The JSON object that a server answers with. Raises BadAnswer."""
    try:
        value = load_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadAnswer("the server's answer is no JSON object", complaint=False)
    return value


def usage(reply: dict[str, Any]) -> Usage | None:
    """What the server says that it counted; None when it does not, or not believably."""
    found = reply.get("usage")
    if not isinstance(found, dict):
        return None
    counts = [found.get("prompt_tokens"), found.get("completion_tokens", 0)]
    if any(type(count) is not int or not 0 <= count <= _MAX_COUNT for count in counts):
        return None
    return Usage(*counts)


def values(reply: dict[str, Any], keys: Collection[str]) -> dict[str, list[str]]:
    """The values found for each key. Raises BadAnswer."""
    return _values(_content(reply), keys)


def _content(reply: dict[str, Any]) -> str:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        said = server_message(reply)
        raise BadAnswer(f"the server's answer has no choices{f': {said}' if said else ''}", complaint=False)
    reason, message = choices[0].get("finish_reason"), choices[0].get("message")
    if not isinstance(message, dict):
        raise BadAnswer("the server's answer has no message", complaint=False)
    if reason == "length":
        raise BadAnswer("it was cut off at the limit of answer tokens", complaint=True)
    if reason == "content_filter":
        raise BadAnswer("the server's content filter stopped it", complaint=False)
    if message.get("refusal"):
        raise BadAnswer(f"the model refused: {one_line(json_string(str(message['refusal'])), 80)}", complaint=True)
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise BadAnswer("it was empty", complaint=True)
    return content


def _values(content: str, keys: Collection[str]) -> dict[str, list[str]]:
    text = content.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced.group(1)
    try:
        found = load_json(text)
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadAnswer(f"it was not one JSON object and nothing else ({one_line(why, 80)})", complaint=True) from None
    if not isinstance(found, dict):
        raise BadAnswer("it was JSON, but no object", complaint=True)
    for key in found:
        if key not in keys:
            raise BadAnswer(f"it had the key {one_line(json_string(key), 40)}, which is not allowed", complaint=True)
    return {key: _strings(key, value) for key, value in found.items()}


def _strings(key: str, value: Any) -> list[str]:
    many = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in many):
        raise BadAnswer(f'the value of "{key}" was neither a string nor a list of strings', complaint=True)
    return many


def error_of(text: str) -> tuple[str, str]:
    """What a server says of an error, on a short line, and its machine-readable code; "" where there is none."""
    try:
        reply = load_json(text)
    except ValueError:
        return one_line(text, 120), ""
    error = reply.get("error") if isinstance(reply, dict) else None
    code = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    return server_message(reply), code if isinstance(code, str) else ""


def server_message(reply: Any) -> str:
    """The message in a server's JSON, wherever servers put it, on a short line; "" where it says nothing."""
    for field in ("error", "message", "detail"):
        if isinstance(reply, dict) and reply.get(field):
            reply = reply[field]
    return one_line(reply if isinstance(reply, str) else json.dumps(reply), 120) if reply else ""
