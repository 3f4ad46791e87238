"""The bodies of requests as OpenAI's API has them, and the extension `anchortrain`, checked by pydantic.

What is not supported is named here, too: it may have the value that changes nothing, and no other.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from anchortrain import annotation
from anchortrain.annotation import Annotation, Tag
from anchortrain.decode.settings import FILTERS
from anchortrain.serve.errors import ApiError

_MOST_STOPS = 4
_MOST_STOP_CHARACTERS = 256
_MOST_TAGS = 4096  # far more than any plan has; but values to forbid may be many
_MOST_PREFIX_CHARACTERS = 1 << 14
_LEAST_TEMPERATURE = 1e-3  # lower ones overflow in float32
_MOST_TEMPERATURE = 100.0


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def _temperature(value: Any) -> Any:
    if isinstance(value, int | float) and value != 0 and not _LEAST_TEMPERATURE <= value <= _MOST_TEMPERATURE:
        raise ValueError(f"a temperature must be 0 or from {_LEAST_TEMPERATURE:g} to {_MOST_TEMPERATURE:g}")
    return value


def _pairs(value: Any) -> Any:
    """Tags in their other form, `{key: value or [values]}`, as pairs; what is neither is left to be refused."""
    if not isinstance(value, dict):
        return value
    return [[key, one] for key, of in value.items() for one in (of if isinstance(of, list) else [of])]


def _tag(value: Any) -> Tag:
    return annotation.from_json([value])[0]


def _once(tags: list[Tag]) -> Annotation:
    """A tag that is given twice is one."""
    return tuple(dict.fromkeys(tags))


def _within(name: str) -> Any:
    least, most, _ = FILTERS[name]
    return Field(None, ge=least, le=most)


Temperature = Annotated[float | None, BeforeValidator(_temperature)]
# Lists end at their first error: a body of nothing but errors would keep everyone waiting for them all.
Tags = Annotated[
    list[Annotated[Any, BeforeValidator(_tag)]],
    Field(max_length=_MOST_TAGS, fail_fast=True),
    BeforeValidator(_pairs),
    AfterValidator(_once),
]


class Extension(_Strict):
    """The object `anchortrain` of a request. Settings without a stage in their name are the response's."""

    mode: Literal["two_stage", "single_stage"] | None = None
    fixed: Tags | None = None
    forbidden: Tags | None = None
    required: Annotated[list[str], Field(max_length=_MOST_TAGS, fail_fast=True)] = []
    prefix: str | None = Field(None, max_length=_MOST_PREFIX_CHARACTERS)
    plan: Tags | None = None
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
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS, fail_fast=True)] | None = None
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
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    # What the message of an answer also has, so that it can be sent back as it is.
    refusal: str | None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Body):
    """Of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
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

    prompt: str | Annotated[list[str], Field(min_length=1, fail_fast=True)]
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


_NO_DISTRIBUTIONS = "only the log-probabilities of the drawn tokens can be given:"
_A_STRING = "must be a string or a list of strings"
_EMPTY_STOP = "an empty string would stop every response before it begins"
_TAGS = "must be an object {key: value or [values]} or a list of pairs [key, value]"
# (field, or field.* for what its list has; pydantic's type of error) -> what is said. All else is said in pydantic's
# words.
_SAID = {
    ("logprobs", "literal_error"): f"{_NO_DISTRIBUTIONS} logprobs must be 0",
    ("top_logprobs", "literal_error"): f"{_NO_DISTRIBUTIONS} top_logprobs must be 0",
    ("messages", "too_short"): "is empty",
    ("prompt", "too_short"): "is empty",
    ("prompt", "string_type"): f"{_A_STRING}; token ids are not supported",
    ("prompt.*", "string_type"): "must be a string; token ids are not supported",
    ("stop", "too_long"): "at most four strings",
    ("stop", "string_type"): _A_STRING,
    ("stop", "string_too_short"): _EMPTY_STOP,
    ("stop.*", "string_too_short"): _EMPTY_STOP,
    ("content", "string_type"): "must be a string or a list of parts of type text",
    **{(name, "list_type"): _TAGS for name in ("fixed", "forbidden", "plan")},
    **{(name, "too_long"): f"at most {_MOST_TAGS} of them" for name in ("fixed", "forbidden", "plan", "required")},
}
_MERE_TYPES = ("string_type", "list_type")


def _refusal(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # A field that may be one of several types has an error for each: the one that went deepest fits best, and then one
    # that says more than that it is not of the other type.
    first = found[0]["loc"][:1]
    of_field = (one for one in found if one["loc"][:1] == first)
    best = max(of_field, key=lambda one: (len(one["loc"]), one["type"] not in _MERE_TYPES))
    place = [part for part in best["loc"] if isinstance(part, int) or part in _NAMES]
    param = ".".join(map(str, place))
    if best["type"] == "json_invalid":
        said = best["msg"].removeprefix("Invalid JSON: ")
        if "hex escape" in said:
            said += "; half of a surrogate pair is no character"
        return ApiError(400, f"the body is not JSON: {said}", code="invalid_json")
    if best["type"] == "extra_forbidden":
        name = ".".join(map(str, best["loc"]))[:100]
        return ApiError(400, f"unknown field {name!r}", param=name, code="unknown_parameter")
    if best["type"] == "none_required":
        return ApiError(400, f"{param} is not supported; leave it out", param=param, code="unsupported_parameter")
    field = next((part for part in reversed(place) if isinstance(part, str)), "")
    field += ".*" if place[-1:] != [field] else ""
    said = _SAID.get((field, best["type"]), best["msg"].removeprefix("Value error, "))
    return ApiError(400, f"{param}: {said}" if param else said, param=param or None, code="invalid_value")


_NAMES = frozenset(
    name
    for model in (ChatBody, CompletionBody, Extension, StreamOptions, Message, TextPart)
    for name in model.model_fields
)
