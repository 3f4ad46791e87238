"""Roles decide everything: weights and anchor positions on hand-written rows, each boundary included."""

import numpy as np
import pytest

from anchortrain.roles import OBJECTIVES, Role, anchor_positions, loss_weights

PAD, PROMPT, KEY, VALUE, TEXT = Role

# A packed row: an annotated instruction, a plain one, padding. One column per prediction.
#   input   <bos>  <user> tell   <asst> <ann>  hero:  _fox   </ann> a      fox    <bos>  <user> <asst> hi     <pad>
#   target  <user> tell   <asst> <ann>  hero:  _fox   </ann> a      fox    <eos>  <user> <asst> hi     <eos>  <pad>
INPUTS = [PROMPT, PROMPT, PROMPT, PROMPT, KEY, KEY, VALUE, KEY, TEXT, TEXT, PROMPT, PROMPT, PROMPT, TEXT, PAD]
TARGETS = [PROMPT, PROMPT, PROMPT, KEY, KEY, VALUE, KEY, TEXT, TEXT, TEXT, PROMPT, PROMPT, TEXT, TEXT, PAD]


@pytest.mark.parametrize(
    "objective, syntax_example, expected",
    [
        ("pretrain", False, "11111 11111 1111 0"),
        ("masked", False, "00000 00111 0011 0"),
        ("masked", True, "00011 01111 0011 0"),
        ("unmasked", False, "00011 11111 0011 0"),
        ("anchor", False, "00000 00000 0000 0"),
    ],
)
def test_weights_by_role(objective, syntax_example, expected):
    weights = loss_weights(np.array(TARGETS), objective, syntax_example=syntax_example)
    assert weights.dtype == np.float32
    assert weights.tolist() == [float(c) for c in expected.replace(" ", "")]


def test_every_objective_is_tested_above():
    assert set(OBJECTIVES) == {"pretrain", "masked", "unmasked", "anchor"}


def test_the_anchor_lies_inside_annotations_and_not_at_the_forced_delimiter():
    # From <ann>, from "hero:" and from the value; neither the prediction of <ann> nor that made from </ann>.
    found = anchor_positions(np.array(INPUTS), np.array(TARGETS))
    assert found.dtype == np.float32
    assert found.tolist() == [float(c) for c in "000011100000000"]


def test_an_empty_annotation_is_anchored_at_its_close():
    assert anchor_positions(np.array([PROMPT, KEY, KEY]), np.array([KEY, KEY, TEXT])).tolist() == [0, 1, 0]


def test_shapes_are_kept():
    rows = np.array([TARGETS, TARGETS], np.uint8)
    assert loss_weights(rows, "masked").shape == anchor_positions(rows, rows).shape == rows.shape
    assert loss_weights(np.zeros((0, 3), np.uint8), "masked").shape == (0, 3)


@pytest.mark.parametrize(
    "roles, objective, syntax_example, message",
    [
        ([4], "sft", False, "unknown objective 'sft'"),
        ([5], "masked", False, "roles must lie in 0..4"),
        ([-1], "masked", False, "roles must lie in 0..4"),
        ([4], "unmasked", True, "only under the objective 'masked'"),
    ],
)
def test_an_inconsistent_role_or_objective_is_an_error(roles, objective, syntax_example, message):
    with pytest.raises(ValueError, match=message):
        loss_weights(np.array(roles), objective, syntax_example=syntax_example)


def test_role_numbers_are_the_file_format():
    assert {role.name: int(role) for role in Role} == {
        "PAD": 0, "PROMPT": 1, "ANNOTATION_KEY": 2, "ANNOTATION_VALUE": 3, "TEXT": 4,
    }  # fmt: skip
