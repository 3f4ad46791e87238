"""Tiny models and packed batches for the tests of model, loss and train step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from anchortrain.config import ModelConfig
from anchortrain.data.packing import Placed, pack
from anchortrain.data.prepared import Example
from anchortrain.model.parameters import Params, abstract_model, params_of
from anchortrain.model.transformer import Transformer
from anchortrain.roles import Role

TINY = ModelConfig(d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=32)
VOCABULARY = 60  # padded to 128
BOS, PAD = 1, 0


@functools.cache
def tiny_model(config: ModelConfig = TINY, seed: int = 0) -> tuple[Transformer, Params]:
    """The abstract model and random parameters.

    Matrices are larger than in training and norms differ from 1 and from each other, so that mistakes show.
    """
    abstract, rng = abstract_model(config, VOCABULARY), np.random.default_rng(seed)

    def draw(path, shape) -> jnp.ndarray:
        norm = "norm" in path[-1].key
        return jnp.asarray(rng.normal(float(norm), 0.1 if norm else 0.16, shape.shape), jnp.float32)

    return abstract, jax.tree_util.tree_map_with_path(draw, params_of(abstract))


def example(rng: np.random.Generator, *, annotated: bool = True, response: bool = True) -> Example:
    """Random tokens with the roles of an instruction: prompt, annotation, response, each of random length."""
    parts = [(Role.PROMPT, rng.integers(2, 5))]
    if annotated:
        parts += [(Role.ANNOTATION_KEY, 2), (Role.ANNOTATION_VALUE, rng.integers(1, 4)), (Role.ANNOTATION_KEY, 1)]
    if response:
        parts.append((Role.TEXT, rng.integers(2, 9)))
    roles = np.repeat([int(role) for role, _ in parts], [int(n) for _, n in parts])
    return Example(rng.integers(2, VOCABULARY, len(roles)).astype(np.int32), roles.astype(np.uint8), "")


def packed(rows: list[list[Example]], *, length: int, objective: str = "masked") -> dict[str, jnp.ndarray]:
    """The loader's batch of these examples."""
    placed = [[Placed(one, objective, False, 0) for one in row] for row in rows]
    return {name: jnp.asarray(x) for name, x in pack(placed, length=length, bos=BOS, pad=PAD).items()}


def random_batch(seed: int, rows: int, *, length: int = 40, anchor_rows: int = 0) -> dict:
    """Rows with two examples or one, and padding; with `anchor_rows`, the anchor's rows beside them."""
    rng = np.random.default_rng(seed)
    batch = packed([[example(rng) for _ in range(1 + (i % 3 > 0))] for i in range(rows)], length=length)
    if anchor_rows:
        drawn = [[example(rng, response=False) for _ in range(1 + i % 3)] for i in range(anchor_rows)]
        batch["anchor"] = packed(drawn, length=length, objective="anchor")
    return batch
