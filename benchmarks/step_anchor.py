"""A contestant of `benchmarks.anchor`: the compiled step of one way of post-training. Arguments: size, way."""

import sys
from typing import Any

import jax
import numpy as np

from anchortrain.config import LossConfig
from anchortrain.data.packing import Placed, pack
from anchortrain.data.prepared import Example, TopK
from anchortrain.memory import keep_freed_memory
from anchortrain.roles import Role, anchored
from benchmarks.contest import serve
from benchmarks.sizes import SIZES, Size
from benchmarks.step_inputs import BOS, PAD
from benchmarks.step_ours import make_step

TOP_K = 32
PROMPT, ANNOTATION, RESPONSE = 40, 24, 64  # tokens of an example; those of the anchor have no response


def anchor_rows(size: Size) -> int:
    """An eighth of the rows, as in gin_configs/olmo; at least one."""
    return max(1, size.rows // 8)


def batch_of(size: Size, way: str) -> dict[str, Any]:
    """As many rows for each way: with an anchor, some of them are the anchor's."""
    rng = np.random.default_rng(0)

    def rows(count: int, response: int, objective: str, stored: bool) -> dict[str, np.ndarray]:
        roles = np.repeat([Role.PROMPT, Role.ANNOTATION_VALUE, Role.TEXT], [PROMPT, ANNOTATION, response])
        examples = max(1, size.length // len(roles))
        roles = roles[: size.length]

        def example() -> Example:
            tokens = rng.integers(2, size.vocabulary, len(roles), dtype=np.int32)
            m = int(anchored(roles).sum())
            ids = np.argsort(rng.random((m, size.vocabulary)), axis=1)[:, :TOP_K].astype(np.int32)
            reference = TopK(ids, np.full((m, TOP_K), -np.log(2 * TOP_K), np.float32)) if stored else None
            return Example(tokens, roles.astype(np.uint8), "", reference)

        placed = [[Placed(example(), objective, False, 0) for _ in range(examples)] for _ in range(count)]
        return pack(placed, length=size.length, bos=BOS, pad=PAD, top_k=TOP_K if stored else 0)

    if way == "masked":
        return rows(size.rows, RESPONSE, "masked", False)
    batch: dict[str, Any] = rows(size.rows - anchor_rows(size), RESPONSE, "masked", False)
    batch["anchor"] = rows(anchor_rows(size), 0, "anchor", way == "stored")
    return batch


def main(size_name: str, way: str) -> None:
    keep_freed_memory()
    size, weight = SIZES[size_name], 0.0 if way == "masked" else 0.1
    config = LossConfig(anchor_weight=weight, anchor_reference="stored" if way == "stored" else "online")
    step, finish = make_step(size, config, online=way == "online")
    batch = jax.device_put(batch_of(size, way))
    step(batch)
    serve({"first_loss": finish()}, lambda: step(batch), finish)


if __name__ == "__main__":
    main(*sys.argv[1:])
