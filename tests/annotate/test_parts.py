"""Files of a part: the same bytes for the same records, read back to what they were made of."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchortrain.annotate.index import Part
from anchortrain.annotate.parts import (
    FORMATS,
    PartWriter,
    State,
    annotated,
    encode,
    failures,
    file_of,
    mended,
    read_state,
)
from anchortrain.annotate.passages import Answer
from anchortrain.annotate.records import Record
from anchortrain.annotation import Tag
from anchortrain.data.sources import START

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=2))
ANSWERS = st.sampled_from(
    [
        Answer(None),
        Answer(()),
        Answer((Tag("topic", "fox"),)),
        Answer((Tag("topic", "fox"), Tag("topic", "hen"), Tag("tone", "sad"))),
        Answer(None, "failed"),
    ]
)
FIELDS = st.dictionaries(st.sampled_from(["title", "meta", "source_id"]), VALUES)


def answer(passages):
    """As a good annotator would."""
    for passage in passages:
        yield Answer((Tag("topic", f"{passage.kind} {passage.index}"),))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30)
@given(data=st.data())
def test_what_was_answered_stays_and_what_failed_is_mended(tmp_path_factory, format, data):
    out, part = tmp_path_factory.mktemp("part"), Part("part-00000", 0, START, 1, 1)
    documents = data.draw(st.booleans())
    rows = []
    for i in range(data.draw(st.integers(1, 3))):
        texts = tuple(data.draw(st.lists(TEXTS, min_size=1, max_size=3 if documents else 1)))
        prompt = None if documents else data.draw(TEXTS)
        record = Record(f"r{i}", "", texts, prompt, data.draw(FIELDS))
        rows.append((record, [data.draw(ANSWERS) for _ in texts]))
    state = write(out, format, rows)
    assert state == read_state(out, "part-00000") and state.records == len(rows)
    failed = [one for _, answers in rows for one in answers if one.failed]
    assert state.failed == len(failed) == len(list(failures(out, part, format)))
    expected = [
        (record, [one if one.failed is None else next(answer([record.passage(i)])) for i, one in enumerate(answers)])
        for record, answers in rows
    ]
    mended(out, part, format, answer)
    found = file_of(out, "part-00000", format).read_bytes()
    assert read_state(out, "part-00000").failed == 0
    write(out, format, expected)
    assert file_of(out, "part-00000", format).read_bytes() == found


def write(out, format, rows):
    writer = PartWriter(out, "part-00000", format)
    for record, answers in rows:
        writer.add(record, answers)
    return writer.finish()


def test_a_state_counts():
    state = State(0, 0)
    for one in (Answer(None), Answer(()), Answer((Tag("a", "x"), Tag("a", "y"), Tag("b", "z"))), Answer(None, "no")):
        state.count(one)
    assert (state.annotated, state.empty, state.unannotated, state.failed) == (1, 1, 1, 1)
    assert state.tags == {"a": 2, "b": 1}
    assert read_state(Path("absent"), "part-00000") is None


def test_records_wait_for_all_their_answers():
    asked = []

    def two_ahead(passages):
        held = []
        for passage in passages:
            asked.append(passage.text)
            held.append(passage)
            if len(held) > 2:
                yield from answer([held.pop(0)])
        yield from answer(held)

    records = [Record(str(i), "", tuple("ab"[: 1 + i % 2]), None, {}) for i in range(5)]
    found = annotated(iter(records), two_ahead)
    assert next(found)[0] == records[0] and len(asked) == 3
    assert [record for record, answers in found if len(answers) == len(record.texts)] == records[1:]


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_records_give_the_same_bytes(format):
    rows = [{"id": "a", "chunks": [{"text": "ü", "annotation": {"topic": "x"}}], "title": "ü"}] * 3
    assert encode(rows, format) == encode(json.loads(json.dumps(rows)), format)
    if format == "jsonl":
        line = '{"id": "a", "chunks": [{"text": "ü", "annotation": {"topic": "x"}}], "title": "ü"}\n'
        assert encode(rows, format).decode() == line * 3
