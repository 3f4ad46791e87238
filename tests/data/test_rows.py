"""Rows token by token, and what becomes of records that are too long."""

import json
from collections import Counter

import numpy as np
import pytest

from anchortrain.data.rows import RowMaker
from anchortrain.data.sources import Line
from anchortrain.errors import UserError
from anchortrain.roles import Role

PROMPT, KEY, VALUE, TEXT = Role.PROMPT, Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.TEXT


@pytest.fixture
def rows_of(vocabulary):
    """rows_of(records, **options) -> rows, notes."""

    def make(records, **options):
        settings = {"kind": "documents", "annotated": True, "max_length": None, "long": "split"}
        maker = RowMaker(vocabulary, **(settings | {"unannotated_share": 0.0} | options))
        lines = [Line(json.dumps(one).encode(), f"f:{i}", f"f:{i}") for i, one in enumerate(records, 1)]
        pieces = maker.pieces(lines)
        tokens = vocabulary.encode_batch([text.decode() for text in pieces.texts_D])
        flat = np.array([token for one in tokens for token in one], np.int32)
        lengths = np.array([len(one) for one in tokens], np.int64)
        rows = maker.rows(flat, lengths, pieces, [line.where for line in lines])
        return rows, {name: count for name, count in maker.notes.items() if count}

    return make


def expected(vocabulary, *parts):
    """(text or control id, role) … -> tokens, roles."""
    tokens, roles = [], []
    for content, role in parts:
        ids = [content] if isinstance(content, int) else vocabulary.encode(content)
        tokens += ids
        roles += [int(role)] * len(ids)
    return tokens, roles


def test_every_token_of_a_document_and_an_instruction(vocabulary, rows_of):
    v = vocabulary
    plan = [(v.ann_open, KEY), ("hero:", KEY), (" fox", VALUE), ("; place:", KEY), (" mill", VALUE), (v.ann_close, KEY)]
    annotation = {"hero": "fox", "place": "mill"}
    (row,), _ = rows_of([{"text": "the <ann>\n\n</ann> ran", "annotations": [annotation, {}]}])
    tokens, roles = expected(
        v, *plan, ("the <ann>\n\n", TEXT), (v.ann_open, KEY), (v.ann_close, KEY), ("</ann> ran", TEXT), (v.eos, TEXT)
    )
    assert (row.tokens.tolist(), row.roles.tolist()) == (tokens, roles)
    assert row.keys == ("hero", "place")
    # Only the controls that were put there: two annotations and the end.
    assert sum(token in v.control_ids for token in tokens) == 5

    records = [{"prompt": "", "response": "x"}, {"prompt": "<eos> fox", "response": "ran", "annotation": annotation}]
    (short, long), notes = rows_of(records, kind="instructions", long="error")
    start = [(v.user, PROMPT), ("<eos> fox", PROMPT), (v.assistant, PROMPT), ("\n\n", PROMPT)]
    tokens, roles = expected(v, *start, *plan, ("ran", TEXT), (v.eos, TEXT))
    assert (long.tokens.tolist(), long.roles.tolist()) == (tokens, roles)
    assert short.tokens.tolist() == [v.user, v.assistant, *v.encode("\n\n"), *v.encode("x"), v.eos]
    assert short.roles.tolist() == [PROMPT, PROMPT, *[PROMPT] * len(v.encode("\n\n")), TEXT, TEXT]
    assert notes == {"records": 2, "unannotated": 1}
    assert [row.id for row in (short, long)] == ["f:1", "f:2"]


def chunk_row(row, vocabulary):
    """The row as text in which every control is visible."""
    return "".join(vocabulary.token_text(token) for token in row.tokens)


def test_a_long_document_is_split_between_chunks(vocabulary, rows_of):
    chunks = [{"text": letter * 10, "annotation": {"hero": letter}} for letter in "wxyz"]
    (whole,), _ = rows_of([{"chunks": chunks}])
    limit = int(np.argwhere(whole.tokens == vocabulary.ann_open)[2, 0])  # two chunks fit exactly
    rows, notes = rows_of([{"id": "d", "chunks": chunks}], max_length=limit)
    texts = [chunk_row(row, vocabulary) for row in rows]
    opened = [f"<ann>hero: {letter}</ann>" + letter * 10 for letter in "wxyz"]
    # The end takes one more token, so the last chunk does not fit beside the third.
    assert texts == [opened[0] + opened[1], opened[2], opened[3] + "<eos>"]
    assert [row.id for row in rows] == ["d#0", "d#1", "d#2"]
    assert [row.keys for row in rows] == [("hero", "hero"), ("hero",), ("hero",)]
    assert notes == {"records": 1, "split": 1, "windows": 3}
    assert np.concatenate([row.tokens for row in rows]).tolist() == whole.tokens.tolist()


@pytest.mark.parametrize("annotated", [True, False])
def test_a_long_chunk_is_cut_into_windows_that_repeat_its_annotation(vocabulary, rows_of, annotated):
    text = "".join(chr(ord("A") + i % 26) for i in range(200))
    records = [{"text": text, "annotations": [{"hero": "q"}]}]
    rows, notes = rows_of(records, max_length=40, annotated=annotated)
    texts = [chunk_row(row, vocabulary) for row in rows]
    opening = "<ann>hero: q</ann>" if annotated else ""
    assert all(one.startswith(opening) for one in texts)
    assert "".join(one.removeprefix(opening) for one in texts) == text + "<eos>"
    lengths = [len(row.tokens) for row in rows]
    assert max(lengths) <= 40 and max(lengths) - min(lengths) <= len(lengths)
    for row in rows:
        head = len(expected(vocabulary, (0, KEY), ("hero:", KEY), (" q", VALUE), (0, KEY))[0]) if annotated else 0
        assert set(row.roles[head:].tolist()) == {TEXT}
        assert TEXT not in row.roles[:head]
        assert row.keys == (("hero",) if annotated else ())
    assert notes["split"] == 1 and notes["windows"] == len(rows)


def test_an_annotation_that_leaves_no_room_is_an_error(rows_of):
    records = [{"text": "x " * 100, "annotations": [{"hero": "z" * 60}]}]
    with pytest.raises(UserError, match=r"f:1: an annotation of 'f:1' takes \d+ of 64 tokens; shorten it or raise"):
        rows_of(records, max_length=64)


def test_long_error_names_everything_and_drop_counts(rows_of):
    records = [{"prompt": "p", "response": "r"}, {"id": "big", "prompt": "p", "response": "Q" * 40}]
    with pytest.raises(UserError, match=r"f:2: example 'big' has 46 tokens, the limit is 16; raise --length"):
        rows_of(records, kind="instructions", max_length=16, long="error")
    rows, notes = rows_of(records, kind="instructions", max_length=16, long="drop")
    assert [row.id for row in rows] == ["f:1"]
    assert notes == {"records": 2, "unannotated": 2, "dropped": 1}


def test_unannotated_share_is_a_function_of_the_id(rows_of):
    record = {"prompt": "p", "response": "r", "annotation": {"hero": "fox"}}
    records = [record | {"id": f"i{number}"} for number in range(2000)]
    options = {"kind": "instructions", "long": "error"}
    plain, notes = rows_of(records, unannotated_share=0.2, **options)
    left_out = {row.id for row in plain if not row.keys}
    assert 330 < len(left_out) < 470 and notes["annotation_left_out"] == len(left_out)
    assert all((KEY in row.roles) == (row.id not in left_out) for row in plain)
    again, _ = rows_of(records[::-1], unannotated_share=0.2, **options)
    assert {row.id for row in again if not row.keys} == left_out
    more, _ = rows_of(records, unannotated_share=0.5, **options)
    assert left_out < {row.id for row in more if not row.keys}
    assert Counter(bool(row.keys) for row in rows_of(records, unannotated_share=1.0, **options)[0]) == {False: 2000}
