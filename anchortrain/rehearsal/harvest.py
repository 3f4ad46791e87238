"""One harvest: plans drawn from a run, responses written, checked, corrected, and kept as training data.

OUT/begun.json        what decides the samples; the same command continues
OUT/samples/          every sample that was drawn
OUT/records.jsonl     what was kept: annotated instruction records with provenance
OUT/prepared/         the same as a prepared data set
OUT/harvest.json      acceptance, entropies, costs; written last
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchortrain import experiment as experiments
from anchortrain.checkpoint import CONFIG, LoadedRun, RunInfo, load_run
from anchortrain.data.manifest import Manifest
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic, write_jsonl_atomic
from anchortrain.rehearsal import checker as checkers
from anchortrain.rehearsal import records
from anchortrain.rehearsal.config import Rehearsing, checker_names
from anchortrain.rehearsal.drawing import RETRY, Drawing
from anchortrain.rehearsal.keeping import Keeping, record_of
from anchortrain.rehearsal.prompts import Pool, choose, fingerprint
from anchortrain.rehearsal.shortage import shortage

HARVEST, RECORDS, PREPARED, BEGUN = "harvest.json", "records.jsonl", "prepared", "begun.json"

# What decides the samples; the number of draws does not: more are drawn to those that are there.
_SAMPLING = (
    "seed",
    "annotation_temperature",
    "response_temperature",
    "max_annotation_tokens",
    "max_response_tokens",
)
# What else decides what is kept of them.
_KEEPING = (
    "draws",
    "checkers",
    "agreement",
    "best",
    "correction",
    "retries",
    "max_weight",
    "world",
    "annotate_job",
    "judge_prompt",
    "judge_grade",
    "likelihood_quantile",
    "least_logprob",
)


def harvest(
    run_dir: str | Path, pools: Sequence[Pool], out: Path, settings: Rehearsing, *, round: int = 1, reference: str = ""
) -> dict[str, Any]:
    """Makes the harvest `out`, or continues it; one that is finished is returned at once.

    Args:
      run_dir: run to draw from, which writes annotations.
      pools: prompts.
      out: directory to make.
      settings: `rehearsal` and, for checkers that use them, the annotators' sections.
      round: of the rehearsal; harvests of different rounds draw differently.
      reference: run for the checker "likelihood" when the settings name none.

    Returns:
      What harvest.json holds, see docs/rehearsal.md.

    Raises:
      UserError: when run, prompts or checkers cannot be used; when `out` was made with other settings; and when too
        little is kept to be trained on.
    """
    config = settings.rehearsal
    names = checker_names(config)
    reference = (config.reference or reference or origin(Path(run_dir))) if "likelihood" in names else ""
    sampling = {"run": str(run_dir), "round": round, "prompts": fingerprint(pools)}
    sampling |= {name: getattr(config, name) for name in _SAMPLING}
    keeping = {name: getattr(config, name) for name in _KEEPING} | {"reference": reference}
    if (out / HARVEST).exists():
        found = read(out)
        _check_same(found["settings"], sampling | keeping, out)
        return found
    loaded = load_run(run_dir)
    _begin(out, sampling | {"step": loaded.step})
    if reference:
        _check_vocabulary(loaded, reference)
    started = time.monotonic()
    seed = int(np.random.SeedSequence([config.seed, round]).generate_state(1)[0])
    drawing = Drawing(out / "samples", loaded, config, seed)
    # Opened before anything is drawn: what a checker lacks should not be found out afterwards.
    with checkers.opened(names, settings, out / "checkers", reference) as asked:
        rows = drawing.plans(choose(pools, config.draws, [config.seed, round]))
        drawn_in = time.monotonic() - started
        result = Keeping(config, asked, drawing, loaded).keep(rows)
    figures = {"settings": sampling | keeping, "run": str(run_dir), "step": loaded.step, "round": round}
    figures |= result.figures()
    if result.records < config.least:
        raise shortage(figures, config, where=str(out))
    provenance = {"run": str(run_dir), "step": loaded.step, "seed": seed, "round": round}
    manifest = _write(result, out, loaded, provenance)
    figures["tokens"] |= {"written": manifest.tokens}
    figures["seconds"] = {"draw": drawn_in, "all": time.monotonic() - started}
    write_json_atomic(out / HARVEST, figures)
    return figures


def read(out: Path) -> dict[str, Any]:
    """What a finished harvest says of itself. Raises UserError when it is damaged or not finished."""
    path = out / HARVEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), mend="remove it: the harvest continues") from None


def origin(run_dir: Path) -> str:
    """The run that post-training of `run_dir` started from."""
    experiment = experiments.load_json(run_dir / CONFIG)
    return experiment.loss.anchor_run or experiment.run.init_from


def _check_same(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    for name, value in new.items():
        if old.get(name) != value:
            what = f"was made with {name} = {old.get(name)!r}, now it is {value!r}"
            raise UserError(what, where=str(out), mend="choose another directory, remove this one, or set it back")


def _begin(out: Path, sampling: dict[str, Any]) -> None:
    """Raises UserError when `out` holds anything but a harvest that these settings continue."""
    path = out / BEGUN
    if path.exists():
        _check_same(json.loads(path.read_text(encoding="utf-8")), sampling, out)
    elif out.exists() and any(one.name != f"{BEGUN}.partial" for one in out.iterdir()):
        raise UserError("is not empty and no harvest", where=str(out), mend="choose another directory")
    else:
        write_json_atomic(path, sampling)


def _check_vocabulary(run: LoadedRun, reference: str) -> None:
    if RunInfo.read(Path(reference)).vocabulary_hash != run.vocabulary.hash:
        mend = "name a run of the same tokenizer"
        raise UserError(
            "has another vocabulary than the run", where=f"RehearsalConfig.reference {reference}", mend=mend
        )


def _write(result: Keeping, out: Path, run: LoadedRun, provenance: dict[str, Any]) -> Manifest:
    """Writes the records and the prepared data set; returns its manifest."""
    made = []
    for one, n in zip(result.kept, result.copies.tolist(), strict=True):
        row, verdict = one.row, one.verdict
        told = provenance | {"index": row["index"] % RETRY, "attempt": row["index"] // RETRY}
        told |= {"kept": verdict.kept, "checkers": verdict.scores}
        if verdict.plan is not None:
            told["drawn"] = row["annotation"]
        for copy in range(n):
            name = f"rehearsal-{provenance['round']}-{row['index'] % RETRY:06d}{f'.{copy}' if copy else ''}"
            made.append(record_of(row, one.plan, told | {"copy": copy}, name))
    write_jsonl_atomic(out / RECORDS, made)
    shutil.rmtree(out / PREPARED, ignore_errors=True)  # of a start that was killed between this and the next line
    return records.prepare_records(out / RECORDS, run.vocabulary, out / PREPARED, length=run.info.length)
