"""All rounds of a rehearsal.

    OUT/round_0           an ordinary run: the experiment's own post-training, unless `RehearsalConfig.start` names one
    OUT/harvest_1         what `harvest` makes of it
    OUT/round_1           a run that goes on from it, on the experiment's data and the harvest
    …
    OUT/rehearsal.json    what each round kept, cost and was; written last

Each of these is finished or continued by itself, so there is nothing else to resume.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax

from anchortrain import checkpoint as checkpoints
from anchortrain.config import Experiment
from anchortrain.data.manifest import MANIFEST, Manifest
from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from anchortrain.rehearsal import checker as checkers
from anchortrain.rehearsal.config import Rehearsing, checker_names
from anchortrain.rehearsal.harvest import PREPARED, harvest
from anchortrain.rehearsal.harvest import origin as origin_of
from anchortrain.rehearsal.prompts import from_data
from anchortrain.rehearsal.shortage import Shortage
from anchortrain.train import train

_MAY_DIFFER = ("rounds",)  # of RehearsalConfig: a finished rehearsal may go on


def rehearse(settings: Rehearsing, out: Path) -> dict[str, Any]:
    """Runs what is left of a rehearsal; returns what rehearsal.json holds, see docs/rehearsal.md.

    Raises:
      UserError: bad data, configuration or disk, a harvest that is too small.
      Stopped: after SIGINT or SIGTERM in training, once a checkpoint is written. The same command continues.
    """
    if jax.process_count() > 1:
        raise UserError("rehearsal runs in one process", mend="harvest and train by themselves on many hosts")
    if (found := _finished(settings, out)) is not None:
        return found
    _check_checkers(settings)
    run = _start(settings, out)
    rounds = [{"round": 0, "run": str(run), **_trained(run)}]
    origin, stopped = reference(settings), {}
    for number in range(1, settings.rehearsal.rounds + 1):
        info = checkpoints.RunInfo.read(run)
        pools = from_data(settings.data.train, info.vocabulary_hash)
        place = out / f"harvest_{number}"
        try:
            figures = harvest(run, pools, place, settings, round=number, reference=origin)
        except Shortage as shortage:
            if number == 1 or settings.rehearsal.on_shortage == "error":
                raise
            stopped = {"stopped": str(shortage)}
            break
        experiment = experiment_of_round(settings, out, run, number)
        run = out / f"round_{number}"
        train(experiment, run)
        rounds.append({"round": number, "run": str(run), **_trained(run), "harvest": _short(figures)})
    whole = {"settings": _described(settings), "reference": origin, "rounds": rounds} | stopped
    write_json_atomic(out / checkpoints.REHEARSAL, whole)
    return whole


def reference(settings: Rehearsing) -> str:
    """The run that all rounds are anchored to: the one that post-training started from."""
    if settings.run.init_from or not settings.rehearsal.start:
        return settings.run.init_from
    return origin_of(Path(settings.rehearsal.start))


def experiment_of_round(settings: Rehearsing, out: Path, before: Path, number: int) -> Experiment:
    """What round `number` trains, from the parameters of the run `before`."""
    config, e = settings.rehearsal, settings.experiment
    first = 1 if config.pool == "all" else number
    harvests = [str(out / f"harvest_{i}" / PREPARED) for i in range(first, number + 1)]
    tokens = [Manifest.read(Path(path) / MANIFEST).tokens for path in harvests]
    whole = sum(e.data.train.values())
    shares = {path: share / whole * (1 - config.share) for path, share in e.data.train.items()}
    shares |= {path: config.share * n / sum(tokens) for path, n in zip(harvests, tokens, strict=True)}
    # Also without an anchor: drift is told from there.
    loss = dataclasses.replace(e.loss, anchor_run=e.loss.anchor_run or reference(settings))
    rate = config.learning_rate or e.optimizer.learning_rate
    return dataclasses.replace(
        e,
        data=dataclasses.replace(e.data, train=shares, seed=(e.data.seed + number) % 2**31),
        loss=loss,
        optimizer=dataclasses.replace(e.optimizer, learning_rate=rate),
        run=dataclasses.replace(e.run, init_from=str(before), tokens=config.tokens),
    )


def _start(settings: Rehearsing, out: Path) -> Path:
    """The post-trained run to begin with, trained if need be."""
    if not settings.rehearsal.start:
        train(settings.experiment, out / "round_0")
        return out / "round_0"
    run = Path(settings.rehearsal.start)
    if not (run / checkpoints.FINISHED).exists():
        mend = "finish it with `anchortrain train`, or leave start empty to train it here"
        raise UserError("is no finished run", where=f"RehearsalConfig.start {run}", mend=mend)
    return run


def _check_checkers(settings: Rehearsing) -> None:
    """Raises UserError on checkers that cannot work, before anything is trained."""
    with tempfile.TemporaryDirectory() as nowhere:
        origin = settings.rehearsal.reference or reference(settings)
        with checkers.opened(checker_names(settings.rehearsal), settings, Path(nowhere), origin):
            pass


def _finished(settings: Rehearsing, out: Path) -> dict[str, Any] | None:
    """What an earlier call left, when it did all that is asked for now. Raises UserError when it did something else."""
    path = out / checkpoints.REHEARSAL
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), mend="remove it") from None
    for section, fields in _described(settings).items():
        for field, value in fields.items():
            old = found["settings"].get(section, {}).get(field, value)  # a field that is newer decided nothing
            if old != value and field not in _MAY_DIFFER:
                what = f"was made with {section}.{field} = {old!r}, now it is {value!r}"
                raise UserError(what, where=str(out), mend="choose another --out, or set it back")
    return found if found["settings"]["rehearsal"]["rounds"] == settings.rehearsal.rounds else None


def _described(settings: Rehearsing) -> dict[str, Any]:
    """All that decides the result, as JSON has it."""
    tree = dataclasses.asdict(settings)
    for section in ("mesh", "checkpoint", "evaluate"):
        del tree[section]
    return json.loads(json.dumps(tree))


def _trained(run: Path) -> dict[str, Any]:
    """What the run cost."""
    finished = json.loads((run / checkpoints.FINISHED).read_text(encoding="utf-8"))
    return {
        "trained_tokens": finished["tokens"],
        "train_seconds": sum(finished["seconds"].values()),
        "heldout": finished["heldout"],
    }


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    """A harvest in the table of rounds."""
    names = ("drawn", "confirmed_at_once", "confirmed", "best", "records", "acceptance", "rejected", "left", "shift")
    entropies = {name: {k: one[k] for k in ("bits", "bits_se")} for name, one in figures["entropy"].items()}
    return {name: figures[name] for name in names} | {
        "entropy": entropies,
        "tokens": figures["tokens"],
        "seconds": figures["seconds"],
    }


def lines(whole: dict[str, Any]) -> list[str]:
    """A rehearsal as a table for people."""
    found = []
    for one in whole["rounds"]:
        line = f"round {one['round']}: {one['trained_tokens']} tokens in {one['train_seconds']:.0f}s"
        if kept := one.get("harvest"):
            line += f"; {kept['records']} records of {kept['drawn']} plans ({kept['acceptance']:.1%} at once)"
            bits = [kept["entropy"][name]["bits"] for name in ("drawn", "written")]
            line += ", plans {:.2f} bits drawn, {:.2f} written".format(*bits)
        found.append(line)
    if why := whole.get("stopped"):
        found.append(f"stopped before round {len(whole['rounds'])}: {why}")
    return found
