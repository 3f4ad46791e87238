"""What the contestants of `benchmarks.decode` are given: weights, prompts, and how many tokens to draw.

The weights make every token nearly as likely as any other, but for the control tokens: no sample ends by itself and no
annotation closes before it must.
"""

from pathlib import Path

import jax
import numpy as np

from anchortrain.data.vocabulary import CONTROLS
from anchortrain.model.huggingface import from_huggingface, to_huggingface
from anchortrain.model.parameters import abstract_model, make_model, model_with, params_of
from anchortrain.model.transformer import Transformer
from benchmarks.sizes import Size

PROMPT, NEW = 32, 128  # tokens
ANNOTATION = 48  # of the new ones, in two stages


def write_inputs(size: Size, directory: Path) -> None:
    """The weights in Hugging Face's names."""
    model = make_model(size.model, size.vocabulary, 0)
    # A constant that outweighs what the layers add to the residual stream.
    model.embedding[...] = model.embedding[...].at[:, 0].set(100.0)
    model.head[...] = model.head[...].at[0, : len(CONTROLS)].set(-12.0 / size.model.d_model**0.5)
    np.savez(directory / "weights.npz", **to_huggingface(jax.tree.map(np.asarray, params_of(model))))


def read_model(size: Size, directory: str) -> Transformer:
    with np.load(Path(directory) / "weights.npz") as weights:
        params = from_huggingface(dict(weights), size.model)
    return model_with(abstract_model(size.model, size.vocabulary), params)


def make_prompts(rows: int) -> np.ndarray:
    """int32 [rows, PROMPT], different ones."""
    return np.random.default_rng(0).integers(len(CONTROLS), 256, (rows, PROMPT)).astype(np.int32)
