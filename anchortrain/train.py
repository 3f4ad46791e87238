"""The training loop of both phases: read batches, step, log, evaluate, save, resume.

Which phase it is follows from the data and the loss: prepared documents train on every token,
prepared instructions on the response, and the anchor, if it has weight, holds the annotation
distribution of the run that this one starts from. See `loss.py` for the objective.
"""

import contextlib
import dataclasses
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchortrain import checkpoint as checkpoints
from anchortrain import experiment as experiments
from anchortrain import loss as losses
from anchortrain import train_step as steps
from anchortrain.checkpoint import CheckpointStore, RunInfo
from anchortrain.config import Experiment
from anchortrain.data.loader import make_anchor_loader, make_eval_batches, make_loader
from anchortrain.data.prepared import PreparedDataset, check_compatible
from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic
from anchortrain.metrics import MetricsWriter
from anchortrain.model.parameters import Params, abstract_model, params_of
from anchortrain.optimizer import make_optimizer, make_schedule
from anchortrain.progress import Progress
from anchortrain.sharding import make_mesh

# What may differ when a run is continued: nothing that changes what is learned.
_MAY_DIFFER = {"mesh", "checkpoint", "evaluate"}


class Stopped(KeyboardInterrupt):
    """Training was asked to stop and has saved its state."""


def train(experiment: Experiment, run_dir: Path) -> dict[str, float]:
    """Runs an experiment to its token budget, continuing where an earlier call stopped.

    Args:
      experiment: what to train.
      run_dir: made if missing; see `checkpoint` for what it will hold.

    Returns:
      The last held-out metrics, by name.

    Raises:
      UserError: bad data, configuration or disk.
      Stopped: after SIGINT or SIGTERM, once a checkpoint is written.
    """
    finished = run_dir / checkpoints.FINISHED
    trainer = Trainer(experiment, run_dir)
    if finished.exists():
        return json.loads(finished.read_text())["heldout"]
    return trainer.run()


class Trainer:
    """One run: what it needs, built once, and the loop over it."""

    def __init__(self, experiment: Experiment, run_dir: Path) -> None:
        self.experiment, self.run_dir = experiment, run_dir
        data, run = experiment.data, experiment.run
        self.steps = math.ceil(run.tokens / (data.length * data.batch_rows))
        self.datasets = _open_datasets(experiment)
        self.info = _run_info(self.datasets, data.length)
        self._check_directory()
        self.mesh = make_mesh(experiment.mesh)
        _check_rows(experiment, self.mesh.shape["data"] * self.mesh.shape["fsdp"])
        self.abstract = abstract_model(experiment.model, self.info.vocabulary_size)
        self.shapes = params_of(self.abstract)
        self.shardings = steps.param_shardings(self.mesh, self.shapes)
        self.optimizer = make_optimizer(experiment.optimizer, self.steps)
        # Of every step at once: to compute one while training would wait for the running step.
        self.learning_rates = np.asarray(make_schedule(experiment.optimizer, self.steps)(np.arange(self.steps)))
        self.reference = self._load_initial()
        self._stop = False

    # -- set-up ----------------------------------------------------------------------------------

    def _check_directory(self) -> None:
        config = self.run_dir / checkpoints.CONFIG
        if config.exists():
            _check_same(experiments.load_json(config), self.experiment, self.run_dir)
            return
        names = {path.name for path in self.run_dir.iterdir()} if self.run_dir.exists() else set()
        # What a start that was killed at once leaves behind; see `_write_directory`.
        begun = names == {f"{checkpoints.RUN_INFO}.partial"} or checkpoints.RUN_INFO in names
        if names and (not begun or checkpoints.CHECKPOINTS in names):
            raise UserError("is not empty and not a run", where=str(self.run_dir), mend="choose another --out")

    def _write_directory(self) -> None:
        """Last of it the config: a directory that has one is complete."""
        config, vocabulary = self.run_dir / checkpoints.CONFIG, next(iter(self.datasets.values())).vocabulary
        begun = config.exists()
        try:
            self.info.write(self.run_dir)
            checkpoints.copy_vocabulary(vocabulary, self.run_dir)
            experiments.save_json(self.experiment, config)
        except BaseException:
            if not begun:
                for name in (vocabulary.file_name, checkpoints.RUN_INFO):
                    (self.run_dir / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it was there before, or could not be made
                    self.run_dir.rmdir()
            raise

    def _load_initial(self) -> Params | None:
        """Parameters of the run that this one starts from; they are also the anchor's reference."""
        source = self.experiment.run.init_from
        if not source:
            if self.experiment.loss.anchor_weight:
                raise UserError(
                    "the anchor needs a reference", where="LossConfig.anchor_weight", mend="set RunConfig.init_from"
                )
            return None
        theirs = RunInfo.read(Path(source))
        if theirs.vocabulary_hash != self.info.vocabulary_hash:
            raise UserError(
                f"was trained with another vocabulary than {next(iter(self.datasets))} was prepared with",
                where=source,
                mend=f"prepare with --tokenizer {source}/{theirs.vocabulary_file}",
            )
        model = experiments.load_json(Path(source) / checkpoints.CONFIG).model
        for field in dataclasses.fields(model):
            ours = getattr(self.experiment.model, field.name)
            if field.name not in ("compute_dtype", "remat") and getattr(model, field.name) != ours:
                raise UserError(
                    f"has ModelConfig.{field.name} = {getattr(model, field.name)}, this run has {ours}",
                    where=source,
                    mend="use the same ModelConfig",
                )
        return params_of(checkpoints.load_run(source, self.shardings).model)

    def _initial_state(self) -> steps.TrainState:
        run = self.experiment.run
        params = (
            steps.init_params(self.experiment.model, self.info.vocabulary_size, run.seed, self.mesh)
            if self.reference is None
            else jax.tree.map(lambda x: x.copy(), self.reference)  # the step donates its state, not the reference
        )
        abstract = jax.eval_shape(lambda p: steps.TrainState(p, self.optimizer.init(p)), params)
        shardings = steps.state_shardings(self.mesh, abstract).optimizer
        return steps.TrainState(params, jax.jit(self.optimizer.init, out_shardings=shardings)(params))

    def _loaders(self) -> dict[str, Any]:
        e, hosts = self.experiment, {"host_index": jax.process_index(), "host_count": jax.process_count()}
        common = {"length": e.data.length, "seed": e.data.seed} | hosts
        loaders = {
            "train": make_loader(
                e.data.train,
                batch_rows=e.data.batch_rows,
                objective=e.loss.objective,
                syntax_share=e.loss.syntax_share,
                **common,
            )
        }
        if e.loss.anchor_weight:
            loaders["anchor"] = make_anchor_loader(_anchor_sources(e), batch_rows=e.loss.anchor_rows, **common)
        return loaders

    def _device(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        sharding = steps.batch_sharding(self.mesh)
        return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}

    def _heldout(self) -> dict[str, tuple[str, list]]:
        """Name -> (kind, batches on the devices) of every held-out set."""
        e, found = self.experiment, {}
        for name, path in e.data.heldout.items():
            batches = make_eval_batches(
                path,
                length=e.data.length,
                batch_rows=e.data.batch_rows,
                batches=e.evaluate.batches,
                objective=e.loss.objective,
                host_index=jax.process_index(),
                host_count=jax.process_count(),
            )
            kind = self.datasets[path].manifest.kind
            if kind == "draws" and self.reference is None:
                raise UserError(
                    "drift on draws needs a reference", where=f"DataConfig.heldout[{name!r}]", mend="set init_from"
                )
            found[name] = (kind, [self._device(batch) for batch in batches])
        return found

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        e = self.experiment
        with jax.set_mesh(self.mesh):
            loaders = self._loaders()
            heldout = self._heldout()
            step_fn = steps.make_train_step(self.mesh, self.abstract, self.optimizer, e.loss, e.run.accumulation)
            self._write_directory()
            with contextlib.closing(CheckpointStore(self.run_dir, e.checkpoint)) as store:
                state, start = self._restore(store, loaders)
                with MetricsWriter(self.run_dir, resume_step=start) as writer, _catch_signals(self):
                    return self._loop(state, start, loaders, heldout, step_fn, store, writer)

    def _restore(self, store: CheckpointStore, loaders: dict[str, Any]) -> tuple[steps.TrainState, int]:
        state = self._initial_state()
        start = store.latest
        if start is None:
            return state, 0
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        loaded = store.load(start, abstract._asdict())
        for name, loader_state in store.metadata(start)["loaders"].items():
            loaders[name].set_state(loader_state)
        return steps.TrainState(**loaded), start

    def _loop(self, state, start, loaders, heldout, step_fn, store, writer) -> dict[str, float]:
        e = self.experiment
        row_tokens = e.data.length * e.data.batch_rows
        reference = self.reference if e.loss.anchor_weight else None
        pending: tuple[int, dict] | None = None
        # The process may have died between the last checkpoint and FINISHED.
        results = self._evaluate(state.params, heldout) if start == self.steps else {}
        started = time.perf_counter()
        with Progress(self.steps * row_tokens, unit="tokens", label=self.run_dir.name) as progress:
            progress.skip(start * row_tokens)
            for step in range(start + 1, self.steps + 1):
                waited = time.perf_counter()
                batch = self._device(next(loaders["train"]))
                if "anchor" in loaders:
                    batch["anchor"] = self._device(next(loaders["anchor"]))
                waited = time.perf_counter() - waited
                state, metrics = self._paced(step_fn(state, reference, batch))
                # Only an earlier step's metrics are read: the host never waits for the running step.
                progress.update(row_tokens, **self._log(writer, pending))
                last = step == self.steps
                log = step % e.run.log_every == 0 or last
                pending = (step, metrics | {"time/data": waited}) if log else None
                evaluate = step % e.evaluate.every_steps == 0 or last
                stop = self._stop  # read once: a signal may come at any time
                save = step % e.checkpoint.every_steps == 0 or last or stop
                if evaluate or save:  # a checkpoint's metrics must not be lost with the process
                    self._log(writer, pending)
                    pending = None
                if evaluate:
                    results = self._evaluate(state.params, heldout)
                    writer.write(step, {"tokens": step * row_tokens} | results)
                if save:
                    self._save(store, step, state, loaders)
                if stop and not last:
                    store.wait()
                    raise Stopped(f"stopped after step {step} of {self.steps}; the same command continues")
        store.wait()
        seconds = time.perf_counter() - started
        finished = {"steps": self.steps, "tokens": self.steps * row_tokens, "seconds": seconds, "heldout": results}
        write_text_atomic(self.run_dir / checkpoints.FINISHED, json.dumps(finished, indent=2) + "\n")
        return results

    def _save(self, store: CheckpointStore, step: int, state: steps.TrainState, loaders: dict[str, Any]) -> None:
        metadata = {"loaders": {name: loader.get_state() for name, loader in loaders.items()}}
        store.save(step, state.params, state.optimizer, metadata)

    def _log(self, writer: MetricsWriter, pending: tuple[int, dict[str, Any]] | None) -> dict[str, float]:
        """Writes the metrics of one step, if any; returns what the progress line shows."""
        if pending is None:
            return {}
        step, metrics = pending
        values: dict[str, float] = {"learning_rate": float(self.learning_rates[step - 1])}
        for name, value in jax.device_get(metrics).items():
            if name.startswith("time/"):
                values[name] = value
            elif value[1]:  # a role that the batch does not have is left out
                values[f"train/{name}"] = losses.mean(losses.Term(*value))
        loss = values.get("train/loss/text_term", 0.0)  # a batch may hold nothing to train on
        if not math.isfinite(loss):
            what = f"the loss is {loss} at step {step}"
            raise UserError(what, where=str(self.run_dir), mend="lower OptimizerConfig.learning_rate")
        tokens = step * self.experiment.data.length * self.experiment.data.batch_rows
        writer.write(step, {"tokens": tokens} | values)
        return {"loss": loss}

    def _evaluate(self, params: Params, heldout: dict[str, tuple[str, list]]) -> dict[str, float]:
        """Held-out metrics by role: `heldout/NAME/loss/text` and so on; draws give `heldout/NAME/kl`."""
        results = {}
        for name, (kind, batches) in heldout.items():
            totals = None
            for batch in batches:
                if kind == "draws":
                    metrics = self._drift(params, self.reference, batch)
                else:
                    metrics = self._measure(params, batch)
                totals = self._paced(metrics if totals is None else jax.tree.map(jnp.add, totals, metrics))
            for metric, term in jax.device_get(totals).items():
                if term[1]:
                    results[f"heldout/{name}/{metric}"] = losses.mean(losses.Term(*term))
        return results

    def _paced(self, results: Any) -> Any:
        """`results`, computed first where several CPU devices are simulated: they share a few threads, and programs
        that overlap can starve each other's collectives, which ends the process."""
        simulated = self.mesh.size > 1 and self.mesh.devices.flat[0].platform == "cpu"
        return jax.block_until_ready(results) if simulated else results

    @property
    def _measure(self):
        if not hasattr(self, "_measure_step"):
            self._measure_step = steps.make_evaluate_step(self.abstract)
        return self._measure_step

    @property
    def _drift(self):
        if not hasattr(self, "_drift_step"):
            self._drift_step = steps.make_drift_step(self.abstract, self.experiment.loss.anchor_direction)
        return self._drift_step


class _catch_signals:
    """SIGINT and SIGTERM ask the trainer to stop after the running step; a second SIGINT stops at once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.before = trainer, {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: whoever runs us handles signals
                return

    def _handle(self, number: int, _frame: Any) -> None:
        self.trainer._stop = True
        signal.signal(number, self.before[number])

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _anchor_sources(e: Experiment) -> dict[str, float]:
    """Where annotations to anchor at come from: reference draws, or the training instructions."""
    return {e.loss.anchor_data: 1.0} if e.loss.anchor_source == "draws" else dict(e.data.train)


def _open_datasets(e: Experiment) -> dict[str, PreparedDataset]:
    """Every prepared directory of the experiment, checked against each other."""
    if not e.data.train:
        raise UserError("is empty", where="DataConfig.train", mend="name a directory made by `anchortrain prepare`")
    paths = [*e.data.train, *e.data.heldout.values()]
    if e.loss.anchor_weight:
        paths += _anchor_sources(e)
    datasets = {path: PreparedDataset(path) for path in dict.fromkeys(paths)}
    check_compatible(list(datasets.values()), length=e.data.length)
    return datasets


def _run_info(datasets: dict[str, PreparedDataset], length: int) -> RunInfo:
    first = next(iter(datasets.values())).manifest
    keys = dict.fromkeys(key for d in datasets.values() for key in d.manifest.annotation_keys)
    return RunInfo(first.vocabulary_hash, first.vocabulary_size, first.vocabulary_file, list(keys), length)


def _check_rows(e: Experiment, ways: int) -> None:
    """Raises UserError unless every device gets as many rows as any other."""
    for name, rows in (("DataConfig.batch_rows", e.data.batch_rows), ("LossConfig.anchor_rows", e.loss.anchor_rows)):
        if rows % ways and (name == "DataConfig.batch_rows" or e.loss.anchor_weight):
            mend = f"use a multiple of {ways}, or another MeshConfig"
            raise UserError(f"{rows} rows cannot be shared out over {ways} devices", where=name, mend=mend)


def _check_same(old: Experiment, new: Experiment, run_dir: Path) -> None:
    """Raises UserError unless `new` may continue a run that was started as `old`."""
    for part in dataclasses.fields(Experiment):
        if part.name in _MAY_DIFFER:
            continue
        before, after = getattr(old, part.name), getattr(new, part.name)
        for field in dataclasses.fields(before):
            a, b = getattr(before, field.name), getattr(after, field.name)
            if a != b and field.name != "log_every":
                raise UserError(
                    f"was started with {type(before).__name__}.{field.name} = {a!r}, now it is {b!r}",
                    where=str(run_dir),
                    mend="choose another --out, or set it back to continue",
                )
