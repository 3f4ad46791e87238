"""A contestant of `benchmarks.train_step`: the trainer's compiled step. Arguments: size, directory of inputs."""

import sys

import jax

from anchortrain.config import LossConfig, MeshConfig, OptimizerConfig
from anchortrain.memory import keep_freed_memory
from anchortrain.model.parameters import abstract_model
from anchortrain.optimizer import make_optimizer
from anchortrain.sharding import make_mesh
from anchortrain.train_step import TrainState, init_params, make_train_step
from benchmarks.contest import serve
from benchmarks.sizes import SIZES
from benchmarks.step_inputs import MANY_STEPS, OPTIMIZER, read_batch


def main(size_name: str, inputs: str) -> None:
    keep_freed_memory()
    size, mesh = SIZES[size_name], make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(OptimizerConfig(**OPTIMIZER), MANY_STEPS)
        params = init_params(size.model, size.vocabulary, 0, mesh)
        state = TrainState(params, optimizer.init(params))
        batch = jax.device_put(read_batch(inputs))
        step_fn = make_train_step(mesh, abstract_model(size.model, size.vocabulary), optimizer, LossConfig())
        metrics = None

        def step() -> None:
            nonlocal state, metrics
            state, metrics = step_fn(state, None, batch)

        def loss() -> float:
            term = jax.block_until_ready((state, metrics))[1]["loss/text_term"]
            return float(term.sum / term.weight)

        step()
        serve({"first_loss": loss(), "version": jax.__version__}, step, loss)


if __name__ == "__main__":
    main(*sys.argv[1:])
