"""The bodies of requests as OpenAI's API has them, and the extension `anchortrain`, checked by pydantic.

What is not supported is named here, too: it may have the value that changes nothing, and no other.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from anchortrain import annotation
from anchortrain.annotation import Annotation
from anchortrain.decode.settings import FILTERS
from anchortrain.serve.errors import ApiError

MOST_STOPS = 4
_MOST_STOP_CHARACTERS = 256
_LEAST_TEMPERATURE = 1e-3  # lower ones overflow in float32
_MOST_TEMPERATURE = 100.0


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def _temperature(value: Any) -> Any:
    if isinstance(value, int | float) and value != 0 and not _LEAST_TEMPERATURE <= value <= _MOST_TEMPERATURE:
        raise ValueError(f"a temperature must be 0 or from {_LEAST_TEMPERATURE:g} to {_MOST_TEMPERATURE:g}")
    return value


def _tags(value: Any) -> Annotation | None:
    return None if value is None else annotation.from_json(value)


def _within(name: str) -> Any:
    least, most, _ = FILTERS[name]
    return Field(None, ge=least, le=most)


Temperature = Annotated[float | None, BeforeValidator(_temperature)]
Tags = Annotated[Any, BeforeValidator(_tags)]  # {key: value or [values]}, or [[key, value], …]


class Extension(_Strict):
    """The object `anchortrain` of a request. Settings without a stage in their name are the response's."""

    mode: Literal["two_stage", "single_stage"] | None = None
    fixed: Tags = None
    forbidden: Tags = None
    required: list[str] = []
    prefix: str | None = None
    plan: Tags = None
    return_annotation: bool = False
    constrain: bool | None = None
    max_annotation_tokens: int | None = Field(None, ge=1)
    annotation_temperature: Temperature = None
    annotation_top_k: int | None = _within("top_k")
    annotation_top_p: float | None = _within("top_p")
    annotation_min_p: float | None = _within("min_p")
    annotation_repetition_penalty: float | None = _within("repetition_penalty")
    top_k: int | None = _within("top_k")
    min_p: float | None = _within("min_p")
    repetition_penalty: float | None = _within("repetition_penalty")


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


Stop = Annotated[str, Field(min_length=1, max_length=_MOST_STOP_CHARACTERS)]


class _Body(_Strict):
    model: str
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: Temperature = None
    top_p: float | None = _within("top_p")
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 32)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # a name for abuse reports, which nobody needs here
    anchortrain: Extension | None = None

    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None

    # Field -> values that change nothing, beside null.
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
    }

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Body):
    """Of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Literal[0] | None = None

    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        **_Body.without_effect,
        "tools": ([],),
        "tool_choice": ("none",),
        "parallel_tool_calls": (),
        "functions": ([],),
        "function_call": ("none",),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": (),
        "verbosity": (),
        "web_search_options": (),
        "store": (False,),
        "metadata": ({},),
        "service_tier": ("auto", "default"),
    }


class CompletionBody(_Body):
    """Of `/v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    logprobs: Literal[0] | None = None

    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        **_Body.without_effect,
        "best_of": (),
        "echo": (False,),
        "suffix": ("",),
    }


_Any = TypeVar("_Any", ChatBody, CompletionBody)


def parse(kind: type[_Any], content: bytes) -> _Any:
    """The checked body of a request. Raises ApiError 400, naming the field."""
    try:
        body = kind.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error) from None
    for name, harmless in kind.without_effect.items():
        value = getattr(body, name)
        if value is None or any(type(value) is not bool and value == one or value is one for one in harmless):
            continue
        if name == "best_of" and value == (body.n or 1):
            continue
        message = f"{name} is not supported; leave it out"
        if harmless:
            message += f", or give {harmless[0]!r}"
        raise ApiError(400, message, param=name, code="unsupported_parameter")
    return body


# Whatever else is wrong is said in pydantic's words.
_TOP_LOGPROBS = "only the log-probabilities of the drawn tokens can be given: top_logprobs must be 0"
_SAID = {
    ("top_logprobs",): _TOP_LOGPROBS,
    ("logprobs",): "only the log-probabilities of the drawn tokens can be given: logprobs must be 0",
}


def _refusal(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_context=False)
    # A field that may be one of several types has an error for each: the one that went deepest fits best.
    first = found[0]["loc"][:1]
    best = max((one for one in found if one["loc"][:1] == first), key=lambda one: len(one["loc"]))
    place = [part for part in best["loc"] if isinstance(part, int) or part in _NAMES]
    param = ".".join(map(str, place)) or None
    if best["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {best['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    if best["type"] == "extra_forbidden":
        name = ".".join(map(str, best["loc"]))[:100]
        return ApiError(400, f"unknown field {name!r}", param=name, code="unknown_parameter")
    if first == ("prompt",):
        param = "prompt"
        said = "prompt must be a string or a list of strings; token ids are not supported"
    elif tuple(best["loc"]) in _SAID and best["type"] == "literal_error":
        said = _SAID[tuple(best["loc"])]
    else:
        said = best["msg"].removeprefix("Value error, ")
    message = said if param is None or said.startswith(str(param)) else f"{param}: {said}"
    return ApiError(400, message[:500], param=param, code="invalid_value")


_NAMES = frozenset(
    name
    for model in (ChatBody, CompletionBody, Extension, StreamOptions, Message, TextPart)
    for name in model.model_fields
)
