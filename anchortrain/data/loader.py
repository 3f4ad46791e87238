"""The training data loader: prepared directories to batches, with Grain.

The stream of examples (mixing, global shuffle, epochs) is a random-access `grain.MapDataset` of numbers; rows are
planned from lengths alone, for all hosts alike; each host then reads the records of its own rows. A batch is
thereby a pure function of (data, seed, step), and the loader's state does not depend on the number of hosts.
"""

import dataclasses
import functools
import hashlib
import json
import math
import sys
from collections import deque
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
_READ_EXAMPLES = 128  # read at once, at least: a call of ArrayRecord costs as much as a dozen records
_SYNTAX = 1  # separates the generator of syntax examples from others with the same seed
_BLOCK = 1024  # positions whose choice as syntax examples is made at once
_KEPT_POSITIONS = 16 * _BLOCK  # remembered; more than a row may look ahead


Loader = grain.experimental.ThreadPrefetchDatasetIterator


@dataclasses.dataclass(frozen=True)
class Settings:
    """What batches a loader makes of its sources, and which part of them this host gets.

    Attributes:
      length: tokens in a row; an example longer than that is an error.
      batch_rows: rows of the global batch; this host gets `batch_rows / host_count` of them, contiguous.
      seed: of shuffling and of the choice of syntax examples.
      objective: of prepared instructions, "masked" or "unmasked"; "anchor" in the anchor's own stream.
      syntax_share: share of annotated instructions whose tag syntax is trained on under "masked" (section 3).
      stored: whether batches carry the reference's distributions that are stored with draws.
      host_index: this host's number, below `host_count`.
      host_count: hosts that share the global batch.

    Raises:
      UserError when a value is out of range.
    """

    length: int
    batch_rows: int
    seed: int = 0
    objective: str = "masked"
    syntax_share: float = 0.003
    stored: bool = False
    host_index: int = 0
    host_count: int = 1

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.batch_rows % self.host_count:
            what = f"batch_rows must be a positive multiple of the {self.host_count} hosts, got {self.batch_rows}"
            mend = f"use {max(1, self.batch_rows // self.host_count) * self.host_count}"
            raise UserError(what, where="DataConfig", mend=mend)
        if not 0 <= self.host_index < self.host_count:
            raise ValueError(f"host_index must lie in 0..{self.host_count - 1}, got {self.host_index}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must lie in 0..2**32-1, got {self.seed}", where="DataConfig")
        if not 0 <= self.syntax_share <= 1:
            raise UserError(f"syntax_share must lie in 0..1, got {self.syntax_share}", where="LossConfig")

    @property
    def rows(self) -> slice:
        """This host's rows of the global batch."""
        share = self.batch_rows // self.host_count
        return slice(self.host_index * share, (self.host_index + 1) * share)


def make_loader(sources: Mapping[str, float], *, start_step: int = 0, **settings: Any) -> Loader:
    """Endless batches for this host, prepared in a thread.

    Args:
      sources: prepared directory -> share of the training tokens; shares are normalised.
      start_step: begins with the batch of this step. Plans all before it; `set_state` does not have to.
      **settings: those of `Settings`.

    Returns:
      An iterator of `packing.Batch` with `get_state()`, `set_state(state)` and `close()`. The state is JSON,
      describes the last batch delivered, and fits any number of hosts.

    Raises:
      UserError on unusable sources, weights or sizes; also from `next` when a shard is damaged.
    """
    datasets = open_sources(sources, length=settings["length"])
    return _started(PackedIterator(datasets, list(sources.values()), Settings(**settings)), start_step)


def make_anchor_loader(sources: Mapping[str, float], *, start_step: int = 0, **settings: Any) -> Loader:
    """Endless batches for the anchor: prompts with annotations, nothing trained on. Else like `make_loader`.

    Draws are taken as they are. Of annotated instructions only prompt and annotation are; other sources
    (documents, plain instructions) are left out, and it is an error if none remains.
    """
    chosen, weights = [], []
    datasets = open_sources(sources, length=settings["length"])
    for dataset, weight in zip(datasets, sources.values(), strict=True):
        kind = dataset.manifest.kind
        if kind == "draws" or (kind == "instructions" and dataset.manifest.annotated):
            chosen.append(dataset if kind == "draws" else AnnotationView(dataset))
            weights.append(weight)
    if not chosen:
        what = "nothing to anchor at: neither draws nor annotated instructions"
        raise UserError(what, where=", ".join(sources), mend="make some with `anchortrain draw`")
    iterator = PackedIterator(chosen, weights, Settings(**settings, objective="anchor", syntax_share=0.0))
    return _started(iterator, start_step)


def _started(iterator: "PackedIterator", start_step: int) -> Loader:
    iterator.skip(start_step)
    return Loader(iterator, _PREFETCH_BATCHES)


def make_eval_batches(path: str, *, batches: int, **settings: Any) -> list[Batch]:
    """At most `batches` packed batches of the first examples of a prepared directory, in file order.

    Always the same ones, each example once; the last batch may hold padding rows. No syntax examples.
    `settings` are those of `Settings`.
    """
    settings = Settings(**settings)
    (dataset,) = open_sources({path: 1.0}, length=settings.length)
    vocabulary, objective = dataset.vocabulary, objective_of(dataset, settings.objective)
    planner = RowPlanner(lambda at: int(dataset.lengths[at]) if at < len(dataset) else None, settings.length)
    found = []
    for _ in range(batches):
        plan = [planner.next_row() for _ in range(settings.batch_rows)]
        if not any(plan):
            break
        rows = [dataset.__getitems__(row) for row in plan[settings.rows]]
        placed = [[Placed(example, objective, False, 0) for example in row] for row in rows]
        top_k = stored_top_k([dataset]) if settings.stored else 0
        found.append(pack(placed, length=settings.length, bos=vocabulary.bos, pad=vocabulary.pad, top_k=top_k))
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


def objective_of(dataset: Dataset, objective: str) -> str:
    """How examples of a data set are trained on, given the `objective` of instructions."""
    return {"documents": "pretrain", "draws": "anchor", "instructions": objective}[dataset.manifest.kind]


def stored_top_k(datasets: Sequence[Dataset]) -> int:
    """How many tokens each stored distribution has. Raises UserError unless all store some, and as many."""
    first = datasets[0]
    for dataset in datasets:
        count = dataset.manifest.stored_top_k
        if not count or count != first.manifest.stored_top_k:
            what = f"stores {count} tokens of the reference's distributions" if count else "stores no distributions"
            mend = "make it with `anchortrain draw --top_k 32`, or set LossConfig.anchor_reference = 'online'"
            raise UserError(what, where=str(dataset.directory), mend=mend)
    return first.manifest.stored_top_k


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
    """Endless packed batches of a mixture: this host's rows of each global batch."""

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float], settings: Settings) -> None:
        super().__init__()
        self.datasets, self._settings = datasets, settings
        self._top_k = stored_top_k(datasets) if settings.stored else 0
        self._objectives = [objective_of(dataset, settings.objective) for dataset in datasets]
        self._syntax_shares = [
            settings.syntax_share if dataset.manifest.annotated and own == "masked" else 0.0
            for dataset, own in zip(datasets, self._objectives, strict=True)
        ]
        self._starts = np.cumsum([0, *map(len, datasets)])
        self._lengths = np.concatenate([dataset.lengths for dataset in datasets])
        stream = mixed_stream(datasets, weights, [settings.seed, settings.objective == "anchor"])
        # Asked for twice: when its row is planned, and a little later when it is read.
        self._number_at = functools.lru_cache(_KEPT_POSITIONS)(stream.__getitem__)
        self._syntax_draws = functools.lru_cache(_KEPT_POSITIONS // _BLOCK)(functools.partial(_uniform, settings.seed))
        self._planner = RowPlanner(lambda at: int(self._lengths[self._number_at(at)]), settings.length)
        self._fingerprint = _fingerprint(datasets, weights, settings, self._objectives, self._syntax_shares)
        self._planned = 0  # batches
        self._ahead: deque[tuple[list[list[Placed]], dict[str, Any]]] = deque()  # read, and the state after each
        self._state = self._planned_state()

    def skip(self, steps: int) -> None:
        """Goes on as if `steps` batches had been delivered, before the first is. Plans them, but reads nothing."""
        for _ in range(steps):
            self._next_plan()
        self._state = self._planned_state()

    def _next_plan(self) -> list[list[int]]:
        """Stream positions in this host's rows of the next global batch."""
        self._planned += 1
        return [self._planner.next_row() for _ in range(self._settings.batch_rows)][self._settings.rows]

    def _planned_state(self) -> dict[str, Any]:
        return {
            "step": self._planned,
            "position": self._planner.position,
            "waiting": self._planner.waiting,
            "fingerprint": self._fingerprint,
        }

    def next_rows(self) -> list[list[Placed]]:
        """The examples of this host's rows of the next batch."""
        if not self._ahead:
            self._read_ahead()
        rows, self._state = self._ahead.popleft()
        return rows

    def _read_ahead(self) -> None:
        """Plans the next batch, and more of them if they are small, and reads their examples together."""
        plans, states, examples = [], [], 0
        while examples < _READ_EXAMPLES:
            plans.append(self._next_plan())
            states.append(self._planned_state())
            examples += sum(map(len, plans[-1]))
        placed = self._read([at for plan in plans for row in plan for at in row])
        for plan, state in zip(plans, states, strict=True):
            self._ahead.append(([[placed[at] for at in row] for row in plan], state))

    def _read(self, positions: Sequence[int]) -> dict[int, Placed]:
        """The examples at positions of the stream."""
        numbers = np.array([self._number_at(at) for at in positions])
        sources = np.searchsorted(self._starts, numbers, side="right") - 1
        placed: dict[int, Placed] = {}
        for source in np.unique(sources).tolist():
            mine = np.flatnonzero(sources == source).tolist()
            examples = self.datasets[source].__getitems__((numbers[mine] - self._starts[source]).tolist())
            for i, example in zip(mine, examples, strict=True):
                syntax = self._is_syntax_example(positions[i], source)
                placed[positions[i]] = Placed(example, self._objectives[source], syntax, source)
        return placed

    def _is_syntax_example(self, position: int, source: int) -> bool:
        share = self._syntax_shares[source]
        return bool(share) and bool(self._syntax_draws(position // _BLOCK)[position % _BLOCK] < share)

    def pack(self, rows: Sequence[Sequence[Placed]]) -> Batch:
        """The batch of `rows` from `next_rows`."""
        vocabulary = self.datasets[0].vocabulary
        return pack(rows, length=self._settings.length, bos=vocabulary.bos, pad=vocabulary.pad, top_k=self._top_k)

    def __next__(self) -> Batch:
        self._assert_not_closed()
        return self.pack(self.next_rows())

    def get_state(self) -> dict[str, Any]:
        """After the last batch delivered. JSON; the same on every host."""
        return self._state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Raises UserError when the state is of other data or settings: it would silently mean other batches."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "the saved position in the data belongs to other data, weights, seed, row length or batch size",
                where="DataConfig",
                mend="restore the configuration and data that the run began with, or start a new run",
            )
        self._planned = state["step"]
        self._planner.restore(state["position"], state["waiting"])
        self._ahead.clear()
        self._state = self._planned_state()


def _uniform(seed: int, block: int) -> np.ndarray:
    """Uniform float64 in [0, 1), one each for the `_BLOCK` positions from `block * _BLOCK` on.

    That of a position is the first number of a Philox generator whose counter is the position: the first of the
    four words that every count of the counter gives.
    """
    words = np.random.Philox(key=[seed, _SYNTAX], counter=block * _BLOCK).random_raw(4 * _BLOCK)
    return (words[::4] >> np.uint64(11)) * 2.0**-53


def _fingerprint(
    datasets: Sequence[Dataset],
    weights: Sequence[float],
    settings: Settings,
    objectives: list[str],
    syntax_shares: list[float],
) -> str:
    """Of everything that batches are a function of, but the step and the number of hosts."""
    contents = [[shard["sha256"] for shard in dataset.manifest.shards] for dataset in datasets]
    numbers = [settings.length, settings.batch_rows, settings.seed, objectives, syntax_shares]
    return hashlib.sha256(json.dumps([contents, list(weights), numbers]).encode()).hexdigest()
