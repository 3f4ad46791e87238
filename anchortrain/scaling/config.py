"""What a scaling study consists of; bound by gin like an experiment (`gin_configs/scaling`)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from anchortrain.config_reader import build, read_bindings
from anchortrain.errors import UserError
from anchortrain.nearest import suggest
from anchortrain.scaling.methods import METHODS, Method


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """The ladder: sizes x methods x seeds.

    Names of gin files may hold `{size}`, and may be several joined by '+', of which later ones override earlier ones.
    They are looked for beside the file that names the study.
    """

    name: str = "study"
    sizes: tuple[str, ...] = ()  # smallest first
    seeds: int = 3
    model: str = "model_{size}.gin"
    pretrain: str = "pretrain.gin"
    # Method -> gin file of its post-training; the methods are those of `methods.METHODS`, "base" is always there.
    methods: dict[str, str] = dataclasses.field(default_factory=dict)
    # Those of the methods that are run at every size; () is all. Others are run at the size of the sweeps.
    ladder: tuple[str, ...] = ()
    # Another name -> the method that it is a variant of: same start and data, another gin file.
    like: dict[str, str] = dataclasses.field(default_factory=dict)
    # Size -> budget of pretraining; a size that is not there has the budget of its gin file.
    pretrain_tokens: dict[str, int] = dataclasses.field(default_factory=dict)
    # The learning rates of the gin files hold at this width and fall with its power:
    # lr * (d_model / width) ** -exponent. Width 0: they hold at every size.
    reference_width: int = 0
    pretrain_exponent: float = 0.5
    posttrain_exponent: float = 0.5
    replay_share: float = 0.25  # of the tokens, for methods that replay documents
    base_gate: float = 0.95  # agreement of a base's text with its annotations that a comparison needs


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Where data comes from. With `prepared` paths the seeds change initialisation and order of the data only."""

    # The story world: documents, instructions, and how narrow the instructions are (0 as broad as the documents).
    documents: int = 24_000
    examples: int = 8_000
    narrowness: float = 0.8
    # Otherwise: set -> directories made by `anchortrain prepare` and their shares, for each set of `scaling/data.py`
    # that the methods need; and a file of prompts.
    prepared: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    prompts: str = ""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """What else is varied, at one size, one thing at a time."""

    size: str = ""
    seeds: int = 3
    # What is varied (a field below) -> methods that it is varied for.
    methods: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    narrowness: tuple[float, ...] = ()
    examples: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()  # budgets of post-training
    temperatures: tuple[float, ...] = ()  # of plan and response alike
    # Factors on the learning rate of pretraining, at these sizes and the first seed: is the rule any good?
    learning_rates: tuple[float, ...] = ()
    learning_rate_sizes: tuple[str, ...] = ()


# Fields of `SweepConfig` -> coordinate of a cell.
VARIED = {"narrowness": "narrowness", "examples": "examples", "tokens": "tokens", "temperatures": "temperature"}


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """Draws and samples; all methods alike."""

    samples: int = 512
    draws: int = 3072  # that the anchor compares on
    heldout_draws: int = 512  # that drift is measured on
    top_k: int = 0  # of the distributions stored with draws; needed where the anchor reads stored ones
    max_annotation_tokens: int = 40
    max_response_tokens: int = 160
    batch_size: int = 512
    # Keys that plans must have: a base may plan for a prompt as for a later chunk of a document (docs/results.md).
    require: tuple[str, ...] = ()
    # Directory of an `anchortrain annotate` job, whose annotator reads responses where there is no story world.
    annotate_job: str = ""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Everything that defines a study."""

    study: StudyConfig
    source: SourceConfig
    sweep: SweepConfig
    measure: MeasureConfig


def load(gin_files: Sequence[str | Path], bindings: Sequence[str] = ()) -> Scaling:
    """The study that gin files describe. Raises UserError, with file and line where there is one."""
    bound = read_bindings(Scaling, gin_files, bindings)
    scaling = build(Scaling, bound)
    for name, holds, what in _relations(scaling):
        if not holds:
            raise UserError(
                what, where=bound[name].where if name in bound else str(gin_files[0]) if gin_files else name
            )
    return scaling


def methods_of(study: StudyConfig) -> dict[str, Method]:
    """Name -> what the method is, in the order of the gin file."""
    return {name: METHODS[study.like.get(name, name)] for name in study.methods}


def _relations(scaling: Scaling) -> list[tuple[str, bool, str]]:
    """(field, whether it is right, what to say if not)"""
    study, source, sweep, measure = scaling.study, scaling.source, scaling.sweep, scaling.measure
    unknown = [name for name in study.methods if study.like.get(name, name) not in METHODS]
    absent = [name for name in study.ladder if name not in study.methods]
    idle = [name for names in sweep.methods.values() for name in names if name not in study.methods]
    unvaried = [name for name in sweep.methods if name not in VARIED]
    strange = [size for size in study.pretrain_tokens if size not in study.sizes]
    untried = [size for size in sweep.learning_rate_sizes if size not in study.sizes]
    unlike = [name for name in study.like if name not in study.methods]
    missing = [method.start for method in methods_of(study).values() if method.rehearses] if not unknown else []
    missing = [name for name in missing if name not in study.methods]
    varied = any(getattr(sweep, name) for name in VARIED) or bool(study.ladder)
    positive = {
        "StudyConfig.seeds": study.seeds,
        "SweepConfig.seeds": sweep.seeds,
        "SourceConfig.documents": source.documents,
        "SourceConfig.examples": source.examples,
        **{
            f"MeasureConfig.{name}": value
            for name, value in dataclasses.asdict(measure).items()
            if name not in ("top_k", "annotate_job", "require")
        },
        "SweepConfig.examples": min(sweep.examples, default=1),
        "SweepConfig.tokens": min(sweep.tokens, default=1),
        "SweepConfig.learning_rates": min(sweep.learning_rates, default=1),
        "StudyConfig.pretrain_tokens": min(study.pretrain_tokens.values(), default=1),
    }
    shares = {
        "SourceConfig.narrowness": (source.narrowness,),
        "SweepConfig.narrowness": sweep.narrowness,
        "StudyConfig.replay_share": (study.replay_share,),
        "StudyConfig.base_gate": (study.base_gate,),
    }
    return [
        ("StudyConfig.sizes", bool(study.sizes), "StudyConfig.sizes is empty; name the sizes, smallest first"),
        ("StudyConfig.sizes", len(set(study.sizes)) == len(study.sizes), "StudyConfig.sizes names a size twice"),
        ("StudyConfig.methods", bool(study.methods), "StudyConfig.methods is empty; name methods and their gin files"),
        (
            "StudyConfig.methods",
            not unknown,
            f"unknown method {unknown[0]!r}; {suggest(unknown[0], METHODS)} (or say in StudyConfig.like what it varies)"
            if unknown
            else "",
        ),
        (
            "StudyConfig.methods",
            not missing,
            f"StudyConfig.methods lacks {', '.join(missing)}, whose runs a rehearsal goes on from",
        ),
        ("StudyConfig.ladder", not absent, f"method {', '.join(absent)} is not in StudyConfig.methods"),
        ("StudyConfig.like", not unlike, f"StudyConfig.like has {', '.join(unlike)}, which StudyConfig.methods lacks"),
        (
            "SweepConfig.learning_rate_sizes",
            not untried,
            f"size {', '.join(untried)} is not in StudyConfig.sizes ({', '.join(study.sizes)})",
        ),
        ("SweepConfig.methods", not idle, f"method {', '.join(idle)} is not in StudyConfig.methods"),
        (
            "SweepConfig.methods",
            not unvaried,
            f"SweepConfig.methods varies {', '.join(unvaried)}; there are {', '.join(VARIED)}",
        ),
        (
            "StudyConfig.pretrain_tokens",
            not strange,
            f"StudyConfig.pretrain_tokens names {', '.join(strange)}, not in StudyConfig.sizes",
        ),
        (
            "SweepConfig.size",
            not varied or sweep.size in study.sizes,
            f"SweepConfig.size must be one of StudyConfig.sizes ({', '.join(study.sizes)}), got {sweep.size!r}",
        ),
        ("MeasureConfig.top_k", measure.top_k >= 0, f"MeasureConfig.top_k must be 0 or more, got {measure.top_k}"),
        ("StudyConfig.reference_width", study.reference_width >= 0, "StudyConfig.reference_width must be 0 or more"),
        *((name, value > 0, f"{name} must be positive, got {value}") for name, value in positive.items()),
        *(
            (name, all(0 <= value <= 1 for value in values), f"{name} must lie between 0 and 1, got {values}")
            for name, values in shares.items()
        ),
        ("SweepConfig.temperatures", all(t >= 0 for t in sweep.temperatures), "temperatures must be 0 or more"),
        (
            "SweepConfig.narrowness",
            not source.prepared or not (sweep.narrowness or sweep.examples),
            "SweepConfig.narrowness and examples vary the story world; they have no effect on SourceConfig.prepared",
        ),
    ]
