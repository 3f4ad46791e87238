"""What both contestants of `benchmarks.train_step` are given: one batch, one optimizer, the same first weights.

Every row is one segment of random tokens, and all of them are trained on: plain causal language modelling.
"""

from pathlib import Path

import jax
import numpy as np

from anchortrain.config import MeshConfig
from anchortrain.data.packing import Placed, pack
from anchortrain.data.prepared import Example
from anchortrain.model.huggingface import to_huggingface
from anchortrain.roles import Role
from anchortrain.sharding import make_mesh
from anchortrain.train_step import init_params
from benchmarks.sizes import Size

OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_share": 0.0,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
}
MANY_STEPS = 10**6  # of the schedule
BOS, PAD = 0, 1


def make_batch(size: Size) -> dict[str, np.ndarray]:
    """A batch as the loader gives it, of prepared documents."""
    tokens = np.random.default_rng(0).integers(2, size.vocabulary, (size.rows, size.length), dtype=np.int32)
    roles = np.full(size.length, Role.TEXT, np.uint8)
    rows = [[Placed(Example(row, roles, ""), "pretrain", False, 0)] for row in tokens]
    return pack(rows, length=size.length, bos=BOS, pad=PAD)


def write_inputs(size: Size, directory: Path) -> None:
    """The batch, and the weights in Hugging Face's names."""
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        params = init_params(size.model, size.vocabulary, 0, mesh)
    np.savez(directory / "batch.npz", **make_batch(size))
    np.savez(directory / "weights.npz", **to_huggingface(jax.tree.map(np.asarray, params)))


def read_batch(directory: str) -> dict[str, np.ndarray]:
    with np.load(Path(directory) / "batch.npz") as file:
        return dict(file)
