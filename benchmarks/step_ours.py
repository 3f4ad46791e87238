"""A contestant of `benchmarks.train_step`: the trainer's compiled step. Arguments: size, directory of inputs."""

import sys
from collections.abc import Callable

import jax

from anchortrain.config import LossConfig, MeshConfig, OptimizerConfig
from anchortrain.data.packing import Batch
from anchortrain.memory import keep_freed_memory
from anchortrain.model.parameters import abstract_model
from anchortrain.optimizer import make_optimizer
from anchortrain.sharding import make_mesh
from anchortrain.train_step import TrainState, init_params, make_train_step
from benchmarks.contest import serve
from benchmarks.sizes import SIZES, Size
from benchmarks.step_inputs import MANY_STEPS, OPTIMIZER, read_batch


def make_step(
    size: Size, config: LossConfig | None = None, *, online: bool = False
) -> tuple[Callable[[Batch], None], Callable[[], float]]:
    """The trainer's step on fresh parameters, and what waits for the last one and returns its loss.

    Args:
      size: of model and batch.
      config: of the objective; by default plain language modelling.
      online: whether a reference model takes part.
    """
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(OptimizerConfig(**OPTIMIZER), MANY_STEPS)
        params = init_params(size.model, size.vocabulary, 0, mesh)
        state = TrainState(params, optimizer.init(params))
        abstract = abstract_model(size.model, size.vocabulary)
        step_fn = make_train_step(mesh, abstract, optimizer, config or LossConfig())
        reference = init_params(size.model, size.vocabulary, 1, mesh) if online else None
    metrics = None

    def step(batch: Batch) -> None:
        nonlocal state, metrics
        with jax.set_mesh(mesh):
            state, metrics = step_fn(state, reference, batch)

    def finish() -> float:
        term = jax.block_until_ready((state, metrics))[1]["loss/text_term"]
        return float(term.sum / term.weight)

    return step, finish


def main(size: str, inputs: str) -> None:
    keep_freed_memory()
    step, finish = make_step(SIZES[size])
    batch = jax.device_put(read_batch(inputs))
    step(batch)
    serve({"first_loss": finish(), "version": jax.__version__}, lambda: step(batch), finish)


if __name__ == "__main__":
    main(*sys.argv[1:])
