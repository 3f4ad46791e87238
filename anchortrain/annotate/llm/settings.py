"""What the user set for the llm annotator: checked, and described without anything that must not be known."""

import dataclasses
import math
import os
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm.prompts import load_template, read_template
from anchortrain.annotate.schema import Schema
from anchortrain.errors import UserError
from anchortrain.nearest import suggest

STRUCTURED = ("auto", "json_schema", "json_object", "none")
MAX_CONCURRENCY = 1024

_PATH = "/chat/completions"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[\x21-\x7e]+")

# Field -> least value, most value.
_LIMITS = {
    "temperature": (-math.inf, 2.0),
    "max_answer_tokens": (1, 1_000_000),
    "concurrency": (1, MAX_CONCURRENCY),
    "timeout_seconds": (0.001, 86_400.0),
    "attempts": (1, 1000),
    "backoff_seconds": (0.0, 3600.0),
    "context_characters": (0, 1_000_000),
    "max_requests": (0, 2**53),
    "max_tokens": (0, 2**53),
    "max_cost": (0.0, 1e15),
    "prompt_price": (0.0, 1e15),
    "answer_price": (0.0, 1e15),
}


class Endpoint(NamedTuple):
    """Where requests go."""

    url: str  # with the path of chat completions
    shown: str  # host:port, for messages: a path may hold a secret


def check(config: LlmConfig) -> None:
    """Raises UserError on whatever cannot work, before anything is sent. No message repeats what may be a key."""
    endpoint_of(config)
    if not config.model.strip():
        raise UserError("no model", where="LlmConfig.model", mend="name one that the endpoint serves")
    if config.structured not in STRUCTURED:
        mend = suggest(config.structured, STRUCTURED)
        raise UserError(f"unknown mode {config.structured!r}", where="LlmConfig.structured", mend=mend)
    if config.api_key_env and not _VARIABLE.fullmatch(config.api_key_env):
        what = "this is not the name of an environment variable"
        raise UserError(what, where="LlmConfig.api_key_env", mend="the key itself belongs into the environment")
    for field, (least, most) in _LIMITS.items():
        _check_number(config, field, least, most)
    if config.max_cost > 0 and config.prompt_price == config.answer_price == 0:
        mend = "set LlmConfig.prompt_price and answer_price, of a million tokens"
        raise UserError("a limit of cost needs prices", where="LlmConfig.max_cost", mend=mend)
    if config.prompt:
        read_template(config.prompt)


def _check_number(config: LlmConfig, field: str, least: float, most: float) -> None:
    value, where = getattr(config, field), f"LlmConfig.{field}"
    whole = isinstance(getattr(LlmConfig, field), int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise UserError(f"must be {'an integer' if whole else 'a number'}, got {value!r}", where=where)
    if not least <= value <= most:  # false for NaN as well
        span = f"at most {most:g}" if least == -math.inf else f"between {least:g} and {most:g}"
        raise UserError(f"must be {span}, got {value!r}", where=where)


def endpoint_of(config: LlmConfig) -> Endpoint:
    """The checked endpoint. Raises UserError; the text of a bad one is not repeated, since it may hold a key."""
    where, example = "LlmConfig.endpoint", "give one such as http://127.0.0.1:8000/v1"
    text = config.endpoint
    if not text:
        raise UserError("no endpoint", where=where, mend=example)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UserError("not a URL", where=where, mend=example) from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError("it must be a URL that begins with http:// or https://", where=where, mend=example)
    if "@" in parts.netloc:
        mend = "name the environment variable with the key in LlmConfig.api_key_env"
        raise UserError("it must hold no user name, password or key", where=where, mend=mend)
    if "?" in text or "#" in text:
        raise UserError("it must have no query string and no fragment", where=where, mend=example)
    if not text.isascii() or not text.isprintable() or set(text) & set(' \\"<>^`{|}'):
        raise UserError("it has characters that no URL may have", where=where, mend=example)
    path = parts.path.rstrip("/").removesuffix(_PATH).rstrip("/")
    shown = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    return Endpoint(f"{parts.scheme}://{parts.netloc}{path}{_PATH}", f"{shown}:{port or default}")


def api_key(config: LlmConfig) -> str:
    """The key, from the environment; "" where none is set. Raises UserError on one that no header can carry."""
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if key and not _KEY.fullmatch(key):
        what = f"the key in the environment variable {config.api_key_env} has spaces, line ends or non-ASCII letters"
        raise UserError(what, mend="set it again, without quotes or comments")
    return key


def describe(config: LlmConfig, schema: Schema) -> dict[str, Any]:
    """What decides an answer besides schema and passage, as plain JSON values; neither endpoint nor key.

    Raises UserError when the template cannot be used.
    """
    names = ("model", "temperature", "max_answer_tokens", "structured", "context_characters")
    chosen = {name: value for name, value in dataclasses.asdict(config).items() if name in names}
    template = load_template(config.prompt, schema)
    return chosen | {"prompt": template.name, "prompt_sha256": template.sha256}
