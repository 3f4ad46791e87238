"""A study as data: what was to be measured, and the rows and curves that there are. `reading` reads it from files."""

import dataclasses
import functools
import math
from collections.abc import Mapping

# What a sweep varies; everywhere else each is at the study's default.
AXES = ("narrowness", "examples", "tokens", "temperature")
BASE, SFT = "base", "sft"


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: the samples and losses of one model at one temperature. None: not measured.

    Entropies in bits, divergence and losses in nats, shares in 0..1, `_se` their standard errors over samples.
    """

    size: str
    method: str
    seed: int
    parameters: float | None = None  # non-embedding
    narrowness: float | None = None  # of the post-training data: share of attributes from the favourites
    examples: float | None = None  # distinct post-training examples
    tokens: float | None = None  # post-training budget
    temperature: float | None = None
    n: float | None = None  # samples
    text_bits: float | None = None
    text_bits_se: float | None = None
    annotation_bits: float | None = None
    wellformed_bits: float | None = None
    wellformed_bits_se: float | None = None
    wellformed: float | None = None
    agreement: float | None = None
    annotation_wellformed: float | None = None
    finished: float | None = None
    drift: float | None = None  # KL(R_ref || R) on held-out prompts
    drift_se: float | None = None
    sft_nll: float | None = None  # of held-out post-training data, per text token
    document_nll: float | None = None  # of held-out documents, base only
    data_bits: float | None = None  # entropy of the post-training data
    base_agreement: float | None = None
    train_tokens: float | None = None  # since the base
    generated_tokens: float | None = None  # since the base
    flops: float | None = None  # since the base; of the base itself: its pretraining
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses or divergence during one training run.

    `kind` "pretrain": points (tokens, flops, held-out loss in nats); "drift": (tokens, KL in nats, its standard error).
    """

    kind: str
    size: str
    method: str
    seed: int
    narrowness: float | None
    points: tuple[tuple[float | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """What was to be measured, and what has been."""

    name: str
    sizes: Mapping[str, float]  # name -> non-embedding parameters, ascending
    methods: tuple[str, ...]
    seeds: int
    sweep_size: str
    defaults: Mapping[str, float]  # of AXES
    prior_bits: Mapping[int, float]  # seed -> entropy of the world
    base_gate: float | None  # agreement that a base must reach
    command: str | None
    ladder: tuple[str, ...] = ()  # methods planned at every size; the others are at the sweep's; empty: not said
    learning_rates: tuple[tuple[str, float, float], ...] = ()  # (size, factor on the rule's, held-out loss of the base)
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()

    @functools.cached_property
    def index(self) -> Mapping[tuple[str, str], list[Row]]:
        """(method, size) -> rows."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.method, row.size), []).append(row)
        return found

    @functools.cached_property
    def own_budget(self) -> frozenset[tuple[str, str]]:
        """(method, size) that never ran with the default number of tokens, such as SFT given more compute.

        Their budget is their own, so "at the default" does not ask for it.
        """
        default = self.defaults["tokens"]
        usual = {key for key, rows in self.index.items() if any(_close(row.tokens, default) for row in rows)}
        return frozenset(self.index.keys() - usual)

    def at(self, method: str, size: str, **axes: float | None) -> dict[int, Row]:
        """Seed -> row of a method at a size, with each of AXES as given, else at its default.

        The base has no post-training, so only its temperature counts. A repeated measurement replaces the earlier
        one; of several budgets of its own a method counts with the largest.
        """
        found: dict[int, Row] = {}
        rows = self.index.get((method, size), ())
        for row in sorted(rows, key=lambda row: row.tokens or 0) if (method, size) in self.own_budget else rows:
            if all(self._matches(row, axis, axes.get(axis)) for axis in AXES):
                found[row.seed] = row
        return dict(sorted(found.items()))

    def _matches(self, row: Row, axis: str, wanted: float | None) -> bool:
        if row.method == BASE and axis != "temperature":
            return True
        if wanted is None and axis == "tokens" and (row.method, row.size) in self.own_budget:
            return True
        default = self.defaults[axis]
        return _close(getattr(row, axis), default if wanted is None else wanted, default)

    def values_of(self, axis: str, method: str, size: str) -> list[float]:
        """The values of an axis at which a method was measured with the other axes at their defaults, ascending."""
        rows = self.index.get((method, size), ())
        given = {getattr(row, axis) for row in rows}
        found = {self.defaults[axis] if value is None else value for value in given}
        return [value for value in sorted(found) if self.at(method, size, **{axis: value})]

    def measured(self, method: str) -> list[str]:
        """Sizes at which a method was measured with every axis at its default."""
        return [size for size in self.sizes if self.at(method, size)]

    def planned(self, method: str) -> list[str]:
        """Sizes at which a method was to be measured; without a word on that, those at which it was."""
        if method == BASE or method in self.ladder:
            return list(self.sizes)
        return [self.sweep_size] if self.ladder else self.measured(method)


def _close(value: float | None, wanted: float, default: float | None = None) -> bool:
    """Whether a row's coordinate is the wanted one; one that the row does not give is `default`, or else any."""
    value = default if value is None else value
    return value is None or math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-12)
