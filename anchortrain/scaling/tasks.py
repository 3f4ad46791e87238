"""The tasks of a study: one command each, in an order in which what a task needs comes before it.

A task is finished when its output exists; every command writes its output whole or continues it by itself, which is
all that resuming takes.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anchortrain import flops
from anchortrain.config import Experiment
from anchortrain.scaling.cells import BASE, Cell, cells
from anchortrain.scaling.config import methods_of
from anchortrain.scaling.layout import Layout

# Of one core of 2026, to guess how long a task takes before any was timed.
_TRAIN_FLOPS, _SAMPLE_FLOPS, _STARTUP = 3e10, 5e9, 6.0
_VOCABULARY = 1152  # a guess likewise, where the gin files leave it to the data


@dataclasses.dataclass(frozen=True)
class Task:
    """A unit of work. `arguments` are those of `anchortrain`, or with `module` of `python -m module`; of a
    measurement, which is neither, there are none."""

    name: str
    output: Path
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    module: str = ""
    cell: Cell | None = None  # to be measured
    cost: float = 1.0  # seconds, as guessed
    settings: dict[str, Any] | None = None  # of a training: field -> value, paths left out

    @property
    def command(self) -> str:
        """As a person would type it."""
        if self.cell:
            return f"anchortrain scaling … --task {self.name}"
        return shlex.join(
            ["python", "-m", self.module, *self.arguments] if self.module else ["anchortrain", *self.arguments]
        )

    @property
    def done(self) -> bool:
        return self.output.exists()


def tasks(layout: Layout) -> list[Task]:
    """All tasks of the study, each once."""
    found: dict[str, Task] = {}
    for cell in cells(layout.scaling):
        for task in _tasks_of(layout, cell):
            found.setdefault(task.name, task)
    for task in _learning_rate_tasks(layout):
        found.setdefault(task.name, task)
    return list(found.values())


def _tasks_of(layout: Layout, cell: Cell) -> Iterator[Task]:
    source = layout.scaling.source
    if not source.prepared:
        yield from _data_tasks(layout, cell)
    if cell.method == BASE:
        yield from _base_tasks(layout, cell)
    else:
        yield from _method_tasks(layout, cell)
    yield Task(
        f"measure/{cell.name}",
        layout.result(cell),
        needs=(f"sample/{cell.name}", *(() if cell.method == BASE else (f"measure/{_base(layout, cell).name}",))),
        cell=cell,
        cost=3.0,
    )


def _base(layout: Layout, cell: Cell) -> Cell:
    source = layout.scaling.source
    return Cell(cell.size, cell.seed, BASE, source.narrowness, source.examples)


# -- data --------------------------------------------------------------------------------------------


def _data_tasks(layout: Layout, cell: Cell) -> Iterator[Task]:
    from anchortrain.scaling.data import READY

    source = layout.scaling.source
    spec = {"seed": cell.seed, "documents": source.documents, "examples": source.examples}
    spec["narrowness"] = source.narrowness
    home = layout.world(cell.seed).parent
    name = f"data/s{cell.seed}"
    yield Task(
        name,
        home / READY,
        arguments=("documents", str(home), json.dumps(spec)),
        module="anchortrain.scaling.data",
        cost=40.0,
    )
    spec |= {"documents": 1, "examples": cell.examples, "narrowness": cell.narrowness}
    spec["tokenizer"] = str(layout.tokenizer(cell.seed))
    place = layout.instructions(cell.seed, cell.data)
    yield Task(
        f"{name}/{cell.data}",
        place / READY,
        needs=(name,),
        arguments=("instructions", str(place), json.dumps(spec)),
        module="anchortrain.scaling.data",
        cost=25.0,
    )


def _data_needs(layout: Layout, cell: Cell) -> tuple[str, ...]:
    return () if layout.scaling.source.prepared else (f"data/s{cell.seed}", f"data/s{cell.seed}/{cell.data}")


# -- bases -------------------------------------------------------------------------------------------


def _base_tasks(layout: Layout, cell: Cell) -> Iterator[Task]:
    size, seed, measure = cell.size, cell.seed, layout.scaling.measure
    yield _pretrain(layout, cell, BASE, "pretrain", "heldout")
    yield _sample(layout, cell, needs=(f"train/{size}/s{seed}/base",), how=("--document",))
    for kind, prompts, count in (("train", "sft", measure.draws), ("heldout", "sft_heldout", measure.heldout_draws)):
        out = layout.draws(size, seed, kind)
        arguments = [
            "draw",
            str(layout.base(size, seed, BASE)),
            "--data",
            layout.directory(cell, prompts),
            "--out",
            str(out),
        ]
        arguments += ["--draws", str(count), "--seed", str(seed), "--top_k", str(measure.top_k)]
        arguments += ["--max_annotation_tokens", str(measure.max_annotation_tokens)]
        yield Task(
            f"draw/{size}/s{seed}/{kind}",
            out,
            needs=(f"train/{size}/s{seed}/base", *_data_needs(layout, cell)),
            arguments=tuple(arguments),
            cost=_STARTUP + count * 40 * _forward_flops(layout.experiment(size, "pretrain")) / _SAMPLE_FLOPS,
        )
    if any(method.start == "plain" for method in methods_of(layout.scaling.study).values()):
        yield _pretrain(layout, cell, "plain", "plain", "plain_heldout")


def _pretrain(layout: Layout, cell: Cell, kind: str, train: str, heldout: str, factor: float = 1.0) -> Task:
    """Pretraining of a base; `factor` is on the learning rate."""
    size, seed, study = cell.size, cell.seed, layout.scaling.study
    bindings = {"DataConfig.train": layout.mixture(cell, train)}
    bindings["DataConfig.heldout"] = {"documents": layout.directory(cell, heldout)}
    if size in study.pretrain_tokens:
        bindings["RunConfig.tokens"] = study.pretrain_tokens[size]
    name = f"{size}/s{seed}/{kind}" + ("" if factor == 1.0 else f"_lr{factor:g}")
    bindings |= _rate(layout, size, "pretrain", study.pretrain_exponent, factor)
    needs = () if layout.scaling.source.prepared else (f"data/s{seed}",)
    return _train(layout, cell, f"train/{name}", layout.out / "runs" / name, "pretrain", bindings, needs)


def _learning_rate_tasks(layout: Layout) -> Iterator[Task]:
    """Is the learning rate's rule any good? The base again, with others."""
    sweep, source = layout.scaling.sweep, layout.scaling.source
    for size in sweep.learning_rate_sizes:
        for factor in sweep.learning_rates:
            cell = Cell(size, 0, BASE, source.narrowness, source.examples)
            yield _pretrain(layout, cell, BASE, "pretrain", "heldout", factor)


# -- methods -----------------------------------------------------------------------------------------


def _method_tasks(layout: Layout, cell: Cell) -> Iterator[Task]:
    study, method = layout.scaling.study, layout.method(cell.method)
    home = f"{cell.size}/s{cell.seed}"
    data = layout.mixture(cell, method.data)
    needs = list(_data_needs(layout, cell))
    if method.replays:
        data = _mixed(data, layout.mixture(cell, "pretrain"), study.replay_share)
    bindings: dict[str, Any] = {"DataConfig.train": data}
    heldout = {"sft": layout.directory(cell, method.heldout)}
    if method.has_plans:
        heldout["drift"] = str(layout.draws(cell.size, cell.seed, "heldout"))
        needs.append(f"draw/{home}/heldout")
    bindings["DataConfig.heldout"] = heldout
    if method.anchored:
        bindings["LossConfig.anchor_data"] = str(layout.draws(cell.size, cell.seed, "train"))
        needs.append(f"draw/{home}/train")
    kind = "plain" if method.start == "plain" else BASE
    bindings["RunConfig.init_from"] = str(layout.base(cell.size, cell.seed, kind))
    needs.append(f"train/{home}/{kind}")
    if method.rehearses:
        before = dataclasses.replace(cell, method=method.start, temperature=1.0)
        bindings["RehearsalConfig.start"] = str(layout.run(before))
        if not layout.scaling.source.prepared:
            bindings["RehearsalConfig.world"] = str(layout.world(cell.seed) / "world.json")
        needs.append(f"train/{before.run}")
    if cell.tokens:
        bindings["RunConfig.tokens"] = cell.tokens
    bindings |= _rate(layout, cell.size, cell.method, study.posttrain_exponent)
    yield _train(layout, cell, f"train/{cell.run}", layout.run(cell), cell.method, bindings, tuple(needs))
    required = [part for key in layout.scaling.measure.require for part in ("--require", key)]
    how = ("--prompts", layout.prompts(cell), *(["--constrain", *required] if method.two_stage else ["--single_stage"]))
    yield _sample(layout, cell, needs=(f"train/{cell.run}",), how=how)


def _mixed(data: dict[str, float], more: dict[str, float], share: float) -> dict[str, float]:
    """Both mixtures, the second with this share."""
    whole, whole_more = sum(data.values()), sum(more.values())
    return {path: (1 - share) * value / whole for path, value in data.items()} | {
        path: share * value / whole_more for path, value in more.items()
    }


def _rate(layout: Layout, size: str, stage: str, exponent: float, factor: float = 1.0) -> dict[str, float]:
    """The binding of the learning rate by the study's rule."""
    experiment, width = layout.experiment(size, stage), layout.scaling.study.reference_width
    if width:
        factor *= (experiment.model.d_model / width) ** -exponent
    if factor == 1.0:
        return {}
    return {"OptimizerConfig.learning_rate": float(f"{experiment.optimizer.learning_rate * factor:.4g}")}


def _train(
    layout: Layout, cell: Cell, name: str, run: Path, stage: str, bindings: dict[str, Any], needs: tuple[str, ...]
) -> Task:
    experiment = layout.experiment(cell.size, stage)
    rehearses = layout.rehearses(stage)
    bindings = {"DataConfig.seed": cell.seed, "RunConfig.seed": cell.seed} | bindings
    arguments = ["rehearse" if rehearses else "train"]
    for file in layout.gin_files(cell.size, stage):
        arguments += ["--gin_file", file]
    statements = [f"{field} = {value!r}" for field, value in bindings.items()]
    layout.check(cell.size, stage, statements)
    for statement in statements:
        arguments += ["--gin_bindings", statement]
    tokens = bindings.get("RunConfig.tokens", experiment.run.tokens)
    cost = _STARTUP + tokens * _train_flops(experiment) / _TRAIN_FLOPS
    if rehearses:
        plan = experiment.rehearsal
        round_cost = plan.tokens * _train_flops(experiment) / _TRAIN_FLOPS
        cost = plan.rounds * (_STARTUP + round_cost + plan.draws * 110 * _forward_flops(experiment) / _SAMPLE_FLOPS)
    finished = run / ("rehearsal.json" if rehearses else "finished.json")
    settings = layout.bound(cell.size, stage) | {k: v for k, v in bindings.items() if isinstance(v, int | float)}
    return Task(name, finished, needs, (*arguments, "--out", str(run)), cost=cost, settings=settings)


def _sample(layout: Layout, cell: Cell, *, needs: tuple[str, ...], how: tuple[str, ...]) -> Task:
    measure, output = layout.scaling.measure, layout.samples(cell)
    options = {
        "-n": measure.samples,
        "--batch_size": measure.batch_size,
        "--seed": cell.seed,
        "--max_annotation_tokens": measure.max_annotation_tokens,
        "--max_response_tokens": measure.max_response_tokens,
        "--annotation_temperature": cell.temperature,
        "--response_temperature": cell.temperature,
    }
    arguments = ["sample", str(layout.run(cell)), "--jsonl", str(output), *how]
    arguments += [str(part) for option in options.items() for part in option]
    experiment = layout.experiment(cell.size, "pretrain" if cell.method == BASE else cell.method)
    cost = _STARTUP + measure.samples * 110 * _forward_flops(experiment) / _SAMPLE_FLOPS
    return Task(f"sample/{cell.name}", output, needs, tuple(arguments), cost=cost)


def _train_flops(experiment: Experiment) -> float:
    """Of a token."""
    vocabulary = experiment.model.vocabulary_size or _VOCABULARY
    return flops.train_flops_per_token(experiment.model, vocabulary, experiment.data.length)


def _forward_flops(experiment: Experiment) -> float:
    return _train_flops(experiment) / 3


def interpreter(task: Task) -> list[str]:
    """The command line of a task that has a process of its own."""
    return [sys.executable, "-m", task.module or "anchortrain", *task.arguments]
