"""The training loop of both phases: read batches, step, log, evaluate, save, resume.

Which phase it is follows from the data and the loss: prepared documents train on every token,
prepared instructions on the response, and the anchor, if it has weight, holds the annotation
distribution of the run that this one starts from, or of another that is named. See `loss.py` for the objective.

Every process of a run executes this alike; process 0 alone writes what is not a checkpoint.
"""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchortrain import checkpoint as checkpoints
from anchortrain import compiler, flops
from anchortrain import loss as losses
from anchortrain import train_step as steps
from anchortrain.checkpoint import CheckpointStore
from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic
from anchortrain.metrics import MetricsWriter
from anchortrain.model.parameters import abstract_model, params_of
from anchortrain.optimizer import make_optimizer, make_schedule
from anchortrain.progress import Progress
from anchortrain.sharding import check_fits, make_mesh
from anchortrain.training import directory, setup
from anchortrain.training.feeding import Feed
from anchortrain.training.heldout import Heldout, paced
from anchortrain.training.profiling import Profile
from anchortrain.training.stopping import Stopped, StopSignals
from anchortrain.training.timing import Clock


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    profile_steps: tuple[int, int] | None = None,
    started: float | None = None,
) -> dict[str, float]:
    """Runs an experiment to its token budget, continuing where an earlier call stopped.

    Args:
      experiment: what to train.
      run_dir: made if missing; see `checkpoint` for what it will hold. With several processes it must be shared.
      profile_steps: first and last step to trace.
      started: `time.time()` when the command began, for the account of time.

    Returns:
      The last held-out metrics, by name.

    Raises:
      UserError: bad data, configuration or disk.
      Stopped: after SIGINT or SIGTERM, once a checkpoint is written.
      KeyboardInterrupt: a signal came after the last step; the run is finished.
    """
    finished = run_dir / checkpoints.FINISHED
    trainer = Trainer(experiment, run_dir, profile_steps, started)
    if finished.exists():
        return json.loads(finished.read_text())["heldout"]
    return trainer.run()


class Trainer:
    """One run: what it needs, built once, and the loop over it."""

    def __init__(
        self, experiment: Experiment, run_dir: Path, profile_steps: tuple[int, int] | None, started: float | None
    ) -> None:
        self.experiment, self.run_dir, self.profile_steps = experiment, run_dir, profile_steps
        data, run = experiment.data, experiment.run
        self.row_tokens = data.length * data.batch_rows
        self.steps = math.ceil(run.tokens / self.row_tokens)
        self.is_writer = jax.process_index() == 0
        self.datasets = setup.open_datasets(experiment)
        self.info = setup.run_info(experiment, self.datasets)
        directory.check(run_dir, experiment)
        directory.check_shared(run_dir)
        self.mesh = make_mesh(experiment.mesh)
        check_fits(self.mesh, experiment)
        self.abstract = abstract_model(experiment.model, self.info.vocabulary_size)
        self.shardings = steps.param_shardings(self.mesh, params_of(self.abstract))
        self.optimizer = make_optimizer(experiment.optimizer, self.steps)
        # Of every step at once: to compute one while training would wait for the running step.
        self.learning_rates = np.asarray(make_schedule(experiment.optimizer, self.steps)(np.arange(self.steps)))
        self.initial, self.reference = setup.load_runs(experiment, self.datasets, self.info, self.shardings)
        self.clock = self._clock(started)

    def _clock(self, started: float | None) -> Clock:
        devices, e = jax.devices(), self.experiment
        peak = flops.peak(devices[0].device_kind)
        per_token = flops.train_flops_per_token(e.model, self.info.vocabulary_size, e.data.length)
        return Clock(
            self.run_dir,
            started=started,
            tokens_per_step=self.row_tokens,
            flops_per_step=per_token * self.row_tokens,
            peak=peak and peak * len(devices),
            write=self.is_writer,
        )

    def run(self) -> dict[str, float]:
        """Trains to the end; see `train`."""
        e, sharding = self.experiment, steps.batch_sharding(self.mesh)
        with jax.set_mesh(self.mesh), contextlib.ExitStack() as stack:
            self.feeds = {"train": Feed(sharding, e.data.batch_rows, e.data.length)}
            if e.loss.anchor_weight:
                self.feeds["anchor"] = Feed(sharding, e.loss.anchor_rows, e.data.length)
            self.loaders = setup.make_loaders(e, self.feeds)
            self.heldout = Heldout(e, self.datasets, self.abstract, self.reference, self.feeds["train"])
            directory.write(self.run_dir, e, self.info, next(iter(self.datasets.values())).vocabulary)
            self.store = stack.enter_context(CheckpointStore(self.run_dir, e.checkpoint))
            state, start = self._restore()
            self.writer = (
                stack.enter_context(MetricsWriter(self.run_dir, resume_step=start)) if self.is_writer else None
            )
            self.profile = stack.enter_context(Profile(self.run_dir, self.profile_steps, start, self.steps))
            self.stop = stack.enter_context(StopSignals())
            stream = None if self.is_writer else stack.enter_context(open(os.devnull, "w"))
            whole = self.steps * self.row_tokens
            self.progress = stack.enter_context(Progress(whole, label=self.run_dir.name, stream=stream))
            return self._loop(state, start)

    def _restore(self) -> tuple[steps.TrainState, int]:
        """The state to go on from, onto this mesh whatever it was saved from, and the steps that are done."""
        state = self._initial_state()
        start = self.store.latest
        if start is None:
            return state, 0
        with self.clock.spent("restore"):
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
            loaded = self.store.load(start, abstract.items())
            for name, loader_state in self.store.metadata(start)["loaders"].items():
                self.loaders[name].set_state(loader_state)
        return steps.TrainState(**loaded), start

    def _initial_state(self) -> steps.TrainState:
        run = self.experiment.run
        if self.initial is None:
            params = steps.init_params(self.experiment.model, self.info.vocabulary_size, run.seed, self.mesh)
        elif self.reference is not self.initial:
            params = self.initial
        else:  # the step donates its state, but not the reference
            params = jax.tree.map(lambda x: x.copy(), self.initial)
        self.initial = None
        return steps.initial_state(params, self.optimizer, self.experiment.loss, self.mesh)

    # -- the loop --------------------------------------------------------------------------------

    def _loop(self, state: steps.TrainState, start: int) -> dict[str, float]:
        e, clock = self.experiment, self.clock
        on_tpu = self.mesh.devices.flat[0].platform == "tpu"
        options = compiler.options(e.run.compiler_profile) if on_tpu else None
        step_fn = steps.make_train_step(
            self.mesh, self.abstract, self.optimizer, e.loss, e.run.accumulation, compiler_options=options or None
        )
        reference = self.reference if e.loss.anchors_online else None
        pending: tuple[int, dict] | None = None
        # The process may have died between the last checkpoint and FINISHED.
        results = self.heldout.evaluate(state.params) if start == self.steps else {}
        clock.begin(start)
        self.progress.skip(start * self.row_tokens)
        for step in range(start + 1, self.steps + 1):
            with clock.spent("data"):
                batch = self._next_batch()
            first = step == start + 1
            with clock.spent("compile") if first else contextlib.nullcontext(), self.profile.step(step):
                state, metrics = step_fn(state, reference, batch)
            paced(metrics)
            self.profile.after(step, metrics)
            # Only an earlier step's metrics are read: the host never waits for the running step.
            self.progress.update(self.row_tokens, **self._log(pending))
            last = step == self.steps
            pending = (step, metrics) if step % e.run.log_every == 0 or last else None
            evaluate = step % e.evaluate.every_steps == 0 or last
            stop = self.stop.reached(step)  # asked once: a signal may come at any time
            save = step % e.checkpoint.every_steps == 0 or last or stop
            if evaluate or save:  # a checkpoint's metrics must not be lost with the process
                jax.block_until_ready(metrics)  # as time of the step
                self._log(pending)
                pending = None
            if evaluate:
                results = self._evaluate(step, state)
            if save:
                self._save(step, state)
            if stop and not last:
                self.store.wait()
                raise Stopped(f"stopped after step {step} of {self.steps}; the same command continues")
        self.store.wait()
        self._finish(results)
        return results

    def _next_batch(self) -> dict[str, Any]:
        batch = self.feeds["train"](next(self.loaders["train"]))
        if "anchor" in self.loaders:
            batch["anchor"] = self.feeds["anchor"](next(self.loaders["anchor"]))
        return batch

    def _evaluate(self, step: int, state: steps.TrainState) -> dict[str, float]:
        with self.clock.spent("evaluate"):
            results = self.heldout.evaluate(state.params)
        if self.writer:
            self.writer.write(step, {"tokens": step * self.row_tokens} | results)
        return results

    def _save(self, step: int, state: steps.TrainState) -> None:
        metadata = {"loaders": {name: loader.get_state() for name, loader in self.loaders.items()}}
        with self.clock.spent("checkpoint"):
            self.store.save(step, state.items(), metadata)
        self.clock.note(step)

    def _log(self, pending: tuple[int, dict[str, Any]] | None) -> dict[str, float]:
        """Writes the metrics of one step, if any; returns what the progress line shows."""
        if pending is None:
            return {}
        step, metrics = pending
        values: dict[str, float] = {"learning_rate": float(self.learning_rates[step - 1])}
        for name, term in jax.device_get(metrics).items():
            if term[1]:  # a role that the batch does not have is left out
                values[f"train/{name}"] = losses.mean(losses.Term(*term))
        loss = values.get("train/loss/text_term", 0.0)  # a batch may hold nothing to train on
        if not math.isfinite(loss):
            what = f"the loss is {loss} at step {step}"
            raise UserError(what, where=str(self.run_dir), mend="lower OptimizerConfig.learning_rate")
        times = self.clock.mark(step)
        if self.writer:
            self.writer.write(step, {"tokens": step * self.row_tokens} | values | times)
        return {"loss": loss}

    def _finish(self, results: dict[str, float]) -> None:
        """Writes the file that says that the run is complete; what it took, over all its starts, beside it."""
        self.clock.note(self.steps)
        if self.is_writer:
            finished = {"steps": self.steps, "tokens": self.steps * self.row_tokens, "heldout": results}
            finished |= {"seconds": self.clock.total(), "goodput": self.clock.goodput()}
            write_text_atomic(self.run_dir / checkpoints.FINISHED, json.dumps(finished, indent=2) + "\n")
