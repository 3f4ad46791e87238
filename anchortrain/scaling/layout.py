"""Where a study keeps what, and where its gin files and data lie."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchortrain import experiment as experiments
from anchortrain.config import Experiment
from anchortrain.config_reader import build, read_bindings
from anchortrain.errors import UserError
from anchortrain.rehearsal import config as rehearsals
from anchortrain.rehearsal.config import Rehearsing
from anchortrain.scaling import data
from anchortrain.scaling.cells import BASE, Cell
from anchortrain.scaling.config import Scaling, methods_of
from anchortrain.scaling.methods import Method

_WITHOUT_EFFECT = ("MeshConfig", "CheckpointConfig")  # on what is learned

STUDY, RESULTS, CURVES = "study.json", "results.jsonl", "curves.jsonl"


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, so that it can be a key of caches
class Layout:
    """Paths under the directory of a study.

    OUT/data/s0/           the story world of seed 0, its tokenizer and prepared documents; n0.8_e8000/ instructions
    OUT/runs/SIZE/s0/…     run directories: base, plain, and METHOD/DATA
    OUT/draws/SIZE/s0/…    annotations drawn from the base: train, heldout
    OUT/samples/… OUT/results/…    of each cell
    OUT/locks/… OUT/logs/… OUT/times/…    of each task
    """

    out: Path
    gin: Path  # directory that names of gin files are relative to
    scaling: Scaling
    files: tuple[str, ...] = ()  # gin files of the study, as they were named
    _checked: set[tuple[str, str]] = dataclasses.field(default_factory=set)

    # -- gin -------------------------------------------------------------------------------------

    def gin_files(self, size: str, stage: str) -> list[str]:
        """Of a model and a stage ("pretrain" or a method); later ones override earlier ones."""
        study = self.scaling.study
        names = f"{study.model} + {study.pretrain if stage == 'pretrain' else study.methods[stage]}".split("+")
        return [
            os.path.normpath(self._gin_file(name.strip().replace("{size}", size))) for name in names if name.strip()
        ]

    def _gin_file(self, name: str) -> Path:
        path = self.gin / name
        if not path.exists():
            raise UserError(f"no such gin file: {path}", where="StudyConfig", mend="paths are beside the study's file")
        return path

    @functools.cache  # noqa: B019 (one layout a process)
    def _read(self, size: str, stage: str) -> tuple[Experiment, dict[str, Any]]:
        root = Rehearsing if self.rehearses(stage) else Experiment
        bound = read_bindings(root, self.gin_files(size, stage), ())
        return build(root, bound), {name: one.value for name, one in bound.items()}

    def experiment(self, size: str, stage: str) -> Experiment:
        """What the gin files of a stage say, before the study's own bindings."""
        return self._read(size, stage)[0]

    def bound(self, size: str, stage: str) -> dict[str, Any]:
        """What the gin files of a stage bind, but for what changes nothing of the result."""
        bound = self._read(size, stage)[1]
        return {name: value for name, value in bound.items() if name.split(".")[0] not in _WITHOUT_EFFECT}

    def rehearses(self, stage: str) -> bool:
        return stage != "pretrain" and self.method(stage).rehearses

    def check(self, size: str, stage: str, bindings: Sequence[str]) -> None:
        """Raises UserError when the trainer would refuse the gin files with these bindings. Each stage once."""
        if (size, stage) not in self._checked:
            self._checked.add((size, stage))
            read = rehearsals.load if self.rehearses(stage) else experiments.load
            found = read(self.gin_files(size, stage), bindings)
            if stage != "pretrain" and self.method(stage).anchored and not found.loss.anchor_weight:
                what = f"{stage} is an anchored method, but its gin files set no LossConfig.anchor_weight"
                raise UserError(what, where=f"StudyConfig.methods[{stage!r}]", mend="name those of an anchor")

    def method(self, name: str) -> Method:
        return methods_of(self.scaling.study)[name]

    # -- data ------------------------------------------------------------------------------------

    def world(self, seed: int) -> Path:
        return self.out / "data" / f"s{seed}" / "world"

    def tokenizer(self, seed: int) -> Path:
        return self.out / "data" / f"s{seed}" / "tokenizer.json"

    def instructions(self, seed: int, name: str) -> Path:
        return self.out / "data" / f"s{seed}" / name

    def mixture(self, cell: Cell, name: str) -> dict[str, float]:
        """Prepared directories and their shares of one of `data.DOCUMENTS` and `data.INSTRUCTIONS`."""
        if prepared := self.scaling.source.prepared:
            if not prepared.get(name):
                raise UserError(f"lacks the set {name!r}", where="SourceConfig.prepared", mend="name its directories")
            return prepared[name]
        home = self.world(cell.seed).parent if name in data.DOCUMENTS else self.instructions(cell.seed, cell.data)
        return {str(home / "prepared" / name): 1.0}

    def directory(self, cell: Cell, name: str) -> str:
        """The first directory of a set, where one is needed."""
        return next(iter(self.mixture(cell, name)))

    def prompts(self, cell: Cell) -> str:
        return self.scaling.source.prompts or str(self.world(cell.seed) / "prompts.jsonl")

    # -- what is made ----------------------------------------------------------------------------

    def run(self, cell: Cell) -> Path:
        """The run directory of a cell; a rehearsal's holds one for each round."""
        if cell.method == BASE:
            return self.base(cell.size, cell.seed, BASE)
        return self.out / "runs" / cell.run

    def base(self, size: str, seed: int, kind: str) -> Path:
        return self.out / "runs" / size / f"s{seed}" / kind

    def draws(self, size: str, seed: int, kind: str) -> Path:
        return self.out / "draws" / size / f"s{seed}" / kind

    def samples(self, cell: Cell) -> Path:
        return self.out / "samples" / f"{cell.name}.jsonl"

    def result(self, cell: Cell) -> Path:
        return self.out / "results" / f"{cell.name}.json"
