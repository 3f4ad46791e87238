"""Figures of the report that can be counted by hand, and the bounds of its memory."""

import gzip
import json
import math

import pytest

from anchortrain.annotate.report.counts import MOST_TAGS, Counts, ValueCounts
from anchortrain.annotate.report.records import Chunk, Record, read_annotated
from anchortrain.annotate.report.sample import MAX_CHARACTERS, Sample, split
from anchortrain.annotate.report.statistics import choose_examples, make_report
from anchortrain.annotate.report.tokens import TokenCounter
from anchortrain.annotation import make_tag
from anchortrain.errors import UserError
from tests.conftest import shared_data


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def record(name, *annotations, text="A fox ran."):
    """A document of equal chunks with these annotations."""
    chunks = (Chunk(text, None if tags is None else tuple(make_tag(*tag) for tag in tags)) for tags in annotations)
    return Record(name, tuple(chunks))


@pytest.fixture
def small(tmp_path):
    """Four documents, one an instruction: 8 chunks, of which 5 have tags, 1 is empty, 1 failed, 1 unsuited."""
    return write(
        tmp_path / "small.jsonl",
        [
            {"id": "a", "chunks": [
                {"text": "Red fox.", "annotation": {"hero": "fox", "mood": ["sly", "old"]}},
                {"text": "Title", "annotation": None},
                {"text": "Nothing.", "annotation": {}},
            ]},
            {"id": "b", "chunks": [
                {"text": "It ran.", "annotation": [["hero", "fox"]]},
                {"text": "Lost.", "annotation": None, "failed": "no\nanswer"},
            ]},
            {"text": "A hen.\n\nA cat.", "annotations": [{"hero": "hen"}, {"hero": "cat"}]},
            {"id": 7, "prompt": "Who?", "response": "A fox.", "annotation": {"hero": "fox"}, "failed": None},
        ],
    )  # fmt: skip


def test_counts_by_hand(small):
    figures = make_report([small]).figures
    corpus = figures["corpus"]
    assert {name: corpus[name] for name in ("documents", "chunks", "annotated", "empty", "failed", "unannotated")} == {
        "documents": 4, "chunks": 8, "annotated": 5, "empty": 1, "failed": 1, "unannotated": 1
    }  # fmt: skip
    assert corpus["coverage"] == 5 / 8
    assert corpus["tags"] == 7 and corpus["tags_per_annotation"] == 7 / 6
    assert corpus["tags_histogram"][:4] == [1, 4, 0, 1] and sum(corpus["tags_histogram"]) == 6
    assert corpus["failures"] == [{"reason": "no answer", "chunks": 1}]
    hero, mood = figures["keys"]
    assert (hero["key"], hero["chunks"], hero["tags"], hero["distinct"]) == ("hero", 5, 5, 3)
    assert hero["top"][0] == {"value": "fox", "count": 3} and hero["top_share"] == 0.6
    assert mood["share_of_annotated"] == 0.2


def test_entropy_of_known_distributions(tmp_path):
    """Eight equally frequent values are 3 bits; where all differ, the entropy is at least that of what was seen."""
    rows = [
        {"chunks": [{"text": "x", "annotation": {"even": f"v{i % 8}", "one": "same", "unique": f"u{i}"}}]}
        for i in range(800)
    ]
    figures = make_report([write(tmp_path / "x.jsonl", rows)]).figures
    even, one, unique = (next(row for row in figures["keys"] if row["key"] == key) for key in ("even", "one", "unique"))
    assert even["entropy_bits"] == pytest.approx(3, abs=0.01) and even["effective"] == pytest.approx(8, rel=0.01)
    assert not even["at_least"]
    assert one["entropy_bits"] == 0 and one["effective"] == 1
    assert unique["at_least"] and unique["entropy_bits"] == pytest.approx(math.log2(800))
    kinds = {call["kind"]: call["keys"] for call in figures["calls"]}
    assert kinds["near-constant"] == ["one"] and kinds["near-unique"] == ["unique"]


def test_rare_keys_failures_and_many_keys_are_called_out(tmp_path):
    rows = [{"chunks": [{"text": "x", "annotation": {"all": f"v{i % 9}"}}]} for i in range(200)]
    rows[0]["chunks"][0]["annotation"]["rare"] = "x"
    rows += [{"chunks": [{"text": "x", "annotation": None, "failed": "timeout"}]} for _ in range(5)]
    rows.append({"chunks": [{"text": "x", "annotation": {f"k{i}": "x" for i in range(60)}}]})
    kinds = {call["kind"]: call["keys"] for call in make_report([write(tmp_path / "x.jsonl", rows)]).figures["calls"]}
    assert "rare" in kinds["rarely present"] and "all" not in kinds["rarely present"]
    assert {"failures", "many keys"} <= set(kinds)
    assert "near-constant" not in kinds  # a key in a single chunk is too little to be judged by


def test_values_beyond_the_limit_leave_the_frequent_ones():
    counts = ValueCounts(limit=100)
    for i in range(2000):
        counts.add((make_tag("word", "often"), make_tag("word", f"once{i}"), make_tag("mood", "sly")))
    left = counts.by_key()
    assert sum(map(len, left.values())) <= 100
    assert left["word"]["often"] == 2000 and left["mood"]["sly"] == 2000
    assert counts.pruned == {"word"}


def test_a_key_with_too_many_values_is_described_by_the_sample(tmp_path):
    rows = [
        {"chunks": [{"text": "x", "annotation": {"id": f"u{i}", "mood": f"m{i % 3}"}}]} for i in range(300)
    ]  # fmt: skip
    report = make_report([write(tmp_path / "x.jsonl", rows)], sample=50, max_values=100)
    by_key = {row["key"]: row for row in report.figures["keys"]}
    assert by_key["id"]["values_over"] == "sample" and by_key["id"]["distinct"] == 50 == by_key["id"]["occurrences"]
    assert by_key["mood"]["values_over"] == "all" and by_key["mood"]["occurrences"] == 300


def test_the_last_bar_takes_all_long_annotations():
    counts = Counts()
    counts.add(record("a", [("k", f"v{i}") for i in range(40)], [("k", "x")]))
    assert counts.histogram[MOST_TAGS] == 1 and counts.histogram[1] == 1


def test_the_sample_is_the_same_in_any_order_and_bounded():
    records = [record(f"d{i}", *[[("k", str(i))]] * (1 + i % 3)) for i in range(400)]

    def sampled(order):
        sample = Sample(60, TokenCounter())
        for one in order:
            sample.offer(one)
        return sample

    forth, back = sampled(records), sampled(records[::-1])
    assert [one.id for one in forth.documents()] == [one.id for one in back.documents()]
    assert 60 <= forth.chunks < 63
    assert forth.chunks == sum(len(one.chunks) for one in forth.documents())


def test_long_documents_and_chunks_are_thinned_out():
    sample = Sample(500, TokenCounter())
    sample.offer(record("long", *[[("k", "x")]] * 1000))
    sample.offer(record("wide", [("k", "x")], text="word " * 200_000))
    long, wide = sorted(sample.documents(), key=lambda one: one.id)
    assert len(long.chunks) == 10
    (chunk,) = wide.chunks
    assert len(chunk.text) == MAX_CHARACTERS and chunk.cut and chunk.text_tokens == 200_000


def test_documents_are_split_whole_and_copies_are_not_measured_on():
    sample = Sample(10_000, TokenCounter())
    for i in range(200):
        sample.offer(record(f"d{i % 150}", [("k", "x")], [("k", "y")], text=f"text {i % 100}"))
    parts = split(sample.documents())
    ids = [{one.id for one in part} for part in parts]
    assert not ids[0] & ids[1] and not ids[1] & ids[2] and not ids[0] & ids[2]
    assert len(set().union(*ids)) == 150
    texts = [{chunk.text for one in part for chunk in one.chunks} for part in parts]
    assert texts[0] and texts[1] and texts[2]
    assert not texts[0] & (texts[1] | texts[2])


def test_tokens_by_hand_and_by_a_real_tokenizer(tmp_path):
    annotation = (make_tag("hero", "red fox"), make_tag("mood", "sly"))
    words = TokenCounter()
    assert words.texts(["It's a fox.", ""]) == [6, 0]
    assert words.annotation(annotation) == 2 + 8 and words.annotation(None) == 0 and words.annotation(()) == 2
    packed = (shared_data() / "tokenizers/allenai_dolma2.tokenizer.json.gz").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress(packed))
    tokens = TokenCounter(str(tmp_path / "tokenizer.json"))
    # `hero:` ` red fox` `; mood:` ` sly`
    assert tokens.annotation((make_tag("hero", "red fox"),)) == 2 + len(tokens._vocabulary.encode("hero:")) + 2
    assert "tokenizer.json" in tokens.unit


def test_examples_are_of_different_documents(small):
    report = make_report([small], examples=3)
    assert len({one.record for one in report.examples}) == 3
    assert all(one.chunk.annotation for one in report.examples)
    assert choose_examples([], 3) == []


def test_records_without_ids_and_instructions_are_read(small):
    ids = [one.id for one in read_annotated([small])]
    assert ids == ["a", "b", "small.jsonl:3", "7"]


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="empty corpus"):
        make_report([write(tmp_path / "empty.jsonl", [])])
    bad = {"chunks": [{"text": "x", "annotation": {"Bad Key": "x"}}]}
    with pytest.raises(UserError, match=r"bad.jsonl:1.*Bad Key"):
        make_report([write(tmp_path / "bad.jsonl", [bad])])
    with pytest.raises(UserError, match="nowhere"):
        make_report([tmp_path / "nowhere.jsonl"])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer"):
        make_report([tmp_path / "nowhere.jsonl"], tokenizer=str(tmp_path / "tokenizer.json"))
