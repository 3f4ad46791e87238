"""How to sample. Imports nothing heavy: the command line shows the defaults."""

import dataclasses
import math

from anchortrain.errors import UserError

MODES = ("two_stage", "single_stage", "document")

# Setting of a stage -> least and most it may be, in words.
FILTERS = {
    "top_k": (0, 2**31 - 1, "0 or more"),
    "top_p": (1e-6, 1.0, "above 0 and at most 1"),
    "min_p": (0.0, 1.0, "from 0 to 1"),
    "repetition_penalty": (1e-3, 1e3, "between 0.001 and 1000"),
}


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How to sample. Temperature 0 is greedy.

    Limits are in tokens: `max_annotation_tokens` for each annotation, its closing delimiter included;
    `max_response_tokens` for everything after the first annotation, `<eos>` included.
    """

    mode: str = "two_stage"  # "single_stage": no annotation (ablation); "document": what a base model writes
    annotation_temperature: float = 1.0
    response_temperature: float = 1.0
    max_annotation_tokens: int = 64
    max_response_tokens: int = 256
    # Of each stage, applied in this order among the tokens that are permitted at all; see `decode.filters`.
    annotation_repetition_penalty: float = 1.0  # above 1: against tokens of the prompt and of the sample so far
    response_repetition_penalty: float = 1.0
    annotation_top_k: int = 0  # the likeliest so many; 0 keeps all
    response_top_k: int = 0
    annotation_top_p: float = 1.0  # the likeliest that have this probability together
    response_top_p: float = 1.0
    annotation_min_p: float = 0.0  # those with at least this share of the likeliest's probability
    response_min_p: float = 0.0
    constrain: bool = False  # annotations to well-formed ones that close in time
    batch_size: int = 128

    def filters(self, name: str) -> tuple[float, float]:
        """One of `FILTERS` for annotation and text."""
        return getattr(self, f"annotation_{name}"), getattr(self, f"response_{name}")

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}", where="SamplingConfig")
        for name in ("annotation_temperature", "response_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"{name} must be a number from 0 on, got {getattr(self, name)}", where="SamplingConfig")
        for stage in ("annotation", "response"):
            for name, (least, most, words) in FILTERS.items():
                value = getattr(self, f"{stage}_{name}")
                if not (least <= value <= most and math.isfinite(value)):
                    raise UserError(f"{stage}_{name} must be {words}, got {value}", where="SamplingConfig")
        for name in ("max_annotation_tokens", "max_response_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}", where="SamplingConfig")
