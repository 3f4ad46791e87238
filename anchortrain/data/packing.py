"""Packing: whole examples into rows of fixed length, and rows into a batch.

Planning looks at lengths only, so that every host can plan the whole global batch and read its own rows.

Array suffixes: B rows, L row length. A batch is a dict of arrays [B, L]:

    inputs           int32    <bos>, then the example's tokens but the last
    targets          int32    the example's tokens; n stored tokens take n slots
    input_roles      uint8    PROMPT for <bos>, PAD in padding
    target_roles     uint8
    loss_weights     float32  of the loss at each target, by the example's objective
    anchor_positions float32  1 where the annotation distribution is compared with the reference's
    segment_ids      int32    1, 2, … in each row; 0 is padding
    positions        int32    from 0 in each segment
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.data.prepared import Example
from anchortrain.roles import Role, anchor_positions, loss_weights

Batch = dict[str, np.ndarray]

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
        self._waiting = [(at, self._length_of(at)) for at in waiting]

    @property
    def waiting(self) -> list[int]:
        """Positions that were passed over so far, longest waiting first."""
        return [at for at, _ in self._waiting]

    def _draw(self) -> bool:
        tokens = self._length_of(self.position)
        if tokens is None:
            return False
        self._waiting.append((self.position, tokens))
        self.position += 1
        return True

    def next_row(self) -> list[int]:
        """The positions in the next row, in order; empty when the stream has ended."""
        # Subset sums as bits of an integer: bit s of reach[j] says that s tokens can be made of the examples
        # 0..j of the window with example 0 among them.
        reach: list[int] = []
        limit = (1 << self._length + 1) - 1
        tokens = 0
        while len(reach) < len(self._waiting) or self._draw():
            n = self._waiting[len(reach)][1]
            tokens += n
            reach.append((reach[-1] | reach[-1] << n) & limit if reach else 1 << n)
            enough = len(reach) >= WINDOW_EXAMPLES and tokens >= WINDOW_ROWS * self._length
            if enough or reach[-1] >> self._length:
                break
        chosen = _backtrack(reach, [n for _, n in self._waiting])
        row = [self._waiting[j][0] for j in chosen]
        taken = set(chosen)
        self._waiting = [entry for j, entry in enumerate(self._waiting) if j not in taken]
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


def pack(rows: Sequence[Sequence[Placed]], *, length: int, bos: int, pad: int) -> Batch:
    """The batch of `rows`, each a list of examples that fit into `length` together. An empty row is padding."""
    shape_BL = (len(rows), length)
    targets_BL = np.full(shape_BL, pad, np.int32)
    target_roles_BL = np.full(shape_BL, Role.PAD, np.uint8)
    segment_ids_BL = np.zeros(shape_BL, np.int32)
    positions_BL = np.zeros(shape_BL, np.int32)
    rule_BL = np.zeros(shape_BL, np.int32)
    rules: dict[tuple[str, bool], int] = {}
    count = np.arange(length, dtype=np.int32)
    for row, placed_in_row in enumerate(rows):
        start = 0
        for segment, placed in enumerate(placed_in_row, 1):
            end = start + len(placed.example.tokens)
            targets_BL[row, start:end] = placed.example.tokens
            target_roles_BL[row, start:end] = placed.example.roles
            segment_ids_BL[row, start:end] = segment
            positions_BL[row, start:end] = count[: end - start]
            rule_BL[row, start:end] = rules.setdefault((placed.objective, placed.syntax_example), len(rules))
            start = end
    padding_BL = segment_ids_BL == 0
    first_BL = (positions_BL == 0) & ~padding_BL
    inputs_BL = _shifted(targets_BL, first_BL, bos, padding_BL, pad)
    input_roles_BL = _shifted(target_roles_BL, first_BL, Role.PROMPT, padding_BL, Role.PAD)
    loss_weights_BL = np.zeros(shape_BL, np.float32)
    for (objective, syntax_example), rule in rules.items():
        of_rule_BL = loss_weights(target_roles_BL, objective, syntax_example=syntax_example)
        loss_weights_BL = np.where(rule_BL == rule, of_rule_BL, loss_weights_BL)
    return {
        "inputs": inputs_BL,
        "targets": targets_BL,
        "input_roles": input_roles_BL,
        "target_roles": target_roles_BL,
        "loss_weights": loss_weights_BL,
        "anchor_positions": anchor_positions(input_roles_BL, target_roles_BL),
        "segment_ids": segment_ids_BL,
        "positions": positions_BL,
    }


def _shifted(
    values_BL: np.ndarray, first_BL: np.ndarray, at_first: int, padding_BL: np.ndarray, at_padding: int
) -> np.ndarray:
    """`values_BL` one step to the right, with `at_first` where a segment begins."""
    shifted_BL = np.roll(values_BL, 1, axis=1)
    shifted_BL[first_BL] = at_first
    shifted_BL[padding_BL] = at_padding
    return shifted_BL
