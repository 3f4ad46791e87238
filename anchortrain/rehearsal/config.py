"""The configuration of rehearsal, bound by gin beside the sections of the experiment.

`RehearsalConfig` belongs to `anchortrain rehearse` and `anchortrain harvest`. The sections of the annotators are there
for the checkers that use them: `AnnotateConfig` and `LlmConfig` mean what they mean to `anchortrain annotate`.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from anchortrain.annotate.config import AnnotateConfig, LlmConfig
from anchortrain.config import Experiment
from anchortrain.config_checks import check_values
from anchortrain.config_reader import build, read_bindings
from anchortrain.errors import UserError
from anchortrain.nearest import suggest

CHECKERS = ("story_parser", "annotator", "judge", "likelihood")
CHOICES = {"correction": ("none", "stratify", "reweight"), "pool": ("last", "all"), "on_shortage": ("error", "stop")}


@dataclasses.dataclass(frozen=True)
class RehearsalConfig:
    """Rounds of rehearsal."""

    rounds: int = 1
    start: str = ""  # post-trained run to begin with; "" trains the experiment first, as round 0
    seed: int = 0  # of prompts, plans and responses; each round has one of its own

    # The harvest of a round.
    draws: int = 2048  # plans, each with a response
    annotation_temperature: float = 1.0
    response_temperature: float = 1.0
    max_annotation_tokens: int = 64
    max_response_tokens: int = 256
    batch_size: int = 128
    checkers: str = ""  # one of CHECKERS, or several joined by '+': all must confirm, asked in this order
    agreement: float = 1.0  # share of a plan's keys that must be read back from the response
    best: int = 0  # at least so many are kept: where fewer are confirmed, the best-scored of those that disagree
    least: int = 64  # with fewer kept, a harvest is too small to be trained on
    # After the first round such a harvest is an "error", or makes the rehearsal "stop" with the rounds that it has.
    on_shortage: str = "error"
    # How kept plans are brought back to the distribution of those drawn: "stratify" writes a rejected plan again,
    # "reweight" rakes the kept records and repeats or drops them.
    correction: str = "stratify"
    retries: int = 2  # responses more that a rejected plan gets, with "stratify"
    max_weight: float = 4.0  # of a record, as a multiple of the mean, with "reweight"

    # Training on it.
    pool: str = "all"  # harvests trained on: of the "last" round, or of "all" so far
    share: float = 0.5  # of the training tokens that are harvest; the experiment's own data has the rest
    tokens: int = 400_000  # of each round
    learning_rate: float = 0.0  # of the rounds; 0 takes the experiment's

    # The checkers.
    world: str = ""  # world.json, for "story_parser"
    annotate_job: str = ""  # directory of the `anchortrain annotate` job whose fitted model "annotator" uses
    judge_prompt: str = ""  # template file for "judge"; "" takes ours
    judge_grade: int = 4  # least grade of 1 to 5 that "judge" keeps
    reference: str = ""  # run that "likelihood" measures under; "" is the run that post-training started from
    likelihood_quantile: float = 0.05  # this share, the least likely, is rejected
    least_logprob: float = 0.0  # nats a token below which a response is rejected; 0 sets none


# Field -> least and most that it may be; every number has an entry (a test asserts it).
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("rounds", "draws", "max_annotation_tokens", "max_response_tokens"), (1, 2**31 - 1)),
    **dict.fromkeys(("batch_size", "least", "tokens"), (1, 2**40)),
    "seed": (0, 2**31 - 1),
    "annotation_temperature": (0.0, 100.0),
    "response_temperature": (0.0, 100.0),
    "agreement": (0.0, 1.0),
    "best": (0, 2**31 - 1),
    "retries": (1, 100),
    "max_weight": (1.0, 1e6),
    "share": (0.0, 1.0),
    "learning_rate": (0.0, 1e6),
    "judge_grade": (1, 5),
    "likelihood_quantile": (0.0, 1.0),
    "least_logprob": (-1e6, 0.0),
}
_OPEN_SHARES = ("share",)  # neither 0 nor 1: one of the two parts would be missing


@dataclasses.dataclass(frozen=True)
class Rehearsing(Experiment):
    """All that gin files of a rehearsal can bind."""

    rehearsal: RehearsalConfig
    annotate: AnnotateConfig
    llm: LlmConfig

    @property
    def experiment(self) -> Experiment:
        """Its sections alone: what `anchortrain.train.train` takes."""
        return Experiment(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Experiment)})


def load(gin_files: Sequence[str | Path], bindings: Sequence[str] = (), *, training: bool = True) -> Rehearsing:
    """What gin files and then single bindings describe. Raises UserError, with file and line, on anything unknown,
    mistyped or impossible.

    Args:
      training: False leaves the experiment unchecked, which a harvest does not need.
    """
    bound = read_bindings(Rehearsing, gin_files, bindings)
    where = {name: one.where for name, one in bound.items()}
    found = build(Rehearsing, bound)
    if training:
        check_values(found.experiment, where)
    check(found.rehearsal, {name.removeprefix("RehearsalConfig."): place for name, place in where.items()})
    return found


def check(config: RehearsalConfig, where: dict[str, str] | None = None) -> None:
    """Raises UserError on the first value that no rehearsal could have; `where` has the place of each field."""
    where = where or {}
    for name, allowed in CHOICES.items():
        value = getattr(config, name)
        if value not in allowed:
            choices = ", ".join(map(repr, allowed))
            what = f"RehearsalConfig.{name} must be one of {choices}, got {value!r}"
            raise UserError(what, where=where.get(name), mend=suggest(value, allowed))
    for name, (least, most) in RANGES.items():
        value = getattr(config, name)
        if not least <= value <= most or name in _OPEN_SHARES and value in (least, most):
            what = f"RehearsalConfig.{name} must be {_words(name, least, most)}, got {value}"
            raise UserError(what, where=where.get(name))
    if config.least > config.draws:
        what = f"RehearsalConfig.least must be at most draws ({config.draws}), got {config.least}"
        raise UserError(what, where=where.get("least") or where.get("draws"))
    checker_names(config, where.get("checkers"))


def checker_names(config: RehearsalConfig, where: str | None = None) -> list[str]:
    """The checkers, in order. Raises UserError on none, one that is unknown, and one that lacks what it needs."""
    names = config.checkers.split("+") if config.checkers else []
    if not names:
        mend = f"name one or more of {', '.join(CHECKERS)}, joined by '+'"
        raise UserError("RehearsalConfig.checkers is empty: something must confirm a response", where=where, mend=mend)
    for name in names:
        if name not in CHECKERS:
            raise UserError(f"unknown checker {name!r}", where=where, mend=suggest(name, CHECKERS))
    if len(set(names)) < len(names):
        raise UserError(f"RehearsalConfig.checkers {config.checkers!r} names one twice", where=where)
    if "story_parser" in names and not config.world:
        mend = "name the world.json of `anchortrain storyworld`"
        raise UserError("the checker 'story_parser' needs RehearsalConfig.world", where=where, mend=mend)
    return names


def _words(name: str, least: float, most: float) -> str:
    if name in _OPEN_SHARES:
        return f"above {least:g} and below {most:g}"
    return f"{least:g} or more" if most >= 2**31 - 1 or not math.isfinite(most) else f"between {least:g} and {most:g}"
