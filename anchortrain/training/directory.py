"""The run directory at the start of a run: is it ours, is it shared, and what is written into it first.

Only process 0 writes; every process looks.
"""

import contextlib
import dataclasses
import secrets
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from anchortrain import checkpoint as checkpoints
from anchortrain import experiment as experiments
from anchortrain.checkpoint import RunInfo
from anchortrain.config import Experiment
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import AgreedError, UserError
from anchortrain.files import write_text_atomic

_SHARED = ".shared"  # there only while processes look whether they see the same directory
_PATIENCE_SECONDS = 5.0  # a network file system may show a new file late

# What may differ when a run is continued: nothing that changes what is learned.
_MAY_DIFFER = {"mesh", "checkpoint", "evaluate"}
_FIELDS_MAY_DIFFER = {"log_every", "remat", "attention", "compiler_profile"}


def check(run_dir: Path, experiment: Experiment) -> None:
    """Raises UserError unless `run_dir` is new, empty, or of a run that `experiment` may continue."""
    config = run_dir / checkpoints.CONFIG
    if config.exists():
        _check_same(experiments.load_json(config), experiment, run_dir)
        return
    names = {path.name for path in run_dir.iterdir()} if run_dir.exists() else set()
    # What a start that was killed at once leaves behind; see `write`.
    names -= {_SHARED, f"{_SHARED}.partial", f"{checkpoints.RUN_INFO}.partial"}
    if names and (checkpoints.RUN_INFO not in names or checkpoints.CHECKPOINTS in names):
        raise UserError("is not empty and not a run", where=str(run_dir), mend="choose another --out")


def check_shared(run_dir: Path) -> None:
    """Raises AgreedError unless all processes see in `run_dir` what process 0 writes there."""
    if jax.process_count() == 1:
        return
    token = int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))
    path, before = run_dir / _SHARED, run_dir.exists()
    if jax.process_index() == 0:
        write_text_atomic(path, str(token))
    multihost_utils.sync_global_devices("shared directory: written")
    seen = multihost_utils.process_allgather(np.int32(_sees(path, token)))
    if jax.process_index() == 0:
        path.unlink(missing_ok=True)
        if not before and not all(seen):
            run_dir.rmdir()
    blind = ", ".join(str(i) for i in np.flatnonzero(seen == 0))
    if blind:
        raise AgreedError(
            f"what process 0 writes there is not seen by process {blind}",
            where=str(run_dir),
            mend="give --out a directory that all hosts share",
        )


def _sees(path: Path, token: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == str(token):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def write(run_dir: Path, experiment: Experiment, info: RunInfo, vocabulary: Vocabulary) -> None:
    """Writes what describes the run. Last of it the config: a directory that has one is complete."""
    if jax.process_index() == 0:
        config = run_dir / checkpoints.CONFIG
        begun = config.exists()
        try:
            info.write(run_dir)
            checkpoints.copy_vocabulary(vocabulary, run_dir)
            experiments.save_json(experiment, config)
        except BaseException:
            if not begun:
                for name in (vocabulary.file_name, checkpoints.RUN_INFO):
                    (run_dir / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it was there before, or could not be made
                    run_dir.rmdir()
            raise
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("run directory: written")


def _check_same(old: Experiment, new: Experiment, run_dir: Path) -> None:
    """Raises UserError unless `new` may continue a run that was started as `old`."""
    for part in dataclasses.fields(Experiment):
        if part.name in _MAY_DIFFER:
            continue
        before, after = getattr(old, part.name), getattr(new, part.name)
        for field in dataclasses.fields(before):
            a, b = getattr(before, field.name), getattr(after, field.name)
            if a != b and field.name not in _FIELDS_MAY_DIFFER:
                raise UserError(
                    f"was started with {type(before).__name__}.{field.name} = {a!r}, now it is {b!r}",
                    where=str(run_dir),
                    mend="choose another --out, or set it back to continue",
                )
