"""Packing: whole examples into rows of fixed length, and rows into a batch.

Planning looks at lengths only, so that every host can plan the whole global batch and read its own rows.

Array suffixes: B rows, L row length, E examples of a batch, T their tokens one after another, R rules of the loss (an
objective, and whether it is a syntax example), K roles. A batch is a dict of arrays [B, L]:

    inputs           int32    <bos>, then the example's tokens but the last
    targets          int32    the example's tokens; n stored tokens take n slots
    input_roles      uint8    PROMPT for <bos>, PAD in padding
    target_roles     uint8
    loss_weights     float32  of the loss at each target, by the example's objective
    anchor_positions float32  1 where the annotation distribution is compared with the reference's
    segment_ids      int32    1, 2, … in each row; 0 is padding
    positions        int32    from 0 in each segment

and, where asked for, [B, L, k], at the anchor's positions:

    reference_ids        int32    tokens of the reference's distribution; NO_TOKEN elsewhere
    reference_log_probs  float32  -inf elsewhere
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.data.prepared import Example
from anchortrain.roles import Role, anchor_positions, check_roles, loss_weights

Batch = dict[str, np.ndarray]

NO_TOKEN = -2  # in place of a token of a stored distribution

# How far ahead a row may choose. 64 examples fill rows of three to 98 %; a row of many needs two rows' worth.
WINDOW_EXAMPLES = 64
WINDOW_ROWS = 2


class Placed(NamedTuple):
    """An example in a row, and how it is trained on."""

    example: Example
    objective: str  # a key of roles.OBJECTIVES
    syntax_example: bool
    source: int  # which of the loader's data sets it is from


class RowPlanner:
    """Cuts a stream of examples, known by position and length, into rows.

    A row always takes the example that has waited longest, so none is left behind, and of those that follow it
    the ones that fill the row best. Every position is used exactly once. What is left waiting and the next
    position are the whole state.
    """

    def __init__(self, length_of: Callable[[int], int | None], length: int) -> None:
        """`length_of` gives the tokens (at most `length`) of the example at a position, None at the end."""
        self._length_of = length_of
        self._length = length
        self.restore(0, [])

    def restore(self, position: int, waiting: Sequence[int]) -> None:
        """Goes on from the next `position` of the stream and the positions `waiting` before it."""
        self.position = position
        self._waiting = list(waiting)
        self._lengths = [self._length_of(at) for at in waiting]

    @property
    def waiting(self) -> list[int]:
        """Positions that were passed over so far, longest waiting first."""
        return list(self._waiting)

    def _draw(self) -> bool:
        tokens = self._length_of(self.position)
        if tokens is None:
            return False
        self._waiting.append(self.position)
        self._lengths.append(tokens)
        self.position += 1
        return True

    def next_row(self) -> list[int]:
        """The positions in the next row, in order; empty when the stream has ended."""
        # Subset sums as bits of an integer: bit s of reach[j] says that s tokens can be made of the examples
        # 0..j of the window with example 0 among them.
        reach: list[int] = []
        sums = tokens = 0
        full, limit = 1 << self._length, (1 << self._length + 1) - 1
        lengths, enough = self._lengths, WINDOW_ROWS * self._length
        for j in itertools.count():
            if j == len(lengths) and not self._draw():
                break
            n = lengths[j]
            tokens += n
            sums = (sums | sums << n) & limit if j else 1 << n
            reach.append(sums)
            if sums & full or (tokens >= enough and j + 1 >= WINDOW_EXAMPLES):
                break
        chosen = _backtrack(reach, lengths)
        row = [self._waiting[j] for j in chosen]
        for j in reversed(chosen):
            del self._waiting[j], lengths[j]
        return row


def _backtrack(reach: list[int], lengths: list[int]) -> list[int]:
    """Indices that make up the largest reachable sum, in order; the earliest where there is a choice."""
    if not reach:
        return []
    chosen = []
    total = reach[-1].bit_length() - 1
    for j in range(len(reach) - 1, 0, -1):
        if not reach[j - 1] >> total & 1:
            chosen.append(j)
            total -= lengths[j]
    return [0, *reversed(chosen)]


def pack(rows: Sequence[Sequence[Placed]], *, length: int, bos: int, pad: int, top_k: int = 0) -> Batch:
    """The batch of `rows`, each a list of examples that fit into `length` together. An empty row is padding.

    With `top_k` also the distributions stored with the examples, which all have so many tokens each.
    Raises ValueError when a row is longer than `length`.
    """
    placed_E = [placed for row in rows for placed in row]
    lengths_E = np.array([len(placed.example.tokens) for placed in placed_E], np.int64)
    starts_E = np.cumsum(lengths_E) - lengths_E
    segments_E = np.array([segment for row in rows for segment in range(1, len(row) + 1)], np.int32)
    rules = {rule: number for number, rule in enumerate({(one.objective, one.syntax_example) for one in placed_E})}
    rules_E = np.array([rules[one.objective, one.syntax_example] for one in placed_E], np.int64)

    tokens_T = _joined([placed.example.tokens for placed in placed_E], np.int32)
    roles_T = _joined([placed.example.roles for placed in placed_E], np.uint8)
    check_roles(roles_T, "pack")
    input_roles_T = _shifted(roles_T, starts_E, Role.PROMPT)
    weights_RK = np.array([_weights_by_role(*rule) for rule in rules], np.float32).reshape(-1, len(Role))
    arrays_T = {
        "inputs": (_shifted(tokens_T, starts_E, bos), pad),
        "targets": (tokens_T, pad),
        "input_roles": (input_roles_T, Role.PAD),
        "target_roles": (roles_T, Role.PAD),
        "loss_weights": (weights_RK[np.repeat(rules_E, lengths_E), roles_T], 0),
        "anchor_positions": (anchor_positions(input_roles_T, roles_T), 0),
        "segment_ids": (np.repeat(segments_E, lengths_E), 0),
        "positions": (np.arange(len(tokens_T), dtype=np.int32) - np.repeat(starts_E.astype(np.int32), lengths_E), 0),
    }
    if top_k:
        arrays_T |= _stored(placed_E, arrays_T["anchor_positions"][0] > 0, top_k)
    row_tokens_B = np.array([sum(len(placed.example.tokens) for placed in row) for row in rows])
    filled_BL = np.arange(length) < row_tokens_B[:, None]
    return {name: _laid(values_T, filled_BL, padding) for name, (values_T, padding) in arrays_T.items()}


def _stored(placed_E: Sequence[Placed], at_T: np.ndarray, top_k: int) -> dict[str, tuple[np.ndarray, float]]:
    """The stored distributions [T, k], and what is in their place elsewhere."""
    found = {}
    for name, padding, dtype in (("ids", NO_TOKEN, np.int32), ("log_probs", -np.inf, np.float32)):
        values_Tk = np.full((len(at_T), top_k), padding, dtype)
        if at_T.any():
            values_Tk[at_T] = np.concatenate([getattr(placed.example.reference, name) for placed in placed_E])
        found[f"reference_{name}"] = values_Tk, padding
    return found


@functools.cache
def _weights_by_role(objective: str, syntax_example: bool) -> np.ndarray:
    """float32[K]"""
    return loss_weights(np.arange(len(Role)), objective, syntax_example=syntax_example)


def _joined(arrays: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """One after another; also of none."""
    return np.concatenate([np.empty(0, dtype), *arrays])


def _shifted(values_T: np.ndarray, starts_E: np.ndarray, at_start: int) -> np.ndarray:
    """`values_T` one step to the right, with `at_start` where an example begins."""
    shifted_T = np.roll(values_T, 1)
    shifted_T[starts_E] = at_start
    return shifted_T


def _laid(values_T: np.ndarray, filled_BL: np.ndarray, padding: int) -> np.ndarray:
    """`values_T`, of any further dimensions, in the filled places of the rows, in order: [B, L, …]."""
    laid_BL = np.full(filled_BL.shape + values_T.shape[1:], padding, values_T.dtype)
    laid_BL[filled_BL] = values_T
    return laid_BL
