"""The body of a request, in the dialect that the server turned out to understand."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm.cache import cache_key
from anchortrain.annotate.llm.prompts import Message
from anchortrain.annotate.schema import Key

FORMAT = 1  # of requests and answers; cached answers of another one are asked again

_STEPS = ("json_schema", "json_object", "none")
_ABOUT_STRUCTURE = re.compile(
    r"response_format|json_schema|json_object|json mode|structured|guided|grammar|\bjson\b.*\bmessages\b|"
    r"\bmessages\b.*\bjson\b",
    re.IGNORECASE,
)
_REFUSAL_CHARACTERS = 4000  # that are searched for what the server minds


class Question(NamedTuple):
    """What is asked about one passage."""

    messages: Sequence[Message]
    keys: Sequence[Key]  # that suit the passage
    kind: str


class Dialect(NamedTuple):
    """Which of the fields that servers disagree on are sent, and how."""

    structured: str  # "json_schema", "json_object" or "none"
    limit: str = "max_tokens"  # newer models of some servers insist on "max_completion_tokens"


def first_dialect(config: LlmConfig) -> Dialect:
    """The one to begin with."""
    return Dialect(_STEPS[0] if config.structured == "auto" else config.structured)


def step_down(dialect: Dialect, refusal: str, *, auto: bool) -> Dialect | None:
    """The dialect to try after a refusal with this text; None when the refusal is about something else."""
    refusal = refusal[:_REFUSAL_CHARACTERS]
    if dialect.limit == "max_tokens" and "max_completion_tokens" in refusal:
        return dialect._replace(limit="max_completion_tokens")
    if auto and dialect.structured != _STEPS[-1] and _ABOUT_STRUCTURE.search(refusal):
        return dialect._replace(structured=_STEPS[_STEPS.index(dialect.structured) + 1])
    return None


def request(config: LlmConfig, question: Question, dialect: Dialect, complaint: str = "") -> dict[str, Any]:
    """The body as JSON values. A complaint says what was wrong with the last answer."""
    messages = [dict(message) for message in question.messages]
    if complaint:
        messages[-1]["content"] += (
            f"\n\nAn earlier answer to this was refused: {complaint}. Answer again, with one JSON object and nothing "
            f"else, and only these keys: {', '.join(key.name for key in question.keys)}."
        )
    body: dict[str, Any] = {"model": config.model, "messages": messages, dialect.limit: config.max_answer_tokens}
    if config.temperature >= 0:
        body["temperature"] = config.temperature
    if dialect.structured == "json_schema":
        named = {"name": "annotation", "strict": True, "schema": answer_schema(question.keys)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif dialect.structured == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def question_key(config: LlmConfig, question: Question, max_tags: int) -> bytes:
    """The key of its answer in the cache: a hash of all that decides it. The endpoint does not: the model does."""
    # What the server lets through is not known before; the whole of the first dialect stands for all.
    body = request(config, question, Dialect(_STEPS[0]))
    limits = [[key.name, key.values, key.most, key.words, key.case] for key in question.keys]
    return cache_key([FORMAT, config.structured, question.kind, max_tags, limits, body])


def encode(body: dict[str, Any]) -> bytes:
    """As sent."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def answer_schema(keys: Sequence[Key]) -> dict[str, Any]:
    """JSON Schema of an answer: a list of strings for each key, in the subset that all strict servers know."""
    properties = {}
    for key in keys:
        items = {"type": "string", "enum": list(key.values)} if key.values else {"type": "string"}
        properties[key.name] = {"type": "array", "items": items}
    required = [key.name for key in keys]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
