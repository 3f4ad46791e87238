"""One row of results for a cell: diversity, quality, drift, loss and cost."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from anchortrain import experiment as experiments
from anchortrain import flops
from anchortrain.checkpoint import CONFIG, FINISHED, REHEARSAL, RunInfo, last_round
from anchortrain.evaluate.annotated_text import AnnotatedText
from anchortrain.evaluate.samples import Sample, read_samples
from anchortrain.evaluate.semantic import summarise
from anchortrain.files import write_json_atomic
from anchortrain.metrics import METRICS_FILE, read_metrics
from anchortrain.scaling.cells import BASE, Cell
from anchortrain.scaling.layout import Layout
from anchortrain.storyworld.world import World

# Of `semantic.summarise`.
_FIELDS = (
    "n",
    "text_bits",
    "text_bits_se",
    "annotation_bits",
    "wellformed_bits",
    "wellformed_bits_se",
    "wellformed",
    "agreement",
    "annotation_wellformed",
    "finished",
)


def measure(layout: Layout, cell: Cell) -> None:
    """Writes the cell's result, JSON: coordinates, figures, and the curves of its training."""
    samples, world = read_samples(layout.samples(cell)), _world(layout, cell.seed)
    reader, form = world, "document" if cell.method == BASE else "assistant"
    if world is None:  # real text has no form to be in
        reader, form = _reader(layout), None
    summary = summarise(samples, reader, form)
    run = last_round(layout.run(cell))
    finished = _json(run / FINISHED)
    row: dict[str, Any] = _coordinates(layout, cell) | {field: summary[field] for field in _FIELDS}
    row |= _heldout(finished["heldout"], base=cell.method == BASE)
    row |= {"data_bits": world.mean_instruction_bits(cell.narrowness) if world else None}
    row |= {"base_agreement": _base_agreement(layout, cell, summary)}
    row |= cost(layout, cell, samples)
    curves = [_curve(layout, cell, run)] if cell.temperature == 1.0 else []
    write_json_atomic(layout.result(cell), {"row": row, "curves": [curve for curve in curves if curve["points"]]})


def _world(layout: Layout, seed: int) -> World | None:
    return None if layout.scaling.source.prepared else World.load(layout.world(seed) / "world.json")


def _reader(layout: Layout) -> AnnotatedText | None:
    job = layout.scaling.measure.annotate_job
    return AnnotatedText(job) if job else None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _coordinates(layout: Layout, cell: Cell) -> dict[str, Any]:
    default = layout.experiment(cell.size, "pretrain" if cell.method == BASE else cell.method).run.tokens
    budget = None if cell.method == BASE else cell.tokens or default
    parameters = layer_parameters(layout, cell.size)
    return dataclasses.asdict(cell) | {"parameters": parameters, "tokens": budget}


def layer_parameters(layout: Layout, size: str) -> int:
    """Non-embedding parameters: the matrices of the layers."""
    model = layout.experiment(size, "pretrain").model
    return flops.matrix_parameters(model, 0)


def _heldout(heldout: dict[str, float], *, base: bool) -> dict[str, float | None]:
    """Losses are nats per text token."""
    names = {"document_nll": "documents/loss/text"} if base else {}
    names |= {"sft_nll": "sft/loss/text", "drift": "drift/kl", "drift_se": "drift/kl_se"}
    return {"document_nll": None} | {field: heldout.get(f"heldout/{name}") for field, name in names.items()}


def _base_agreement(layout: Layout, cell: Cell, summary: dict[str, Any]) -> float | None:
    if cell.method == BASE:
        return summary["agreement"]
    source = layout.scaling.source
    base = Cell(cell.size, cell.seed, BASE, source.narrowness, source.examples)
    return _json(layout.result(base))["row"]["agreement"]


def cost(layout: Layout, cell: Cell, samples: list[Sample]) -> dict[str, float]:
    """What the cell's model took since its base: tokens trained on, tokens generated to train on, operations.

    Of the base itself, what its pretraining took. A generated token costs a third of a trained one.
    """
    runs, generated, seconds = _runs(layout, cell)
    trained = operations = 0.0
    for run in runs:
        finished, experiment = _json(run / FINISHED), experiments.load_json(run / CONFIG)
        per_token = flops.train_flops_per_token(
            experiment.model, RunInfo.read(run).vocabulary_size, experiment.data.length
        )
        # Rows of the anchor pass through the model, too.
        rows = experiment.data.batch_rows + (experiment.loss.anchor_rows if experiment.loss.anchor_weight else 0)
        trained += finished["tokens"]
        operations += finished["tokens"] * rows / experiment.data.batch_rows * per_token
        seconds += sum(finished["seconds"].get(kind, 0.0) for kind in ("step", "data"))
    operations += generated * per_token / 3
    return {"train_tokens": trained, "generated_tokens": generated, "flops": operations, "seconds": seconds}


def _runs(layout: Layout, cell: Cell) -> tuple[list[Path], float, float]:
    """The runs that made the cell's model since its base, tokens generated, and seconds that took."""
    run = layout.run(cell)
    if cell.method == BASE or not layout.method(cell.method).rehearses:
        return [run], 0.0, 0.0
    start = layout.run(dataclasses.replace(cell, method=layout.method(cell.method).start, temperature=1.0))
    rounds = range(1, len(_json(run / REHEARSAL)["rounds"]))
    harvests = [_json(run / f"harvest_{number}" / "harvest.json") for number in rounds]
    generated = sum(harvest["tokens"]["generated"] for harvest in harvests)
    seconds = sum(harvest["seconds"]["all"] for harvest in harvests)
    return [start, *(run / f"round_{number}" for number in rounds)], generated, seconds


def _curve(layout: Layout, cell: Cell, run: Path) -> dict[str, Any]:
    """Held-out loss of the base, or drift of the others, as training went on."""
    base = cell.method == BASE
    experiment = experiments.load_json(run / CONFIG)
    per_token = flops.train_flops_per_token(experiment.model, RunInfo.read(run).vocabulary_size, experiment.data.length)
    points = []
    for line in read_metrics(run / METRICS_FILE):
        if base and "heldout/documents/loss" in line:
            points.append([line["tokens"], line["tokens"] * per_token, line["heldout/documents/loss"]])
        elif not base and "heldout/drift/kl" in line:
            points.append([line["tokens"], line["heldout/drift/kl"], line.get("heldout/drift/kl_se")])
    return {"kind": "pretrain" if base else "drift"} | _coordinates(layout, cell) | {"points": points}
