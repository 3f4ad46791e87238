"""Run directories: what a run leaves behind and how it is read again.

    RUN/config.json          the resolved experiment with versions; enough to repeat the run
    RUN/run.json             vocabulary hash and size, annotation keys, row length
    RUN/tokenizer.json|model a copy of the vocabulary
    RUN/checkpoints/STEP/    Orbax: parameters, optimizer, the anchor's controller if any; the loader's position is its
                             metadata
    RUN/metrics.jsonl        one line a logged step; RUN/tensorboard/ the same
    RUN/goodput.jsonl        where the time of all attempts went, see `training.timing`
    RUN/finished.json        written last; a run without it is continued

Orbax writes a checkpoint under a temporary name and renames it, so a killed writer leaves no
half-written step behind.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
from orbax.checkpoint import v1 as ocp

from anchortrain import experiment as experiments
from anchortrain.config import CheckpointConfig, Experiment
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.files import write_bytes_atomic, write_text_atomic
from anchortrain.model.parameters import Params, abstract_model, model_with, params_of
from anchortrain.model.transformer import Transformer

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
RUN_INFO = "run.json"
FINISHED = "finished.json"
REHEARSAL = "rehearsal.json"  # of a rehearsal, whose rounds are runs

_TEMPORARY = ".orbax-checkpoint-tmp"
_ORBAX_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
_FULL = os.strerror(errno.ENOSPC)


class RunInfo(NamedTuple):
    """What a run knows of its data, so that it can be sampled from without it."""

    vocabulary_hash: str
    vocabulary_size: int
    vocabulary_file: str
    annotation_keys: list[str]
    length: int  # of a training row, tokens

    def write(self, run_dir: Path) -> None:
        write_text_atomic(run_dir / RUN_INFO, json.dumps(self._asdict(), indent=2) + "\n")

    @classmethod
    def read(cls, run_dir: Path) -> "RunInfo":
        path = run_dir / RUN_INFO
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            what = "not a run directory" if run_dir.is_dir() else "no such run directory"
            raise UserError(what, where=str(run_dir), mend="make it with `anchortrain train --out`") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"cannot be read: {error}", where=str(path), mend="repeat the run") from None


class CheckpointStore:
    """The checkpoints of one run. Saving is asynchronous; `close` waits for it."""

    def __init__(self, run_dir: Path, config: CheckpointConfig | None = None) -> None:
        directory = run_dir / CHECKPOINTS
        policies = ocp.training.preservation_policies
        keep = policies.LatestN(config.keep) if config else None
        self._dir, self._failed = directory, False
        # What goes wrong is raised, too; Orbax also logs it with a traceback for each of its threads.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(), preservation_policy=keep, cleanup_tmp_directories=config is not None
        )

    @property
    def latest(self) -> int | None:
        """The last finished step, or None."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    def save(self, step: int, state: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Starts writing a checkpoint of the parts of `state` by name; waits first for the one before it."""
        with self._writing():
            self._checkpointer.wait()
            self._checkpointer.save_checkpointables_async(step, state, force=True, custom_metadata=metadata)

    def metadata(self, step: int) -> dict[str, Any]:
        """What was saved as `metadata` beside a step."""
        return self._checkpointer.metadata(step).custom_metadata

    def load(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """The named checkpointables of a step, with the shardings of `abstract`."""
        try:
            return self._checkpointer.load_checkpointables(step, abstract)
        except _ORBAX_ERRORS as error:
            mend = "is it damaged, or of another ModelConfig?"
            raise UserError(
                f"cannot be restored: {_reason(error)}", where=str(self._dir / str(step)), mend=mend
            ) from None

    def wait(self) -> None:
        """Blocks until what was saved is on disk; raises UserError when it could not be written."""
        with self._writing():
            self._checkpointer.wait()

    def close(self) -> None:
        if not self._failed:  # it would fail again
            with self._writing():
                self._checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        # Closing waits for all processes; where one has failed the others will not come.
        if kind is None or jax.process_count() == 1:
            self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what Orbax raises into one line, and removes what it has half written."""
        try:
            yield
        except _ORBAX_ERRORS as error:
            self._failed = True
            self._discard()
            mend = "the same command continues once it can be"
            raise UserError(f"cannot be written: {_reason(error)}", where=str(self._dir), mend=mend) from None

    def _discard(self) -> None:
        """Removes what is half written, for as long as Orbax's other threads may still be adding to it."""
        for _ in range(10):
            for path in self._dir.glob(f"*{_TEMPORARY}*"):
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.1)


def _reason(error: BaseException) -> str:
    """The first sentence of the innermost error: Orbax wraps what went wrong in layers that say less."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = str(error).strip()
    return "no space left on device" if _FULL in text else text.split("\n")[0].split(". ")[0][:200]


def fingerprint(run_dir: Path) -> str:
    """Tells runs apart, wherever they lie and whatever wrote them last: what they train, on what, with which seed."""
    experiment = dataclasses.asdict(experiments.load_json(run_dir / CONFIG))
    decides = {name: experiment[name] for name in ("model", "data", "loss", "optimizer", "run")}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


class LoadedRun(NamedTuple):
    """A run ready for sampling or for training on."""

    model: Transformer
    vocabulary: Vocabulary
    experiment: Experiment
    info: RunInfo
    step: int


def last_round(run_dir: Path) -> Path:
    """The run of the last round where `run_dir` is a finished rehearsal, else `run_dir` itself."""
    path = run_dir / REHEARSAL
    if not path.exists():
        return run_dir
    try:
        return run_dir / f"round_{len(json.loads(path.read_text(encoding='utf-8'))['rounds']) - 1}"
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot be read: {error}", where=str(path), mend="remove it: the rehearsal continues"
        ) from None


def load_run(run_dir: str | os.PathLike, shardings: Params | None = None) -> LoadedRun:
    """The last checkpoint of a run.

    Args:
      run_dir: as given to `anchortrain train --out`, or `anchortrain rehearse --out`: then the run of its last round.
      shardings: of the parameters; by default all lie on the first device.

    Raises:
      UserError: when the directory is not a run, has no checkpoint yet, or is damaged.
    """
    run_dir = last_round(Path(run_dir))
    info = RunInfo.read(run_dir)
    experiment = experiments.load_json(run_dir / CONFIG)
    vocabulary = Vocabulary.from_path(run_dir / info.vocabulary_file)
    if vocabulary.hash != info.vocabulary_hash:
        raise UserError("is not the vocabulary that the run was trained with", where=str(vocabulary.path))
    if not (run_dir / CHECKPOINTS).is_dir():
        raise UserError("has no checkpoint yet", where=str(run_dir), mend="let `anchortrain train` reach one")
    abstract = abstract_model(experiment.model, info.vocabulary_size)
    shapes = params_of(abstract)
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: one, shapes)
    target = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings)
    store = CheckpointStore(run_dir)
    try:
        step = store.latest
        if step is None:
            raise UserError("has no checkpoint yet", where=str(run_dir), mend="let `anchortrain train` reach one")
        params = store.load(step, {"params": target})["params"]
    finally:
        store.close()
    return LoadedRun(model_with(abstract, params), vocabulary, experiment, info, step)


def copy_vocabulary(vocabulary: Vocabulary, run_dir: Path) -> None:
    """Puts the tokenizer file beside the run."""
    write_bytes_atomic(run_dir / vocabulary.file_name, vocabulary.path.read_bytes())
