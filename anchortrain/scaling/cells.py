"""The cells of a study: every combination that is trained and measured."""

import dataclasses
from collections.abc import Iterator

from anchortrain.scaling.config import VARIED, Scaling

BASE = "base"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trained model and how it is sampled. Budget 0 of tokens: as the gin files say."""

    size: str
    seed: int
    method: str
    narrowness: float
    examples: int
    tokens: int = 0
    temperature: float = 1.0

    @property
    def data(self) -> str:
        """Names the instructions."""
        return f"n{self.narrowness:g}_e{self.examples}"

    @property
    def run(self) -> str:
        """Names the trained model; cells that differ only in temperature share it."""
        budget = f"_t{self.tokens}" if self.tokens else ""
        return f"{self.size}/s{self.seed}/{self.method}/{self.data}{budget}"

    @property
    def name(self) -> str:
        return f"{self.run}_T{self.temperature:g}"


def cells(scaling: Scaling) -> list[Cell]:
    """All cells, each once, by seed first: what an unfinished study has is then whole seeds of all sizes."""
    return list(dict.fromkeys(_all(scaling)))


def _all(scaling: Scaling) -> Iterator[Cell]:
    study, sweep, source = scaling.study, scaling.sweep, scaling.source
    ladder = study.ladder or tuple(study.methods)
    for seed in range(study.seeds):
        for size in study.sizes:
            for method in (BASE, *ladder):
                yield Cell(size, seed, method, source.narrowness, source.examples)
        if seed < sweep.seeds:
            for method in study.methods:
                if method not in ladder:
                    yield Cell(sweep.size, seed, method, source.narrowness, source.examples)
            yield from _sweeps(scaling, seed)


def _sweeps(scaling: Scaling, seed: int) -> Iterator[Cell]:
    """One thing varied at a time, at one size."""
    sweep, source = scaling.sweep, scaling.source
    for name, methods in sweep.methods.items():
        for method in methods:
            usual = Cell(sweep.size, seed, method, source.narrowness, source.examples)
            for value in getattr(sweep, name):
                yield dataclasses.replace(usual, **{VARIED[name]: value})
