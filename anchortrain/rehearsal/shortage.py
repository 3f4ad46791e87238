"""The error of a harvest that is too small: what happened, and what helps."""

from typing import Any

from anchortrain.errors import UserError
from anchortrain.rehearsal.config import RehearsalConfig

# Word in the commonest reason -> what to do.
_MENDS = {
    "not closed": "raise RehearsalConfig.max_annotation_tokens",
    "not finished": "raise RehearsalConfig.max_response_tokens, or post-train longer",
    "longer than a row": "lower RehearsalConfig.max_response_tokens",
    "form": "post-train longer before rehearsing, lower RehearsalConfig.response_temperature, or raise draws",
    "graded": "lower RehearsalConfig.judge_grade or response_temperature, or raise draws",
    "unlikely": "lower RehearsalConfig.likelihood_quantile or least_logprob",
}
_SOFTER = (
    "lower RehearsalConfig.agreement (such as 0.5: plans are then corrected to what was written), "
    "keep the best by score (RehearsalConfig.best), or raise draws"
)


class Shortage(UserError):
    """A harvest kept too little."""


def shortage(figures: dict[str, Any], config: RehearsalConfig, where: str) -> Shortage:
    """One line: acceptance, the most common reason, and the mend for it.

    Nothing is drawn again after it: the same command with other settings goes on from the samples that are there.
    """
    what = f"only {figures['records']} of {figures['drawn']} drawn plans were kept, at least {config.least} are needed"
    reason, count = next(iter(figures["left"].items()), ("", 0))
    mend = "raise RehearsalConfig.draws"
    if reason:
        what += f"; {count} failed because: {reason}"
        mend = next((mend for word, mend in _MENDS.items() if word in reason), None)
        mend = mend or (_SOFTER if "disagrees" in reason or "read back" in reason else "raise RehearsalConfig.draws")
    return Shortage(what, where=where, mend=mend)
