"""Packing: rows partition the stream, are full, and every array is right on hand-written rows."""

import numpy as np
import pytest

from anchortrain.annotation import Tag
from anchortrain.data.packing import WINDOW_EXAMPLES, Placed, RowPlanner, pack
from anchortrain.roles import Role

KEY, VALUE, TEXT, PROMPT, PAD = Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.TEXT, Role.PROMPT, Role.PAD


def planner(lengths, length) -> RowPlanner:
    return RowPlanner(lambda at: int(lengths[at]) if at < len(lengths) else None, length)


def all_rows(plan: RowPlanner) -> list[list[int]]:
    rows = []
    while row := plan.next_row():
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    "low, high, length", [(1, 128, 128), (30, 90, 128), (128, 128, 128), (1, 3, 600), (64, 65, 128)]
)
def test_rows_partition_the_stream(low, high, length):
    lengths = np.random.default_rng(0).integers(low, high + 1, 2000)
    rows = all_rows(planner(lengths, length))
    assert sorted(at for row in rows for at in row) == list(range(2000))
    assert all(0 < sum(lengths[at] for at in row) <= length for row in rows)
    assert all(row == sorted(row) for row in rows)


def test_the_longest_waiting_example_is_always_taken():
    lengths = np.random.default_rng(0).integers(30, 90, 2000)
    placed: set[int] = set()
    for row in all_rows(planner(lengths, 128)):
        assert row[0] == next(at for at in range(2000) if at not in placed)
        placed.update(row)


@pytest.mark.parametrize("length, bar", [(128, 0.97), (256, 0.995)])
def test_fill_of_story_like_lengths(length, bar):
    lengths = np.random.default_rng(0).integers(30, 91, 5000)
    rows = all_rows(planner(lengths, length))
    assert lengths.sum() / (len(rows) * length) > bar


def test_rows_of_more_examples_than_the_window_are_full():
    lengths = np.full(10 * WINDOW_EXAMPLES * 8, 2)
    assert len(planner(lengths, WINDOW_EXAMPLES * 8).next_row()) == WINDOW_EXAMPLES * 4


def test_restored_planner_goes_on_alike():
    lengths = np.random.default_rng(0).integers(30, 90, 2000)
    plan = planner(lengths, 128)
    for _ in range(50):
        plan.next_row()
    again = planner(lengths, 128)
    again.restore(plan.position, plan.waiting)
    assert all_rows(again) == all_rows(plan)


def test_every_array_of_a_hand_written_row(vocabulary, make):
    v = vocabulary
    # One token each, so that the row can be written down by hand.
    fox, mill, ran, end = (v.encode(letter)[0] for letter in "fmr.")
    document = make.interleaved(
        (v.ann_open, KEY), (fox, KEY), (mill, VALUE), (v.ann_close, KEY), (ran, TEXT), (v.eos, TEXT)
    )
    asked = make.interleaved(
        *[(v.user, PROMPT), (fox, PROMPT), (v.assistant, PROMPT)],
        *[(v.ann_open, KEY), (fox, KEY), (mill, VALUE), (mill, VALUE), (v.ann_close, KEY)],
        *[(ran, TEXT), (end, TEXT), (v.eos, TEXT)],
    )
    rows = [[Placed(document, "pretrain", False, 0), Placed(asked, "masked", False, 1)], []]
    batch = pack(rows, length=19, bos=v.bos, pad=v.pad)

    want = {
        "inputs": [v.bos, v.ann_open, fox, mill, v.ann_close, ran]
        + [v.bos, v.user, fox, v.assistant, v.ann_open, fox, mill, mill, v.ann_close, ran, end]
        + [v.pad, v.pad],
        "targets": [v.ann_open, fox, mill, v.ann_close, ran, v.eos]
        + [v.user, fox, v.assistant, v.ann_open, fox, mill, mill, v.ann_close, ran, end, v.eos]
        + [v.pad, v.pad],
        "input_roles": [PROMPT, KEY, KEY, VALUE, KEY, TEXT]
        + [PROMPT, PROMPT, PROMPT, PROMPT, KEY, KEY, VALUE, VALUE, KEY, TEXT, TEXT]
        + [PAD, PAD],
        "target_roles": [KEY, KEY, VALUE, KEY, TEXT, TEXT]
        + [PROMPT, PROMPT, PROMPT, KEY, KEY, VALUE, VALUE, KEY, TEXT, TEXT, TEXT]
        + [PAD, PAD],
        # The first trained response token is predicted from </ann>; <bos> trains nothing but what it predicts.
        "loss_weights": [1, 1, 1, 1, 1, 1] + [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1] + [0, 0],
        # Not <ann> itself (forced when decoding), but </ann>; not the text after it.
        "anchor_positions": [0, 1, 1, 1, 0, 0] + [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0] + [0, 0],
        "segment_ids": [1] * 6 + [2] * 11 + [0, 0],
        "positions": [*range(6), *range(11), 0, 0],
    }
    kinds = {"loss_weights": "float32", "anchor_positions": "float32", "input_roles": "uint8", "target_roles": "uint8"}
    assert batch.keys() == want.keys()
    for name, row in want.items():
        assert batch[name].shape == (2, 19) and batch[name].dtype == kinds.get(name, "int32"), name
        assert batch[name][0].tolist() == row, name
    empty = {name: batch[name][1] for name in want}
    assert all((empty[name] == (v.pad if name in ("inputs", "targets") else 0)).all() for name in want)


@pytest.mark.parametrize(
    "objective, syntax, trained",
    [
        ("pretrain", False, {PROMPT, KEY, VALUE, TEXT}),
        ("masked", False, {TEXT}),
        ("masked", True, {TEXT, KEY}),
        ("unmasked", False, {KEY, VALUE, TEXT}),
        ("anchor", False, set()),
    ],
)
def test_each_example_is_weighed_by_its_own_objective(vocabulary, objective, syntax, trained, make):
    example = make.instruction("a fox?", (Tag("hero", "fox"), Tag("place", "mill")), "the fox ran")
    other = make.instruction("a fox?", None, "the fox ran")
    n = len(example.tokens)
    rows = [[Placed(example, objective, syntax, 0), Placed(other, "masked", False, 0)]]
    weights = pack(rows, length=n + len(other.tokens), bos=0, pad=0)["loss_weights"][0]
    assert weights[:n].tolist() == [float(role in trained) for role in example.roles]
    assert weights[n:].tolist() == [float(role == TEXT) for role in other.roles]


def test_a_row_that_is_too_long_or_a_role_that_is_none_is_refused(make):
    example = make.instruction("a fox?", None, "the fox ran")
    with pytest.raises(ValueError):
        pack([[Placed(example, "masked", False, 0)]], length=len(example.tokens) - 1, bos=0, pad=0)
    wrong = example._replace(roles=np.full_like(example.roles, 9))
    with pytest.raises(ValueError, match="roles must lie in"):
        pack([[Placed(wrong, "masked", False, 0)]], length=100, bos=0, pad=0)


def test_a_batch_of_empty_rows_is_padding():
    batch = pack([[], []], length=3, bos=1, pad=2)
    assert (batch["inputs"] == 2).all() and not batch["loss_weights"].any() and not batch["segment_ids"].any()
