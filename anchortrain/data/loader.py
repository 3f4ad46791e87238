"""The training data loader: prepared directories to batches, with Grain.

The stream of examples (mixing, global shuffle, epochs) is a random-access `grain.MapDataset` of numbers; rows are
planned from lengths alone, for all hosts alike; each host then reads the records of its own rows. A batch is
thereby a pure function of (data, seed, step), and the loader's state does not depend on the number of hosts.
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from anchortrain.data.annotation_view import AnnotationView
from anchortrain.data.packing import Batch, Placed, RowPlanner, pack
from anchortrain.data.prepared import PreparedDataset, check_compatible
from anchortrain.errors import UserError

Dataset = PreparedDataset | AnnotationView

_PREFETCH_BATCHES = 2
_SYNTAX = 1  # separates the generator of syntax examples from others with the same seed


Loader = grain.experimental.ThreadPrefetchDatasetIterator


def make_loader(
    sources: Mapping[str, float],
    *,
    length: int,
    batch_rows: int,
    seed: int,
    objective: str = "masked",
    syntax_share: float = 0.003,
    host_index: int = 0,
    host_count: int = 1,
    start_step: int = 0,
) -> Loader:
    """Endless batches for this host, prepared in a thread.

    Args:
      sources: prepared directory -> share of the training tokens; shares are normalised.
      length: tokens in a row; an example longer than that is an error.
      batch_rows: rows of the global batch; this host gets `batch_rows / host_count` of them, contiguous.
      seed: of shuffling and of the choice of syntax examples.
      objective: of prepared instructions, "masked" or "unmasked".
      syntax_share: share of annotated instructions whose tag syntax is trained on under "masked" (section 3).
      start_step: begins with the batch of this step. Plans all before it; `set_state` does not have to.

    Returns:
      An iterator of `packing.Batch` with `get_state()`, `set_state(state)` and `close()`. The state is JSON,
      describes the last batch delivered, and fits any number of hosts.

    Raises:
      UserError on unusable sources, weights or sizes; also from `next` when a shard is damaged.
    """
    loader = PackedIterator(
        open_sources(sources, length=length),
        list(sources.values()),
        length=length,
        batch_rows=batch_rows,
        seed=seed,
        objective=objective,
        syntax_share=syntax_share,
        rows=host_rows(batch_rows, host_index, host_count),
    )
    loader.skip(start_step)
    return Loader(loader, _PREFETCH_BATCHES)


def make_anchor_loader(
    sources: Mapping[str, float],
    *,
    length: int,
    batch_rows: int,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
    start_step: int = 0,
) -> Loader:
    """Endless batches for the anchor: prompts with annotations, nothing trained on. Else like `make_loader`.

    Draws are taken as they are. Of annotated instructions only prompt and annotation are; other sources
    (documents, plain instructions) are left out, and it is an error if none remains.
    """
    chosen, weights = [], []
    for dataset, weight in zip(open_sources(sources, length=length), sources.values(), strict=True):
        kind = dataset.manifest.kind
        if kind == "draws" or (kind == "instructions" and dataset.manifest.annotated):
            chosen.append(dataset if kind == "draws" else AnnotationView(dataset))
            weights.append(weight)
    if not chosen:
        what = "nothing to anchor at: neither draws nor annotated instructions"
        raise UserError(what, where=", ".join(sources), mend="make some with `anchortrain draw`")
    loader = PackedIterator(
        chosen,
        weights,
        length=length,
        batch_rows=batch_rows,
        seed=seed,
        objective="anchor",
        syntax_share=0.0,
        rows=host_rows(batch_rows, host_index, host_count),
    )
    loader.skip(start_step)
    return Loader(loader, _PREFETCH_BATCHES)


def make_eval_batches(
    path: str,
    *,
    length: int,
    batch_rows: int,
    batches: int,
    objective: str = "masked",
    host_index: int = 0,
    host_count: int = 1,
) -> list[Batch]:
    """At most `batches` packed batches of the first examples of a prepared directory, in file order.

    Always the same ones, each example once; the last batch may hold padding rows. No syntax examples.
    """
    (dataset,) = open_sources({path: 1.0}, length=length)
    vocabulary = dataset.vocabulary
    planner = RowPlanner(lambda at: int(dataset.lengths[at]) if at < len(dataset) else None, length)
    rows = host_rows(batch_rows, host_index, host_count)
    found = []
    for _ in range(batches):
        plan = [planner.next_row() for _ in range(batch_rows)]
        if not any(plan):
            break
        placed = [
            [Placed(example, objective_of(dataset, objective), False, 0) for example in dataset.__getitems__(row)]
            for row in plan[rows]
        ]
        found.append(pack(placed, length=length, bos=vocabulary.bos, pad=vocabulary.pad))
    return found


def open_sources(sources: Mapping[str, float], *, length: int) -> list[PreparedDataset]:
    """Opens prepared directories that are to share a batch. Raises UserError unless they fit together."""
    if not sources:
        raise UserError(
            "no data to train on", where="DataConfig.train", mend="name a prepared directory and its weight"
        )
    for path, weight in sources.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"weight must be a positive number, got {weight!r}", where=path)
    datasets = [PreparedDataset(path) for path in sources]
    check_compatible(datasets, length=length)
    return datasets


def host_rows(batch_rows: int, host_index: int, host_count: int) -> slice:
    """This host's rows of the global batch. Raises UserError when they cannot be shared out evenly."""
    if batch_rows < 1 or batch_rows % host_count:
        what = f"batch_rows must be a positive multiple of the {host_count} hosts, got {batch_rows}"
        raise UserError(what, where="DataConfig", mend=f"use {max(1, batch_rows // host_count) * host_count}")
    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index must lie in 0..{host_count - 1}, got {host_index}")
    share = batch_rows // host_count
    return slice(host_index * share, (host_index + 1) * share)


def objective_of(dataset: Dataset, objective: str) -> str:
    """How examples of a data set are trained on, given the `objective` of instructions."""
    return {"documents": "pretrain", "draws": "anchor", "instructions": objective}[dataset.manifest.kind]


class EndlessShuffle(grain.MapDataset[int]):
    """The numbers `start … start+size-1`, over and over, in another uniformly random order every epoch.

    In place of Grain's `shuffle().repeat()`, which takes 2 to 20 ms a number below some 50 examples, and whose
    seeds s and s+1 share epochs. Holds the orders of two epochs, 8 bytes a number each.
    """

    def __init__(self, start: int, size: int, seed: Sequence[int]) -> None:
        super().__init__()
        self._start, self._size, self._seed = start, size, seed
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> int:
        epoch, within = divmod(index, self._size)
        if epoch not in self._orders:
            # Two, because examples of the last epoch may still wait for a row.
            self._orders = dict(list(self._orders.items())[-1:])
            self._orders[epoch] = np.random.default_rng([*self._seed, epoch]).permutation(self._size)
        return self._start + int(self._orders[epoch][within])


def mixed_stream(datasets: Sequence[Dataset], weights: Sequence[float], seed: Sequence[int]) -> grain.MapDataset[int]:
    """The endless shuffled mixture, position -> example number (numbers run on from one data set to the next).

    `weights` are shares of tokens, so that examples are drawn by weight over mean length.
    """
    starts = np.cumsum([0, *map(len, datasets)])
    parents = [EndlessShuffle(int(starts[i]), len(dataset), [*seed, i]) for i, dataset in enumerate(datasets)]
    shares = [weight / float(dataset.lengths.mean()) for weight, dataset in zip(weights, datasets, strict=True)]
    return grain.MapDataset.mix(parents, weights=shares)


class PackedIterator(grain.DatasetIterator[Batch]):
    """Endless packed batches of a mixture: the given `rows` of each global batch."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float],
        *,
        length: int,
        batch_rows: int,
        seed: int,
        objective: str,
        syntax_share: float,
        rows: slice,
    ) -> None:
        super().__init__()
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must lie in 0..2**32-1, got {seed}", where="DataConfig")
        if not 0 <= syntax_share <= 1:
            raise UserError(f"syntax_share must lie in 0..1, got {syntax_share}", where="LossConfig")
        self.datasets = datasets
        self._length, self._batch_rows, self._seed, self._rows = length, batch_rows, seed, rows
        self._objectives = [objective_of(dataset, objective) for dataset in datasets]
        self._syntax_shares = [
            syntax_share if dataset.manifest.annotated and own == "masked" else 0.0
            for dataset, own in zip(datasets, self._objectives, strict=True)
        ]
        self._starts = np.cumsum([0, *map(len, datasets)])
        self._lengths = np.concatenate([dataset.lengths for dataset in datasets])
        self._stream = mixed_stream(datasets, weights, [seed, objective == "anchor"])
        self._planner = RowPlanner(lambda at: int(self._lengths[self._stream[at]]), length)
        self._step = 0
        self._fingerprint = _fingerprint(
            datasets, weights, [length, batch_rows, seed, self._objectives, self._syntax_shares]
        )

    def skip(self, steps: int) -> None:
        """Goes on as if `steps` batches had been delivered. Plans them, but reads nothing."""
        for _ in range(steps):
            self._next_plan()

    def _next_plan(self) -> list[list[int]]:
        """Stream positions in each row of the next global batch."""
        self._step += 1
        return [self._planner.next_row() for _ in range(self._batch_rows)]

    def next_rows(self) -> list[list[Placed]]:
        """The examples of this host's rows of the next batch, read from disk."""
        plan = self._next_plan()[self._rows]
        positions = [at for row in plan for at in row]
        numbers = [self._stream[at] for at in positions]
        sources = np.searchsorted(self._starts, numbers, side="right") - 1
        placed: dict[int, Placed] = {}
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source)
            indices = [int(numbers[i] - self._starts[source]) for i in mine]
            for i, example in zip(mine, self.datasets[source].__getitems__(indices), strict=True):
                syntax = self._is_syntax_example(positions[i], source)
                placed[positions[i]] = Placed(example, self._objectives[source], syntax, source)
        return [[placed[at] for at in row] for row in plan]

    def _is_syntax_example(self, position: int, source: int) -> bool:
        share = self._syntax_shares[source]
        if not share:
            return False
        generator = np.random.Generator(np.random.Philox(key=[self._seed, _SYNTAX], counter=position))
        return bool(generator.random() < share)

    def pack(self, rows: Sequence[Sequence[Placed]]) -> Batch:
        """The batch of `rows` from `next_rows`."""
        vocabulary = self.datasets[0].vocabulary
        return pack(rows, length=self._length, bos=vocabulary.bos, pad=vocabulary.pad)

    def __next__(self) -> Batch:
        self._assert_not_closed()
        return self.pack(self.next_rows())

    def get_state(self) -> dict[str, Any]:
        """JSON; the same on every host."""
        return {
            "step": self._step,
            "position": self._planner.position,
            "waiting": self._planner.waiting,
            "fingerprint": self._fingerprint,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Raises UserError when the state is of other data or settings: it would silently mean other batches."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "the saved position in the data belongs to other data, weights, seed, row length or batch size",
                where="DataConfig",
                mend="restore the configuration and data that the run began with, or start a new run",
            )
        self._step = state["step"]
        self._planner.restore(state["position"], state["waiting"])


def _fingerprint(datasets: Sequence[Dataset], weights: Sequence[float], settings: list[Any]) -> str:
    """Of everything that batches are a function of, but the step and the number of hosts."""
    contents = [[shard["sha256"] for shard in dataset.manifest.shards] for dataset in datasets]
    return hashlib.sha256(json.dumps([contents, list(weights), settings]).encode()).hexdigest()
