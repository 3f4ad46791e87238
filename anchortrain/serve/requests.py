"""A request's body becomes samples to draw."""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.prompts import encode_turns
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steered, Steering
from anchortrain.errors import UserError
from anchortrain.serve.errors import ApiError
from anchortrain.serve.fields import ChatBody, CompletionBody, Extension, Message
from anchortrain.serve.settings import ServeConfig
from anchortrain.serve.worker import Draw

# Where the extension's names differ from those of `SamplingConfig`.
_RESPONSE_NAMES = {
    "top_k": "response_top_k",
    "min_p": "response_min_p",
    "repetition_penalty": "response_repetition_penalty",
}
_SAME_NAMES = (
    "mode",
    "constrain",
    "max_annotation_tokens",
    "annotation_temperature",
    "annotation_top_k",
    "annotation_top_p",
    "annotation_min_p",
    "annotation_repetition_penalty",
)


class Ask(NamedTuple):
    """What a request wants."""

    draws: tuple[Draw, ...]  # one a choice
    stops: tuple[str, ...]
    seed: int
    stream: bool
    usage: bool  # in a last chunk of the stream
    logprobs: bool
    annotation: bool  # is shown
    prompt_tokens: int


def ask_of(
    body: ChatBody | CompletionBody,
    vocabulary: Vocabulary,
    keys: Sequence[str],
    defaults: SamplingConfig,
    limits: ServeConfig,
) -> Ask:
    """What a checked body asks for, within the limits.

    Choice i of a request is drawn with its seed and index i; choices of the first prompt come first.

    Args:
      keys: of the schema, in their order.

    Raises:
      ApiError: 400 for what cannot be drawn, naming the field.
    """
    chat = isinstance(body, ChatBody)
    extension = body.anchortrain or Extension()
    n = body.n or 1
    texts = [] if chat else [body.prompt] if isinstance(body.prompt, str) else body.prompt
    count = n if chat else n * len(texts)
    if count > limits.max_n:
        what = f"n: at most {limits.max_n} choices in one request, of all its prompts together"
        raise ApiError(400, what, param="n", code="too_many_choices")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is only possible with stream", param="stream_options", code="invalid_value")
    if not chat:
        for place, text in enumerate(texts):
            _check_says("prompt" if isinstance(body.prompt, str) else f"prompt.{place}", text)
    conversations = [_turns(body.messages)] if chat else [[text] for text in texts]
    prompts = [_encode(vocabulary, turns, limits, "messages" if chat else "prompt") for turns in conversations]
    config = _config(body, extension, defaults, limits)
    steering = _steering(extension, vocabulary, keys, config)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    draws = tuple(Draw(prompts[index // n], config, seed, index, steering) for index in range(count))
    return Ask(
        draws=draws,
        stops=body.stops,
        seed=seed,
        stream=bool(body.stream),
        usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=body.logprobs is not None and body.logprobs is not False,
        annotation=extension.return_annotation,
        prompt_tokens=sum(map(len, prompts)),
    )


def _check_says(field: str, text: str) -> None:
    """Raises ApiError for a prompt without words: none of those that the model was trained on is like that."""
    if not text.strip():
        raise ApiError(400, f"{field}: is empty", param=field, code="invalid_value")


def _turns(messages: list[Message]) -> list[str]:
    """User, assistant, user, … The system's text stands before the first user's, with a blank line between."""
    first = next((i for i, message in enumerate(messages) if message.role in ("user", "assistant")), len(messages))
    system, rest = [message.text for message in messages[:first]], messages[first:]
    for i, message in enumerate(rest):
        expected, place = ("user", "assistant")[i % 2], f"messages.{first + i}"
        if message.role != expected:
            what = f"{place}: after the system, user and assistant take turns: expected {expected}"
            raise ApiError(400, f"{what}, got {message.role}", param=f"{place}.role", code="invalid_value")
        if message.role == "user":
            _check_says(f"{place}.content", message.text)
    if len(rest) % 2 == 0:
        raise ApiError(400, "messages must end with the user's", param="messages", code="invalid_value")
    texts = [message.text for message in rest]
    return ["\n\n".join([*(text for text in system if text.strip()), texts[0]]), *texts[1:]]


def _encode(vocabulary: Vocabulary, turns: list[str], limits: ServeConfig, field: str) -> tuple[int, ...]:
    try:
        tokens = encode_turns(vocabulary, turns)
    except UserError as error:
        raise ApiError(400, f"{field}: {error}", param=field, code="invalid_value") from None
    if len(tokens) > limits.max_prompt_tokens:
        what = f"{field}: {len(tokens)} tokens with the control tokens, at most {limits.max_prompt_tokens} are possible"
        raise ApiError(400, what, param=field, code="context_length_exceeded")
    return tuple(tokens)


def _config(
    body: ChatBody | CompletionBody, extension: Extension, defaults: SamplingConfig, limits: ServeConfig
) -> SamplingConfig:
    most, named = body.max_tokens, "max_tokens"
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        if most not in (None, body.max_completion_tokens):
            what = "max_tokens and max_completion_tokens are two names of one setting, but differ"
            raise ApiError(400, what, param="max_tokens", code="invalid_value")
        most, named = body.max_completion_tokens, "max_completion_tokens"
    changes = {
        "response_temperature": body.temperature,
        "response_top_p": body.top_p,
        "max_response_tokens": most,
        **{ours: getattr(extension, name) for name, ours in _RESPONSE_NAMES.items()},
        **{name: getattr(extension, name) for name in _SAME_NAMES},
    }
    for param, name, limit in (
        (named, "max_response_tokens", limits.max_tokens),
        ("anchortrain.max_annotation_tokens", "max_annotation_tokens", limits.max_annotation_tokens),
    ):
        if (changes[name] or 0) > limit:
            raise ApiError(400, f"{param}: at most {limit}", param=param, code="invalid_value")
    if changes["mode"] == "two_stage" and defaults.mode == "single_stage":
        what = "anchortrain.mode: this model was trained without annotations"
        raise ApiError(400, what, param="anchortrain.mode", code="invalid_value")
    return dataclasses.replace(defaults, **{name: value for name, value in changes.items() if value is not None})


def _steering(extension: Extension, vocabulary: Vocabulary, keys: Sequence[str], config: SamplingConfig) -> Steering:
    given = {
        "fixed": extension.fixed or (),
        "forbidden": extension.forbidden or (),
        "required": tuple(extension.required),
        "prefix": extension.prefix or "",
        "plan": extension.plan,
    }
    said = [name for name, value in given.items() if value or (name == "plan" and value is not None)]
    if said and config.mode == "single_stage":
        what = f"anchortrain.{said[0]}: in mode single_stage there is no annotation to steer"
        raise ApiError(400, what, param=f"anchortrain.{said[0]}", code="invalid_value")
    # Each alone before all together, so that what is wrong with one is said of it. The sampler would find the same, but
    # in the thread that draws for everyone.
    for name in said:
        _checked({name: given[name]}, f"anchortrain.{name}", vocabulary, keys, config)
    return _checked(given, "anchortrain", vocabulary, keys, config)


def _checked(
    given: dict[str, Any], param: str, vocabulary: Vocabulary, keys: Sequence[str], config: SamplingConfig
) -> Steering:
    try:
        steering = Steering(**given)
        if steering:
            Steered(vocabulary, keys, steering, config)
    except UserError as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="invalid_value") from None
    return steering
