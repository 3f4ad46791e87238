"""How to sample. Imports nothing heavy: the command line shows the defaults."""

import dataclasses
import math

from anchortrain.errors import UserError

MODES = ("two_stage", "single_stage", "document")


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
    constrain: bool = False  # annotations to well-formed ones that close in time
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}", where="SamplingConfig")
        for name in ("annotation_temperature", "response_temperature"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"{name} must be a number from 0 on, got {getattr(self, name)}", where="SamplingConfig")
        for name in ("max_annotation_tokens", "max_response_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}", where="SamplingConfig")
