"""Which prompts a harvest draws plans for."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anchortrain.data.interleave import PROMPT_END
from anchortrain.data.prepared import PreparedDataset
from anchortrain.data.records import read_prompts
from anchortrain.errors import UserError
from anchortrain.roles import Role


class Pool(NamedTuple):
    """Prompts to choose from, and how often these are chosen among those of other pools."""

    prompts: Sequence[str]
    share: float = 1.0


def from_files(paths: Sequence[str | Path]) -> list[Pool]:
    """The prompts of JSONL files, as one pool. Raises UserError."""
    return [Pool([one.prompt for one in read_prompts(paths)])]


def from_data(sources: Mapping[str, float], vocabulary_hash: str) -> list[Pool]:
    """The prompts of prepared instructions; prepared documents, which have none, are left out.

    Args:
      sources: prepared directory -> share.
      vocabulary_hash: of the run that is sampled.

    Raises:
      UserError: when a directory cannot be used, or none holds instructions.
    """
    pools = []
    for path, share in sources.items():
        dataset = PreparedDataset(path)
        if dataset.manifest.vocabulary_hash != vocabulary_hash:
            mend = "prepare it with the tokenizer of the run"
            raise UserError("was prepared with another vocabulary than the run", where=str(path), mend=mend)
        if dataset.manifest.kind == "instructions":
            pools.append(Pool(_prompts(dataset), share))
    if not pools:
        mend = "name instructions made by `anchortrain prepare --kind instructions`"
        raise UserError("no prompts: there are no prepared instructions", where=", ".join(sources) or None, mend=mend)
    return pools


def _prompts(dataset: PreparedDataset) -> list[str]:
    control = dataset.vocabulary.control_ids
    found = []
    for example in dataset.__getitems__(range(len(dataset))):
        tokens = example.tokens[example.roles == Role.PROMPT]
        text = dataset.vocabulary.decode([token for token in tokens.tolist() if token not in control])
        found.append(text.removesuffix(PROMPT_END))
    return found


def choose(pools: Sequence[Pool], count: int, seed: Sequence[int]) -> list[str]:
    """`count` prompts by the pools' shares, each pool in an order of its own and again in another when it is through.

    A larger count begins with the same prompts.
    """
    shares = np.array([pool.share for pool in pools])
    rng = np.random.default_rng([*seed, 0])
    which = np.searchsorted(np.cumsum(shares / shares.sum()), rng.random(count), side="right")
    which = np.minimum(which, len(pools) - 1)
    orders = [_endless(len(pool.prompts), [*seed, 1 + i], int((which == i).sum())) for i, pool in enumerate(pools)]
    places = [iter(order) for order in orders]
    return [pools[i].prompts[next(places[i])] for i in which]


def _endless(size: int, seed: Sequence[int], count: int) -> list[int]:
    rng = np.random.default_rng(seed)
    found: list[int] = []
    while len(found) < count:
        found += rng.permutation(size).tolist()
    return found[:count]


def fingerprint(pools: Sequence[Pool]) -> str:
    """A hash of all prompts and shares."""
    whole = hashlib.sha256()
    for pool in pools:
        whole.update(f"{pool.share!r} {len(pool.prompts)}\n".encode())
        for prompt in pool.prompts:
            whole.update(prompt.encode(errors="replace") + b"\0")
    return whole.hexdigest()
