"""What a run needs before its first step: data that fits together, and the parameters that it starts from."""

import dataclasses
from pathlib import Path
from typing import Any

from anchortrain import checkpoint as checkpoints
from anchortrain import experiment as experiments
from anchortrain.checkpoint import RunInfo
from anchortrain.config import Experiment
from anchortrain.data.loader import make_anchor_loader, make_loader
from anchortrain.data.manifest import Manifest
from anchortrain.data.prepared import PreparedDataset, check_compatible
from anchortrain.errors import UserError
from anchortrain.model.parameters import Params, params_of
from anchortrain.training.feeding import Feed

# Of a model that training starts from these may differ: they change how it is computed, not what.
_MAY_DIFFER = {"compute_dtype", "remat", "attention", "vocabulary_size"}


def open_datasets(e: Experiment) -> dict[str, PreparedDataset]:
    """Every prepared directory of the experiment, by path, checked against each other."""
    if not e.data.train:
        raise UserError("is empty", where="DataConfig.train", mend="name a directory made by `anchortrain prepare`")
    paths = [*e.data.train, *e.data.heldout.values()]
    if e.loss.anchor_weight:
        paths += _anchor_sources(e)
    datasets = {path: PreparedDataset(path) for path in dict.fromkeys(paths)}
    check_compatible(list(datasets.values()), length=e.data.length)
    return datasets


def run_info(e: Experiment, datasets: dict[str, PreparedDataset]) -> RunInfo:
    """What the run directory says of data and model; the model's vocabulary may be larger than the data's."""
    path, first = next((path, dataset.manifest) for path, dataset in datasets.items())
    size = e.model.vocabulary_size or first.vocabulary_size
    if size < first.vocabulary_size:
        raise UserError(
            f"is {size}, but {path} was prepared with a vocabulary of {first.vocabulary_size}",
            where="ModelConfig.vocabulary_size",
            mend=f"set it to 0 or to {first.vocabulary_size} or more",
        )
    keys = dict.fromkeys(key for d in datasets.values() for key in d.manifest.annotation_keys)
    return RunInfo(first.vocabulary_hash, size, first.vocabulary_file, list(keys), e.data.length)


def load_runs(
    e: Experiment, datasets: dict[str, PreparedDataset], info: RunInfo, shardings: Params
) -> tuple[Params | None, Params | None]:
    """Parameters that training starts from, and those of the reference where it is needed in memory.

    They are the same arrays where they are of the same run. Raises UserError unless both runs fit this one.
    """
    start, reference = e.run.init_from, e.loss.anchor_run or e.run.init_from
    if e.loss.anchors_online and not reference:
        mend = "set RunConfig.init_from, or LossConfig.anchor_run"
        raise UserError("the anchor needs a reference", where="LossConfig.anchor_weight", mend=mend)
    for source in dict.fromkeys(filter(None, (start, reference))):
        _check_run(source, e, info)
    if reference:
        _check_draws(e, datasets, Path(reference))
    initial = _load(start, shardings) if start else None
    if not reference or not _needs_reference(e, datasets):
        return initial, None
    if start and Path(start).resolve() == Path(reference).resolve():
        return initial, initial
    return initial, _load(reference, shardings)


def _check_draws(e: Experiment, datasets: dict[str, PreparedDataset], reference: Path) -> None:
    """Raises UserError on draws that another run made: the anchor and drift would be of a distribution of nobody."""
    anchored = e.loss.anchor_weight and e.loss.anchor_source == "draws"
    if anchored and datasets[e.loss.anchor_data].manifest.kind != "draws":
        mend = "name what `anchortrain draw` made, or set LossConfig.anchor_source = 'data'"
        raise UserError("holds no draws", where=f"LossConfig.anchor_data {e.loss.anchor_data}", mend=mend)
    own = checkpoints.fingerprint(reference)
    for path in dict.fromkeys([*([e.loss.anchor_data] if anchored else []), *e.data.heldout.values()]):
        manifest = datasets[path].manifest
        made_by = manifest.notes.get("reference_fingerprint", own)  # older draws do not say
        if manifest.kind == "draws" and made_by != own:
            what = f"was drawn from {manifest.notes.get('reference')}, but the reference is {reference}"
            raise UserError(
                what, where=path, mend="draw from the reference, or name the other in LossConfig.anchor_run"
            )


def _load(source: str, shardings: Params) -> Params:
    return params_of(checkpoints.load_run(source, shardings).model)


def _check_run(source: str, e: Experiment, info: RunInfo) -> None:
    """Raises UserError unless `source` is a run with this one's vocabulary and model."""
    theirs = RunInfo.read(Path(source))
    if theirs.vocabulary_hash != info.vocabulary_hash:
        raise UserError(
            f"was trained with another vocabulary than {next(iter(e.data.train))} was prepared with",
            where=source,
            mend=f"prepare with --tokenizer {source}/{theirs.vocabulary_file}",
        )
    model = experiments.load_json(Path(source) / checkpoints.CONFIG).model
    pairs = [
        (f"ModelConfig.{field.name}", getattr(model, field.name), getattr(e.model, field.name))
        for field in dataclasses.fields(model)
        if field.name not in _MAY_DIFFER
    ]
    for name, its, ours in [*pairs, ("a vocabulary size", theirs.vocabulary_size, info.vocabulary_size)]:
        if its != ours:
            raise UserError(f"has {name} = {its}, this run has {ours}", where=source, mend="use the same ModelConfig")


def make_loaders(e: Experiment, feeds: dict[str, Feed]) -> dict[str, Any]:
    """The loaders "train" and, with an anchor, "anchor", each of the rows that its feed wants."""
    common = {"length": e.data.length, "seed": e.data.seed}
    loaders = {
        "train": make_loader(
            e.data.train,
            batch_rows=e.data.batch_rows,
            objective=e.loss.objective,
            syntax_share=e.loss.syntax_share,
            **feeds["train"].share,
            **common,
        )
    }
    if "anchor" in feeds:
        share, stored = feeds["anchor"].share, e.loss.anchor_reference == "stored"
        sources, rows = _anchor_sources(e), e.loss.anchor_rows
        loaders["anchor"] = make_anchor_loader(sources, batch_rows=rows, stored=stored, **share, **common)
    return loaders


def _needs_reference(e: Experiment, datasets: dict[str, PreparedDataset]) -> bool:
    """Whether the reference's parameters stay in memory: for the anchor, or for drift on draws that store nothing."""
    heldout = [datasets[path].manifest for path in e.data.heldout.values()]
    return e.loss.anchors_online or any(m.kind == "draws" and not drift_is_stored(e, m) for m in heldout)


def drift_is_stored(e: Experiment, manifest: Manifest) -> bool:
    """Whether held-out draws are compared with the distributions stored in them: as the anchor's are."""
    return manifest.stored_top_k > 0 and e.loss.anchor_reference == "stored"


def _anchor_sources(e: Experiment) -> dict[str, float]:
    """Where annotations to anchor at come from: reference draws, or the training instructions."""
    return {e.loss.anchor_data: 1.0} if e.loss.anchor_source == "draws" else dict(e.data.train)
