"""The first pass: parts that can be entered anywhere, ids that occur once, an even sample."""

import io
import json

import pytest

from anchortrain.annotate.chunking import chunks
from anchortrain.annotate.config import ChunkConfig
from anchortrain.annotate.index import Index, Sample, check_unchanged, make_index, records_of, stat
from anchortrain.annotate.records import Names, parser
from anchortrain.data.sources import START
from anchortrain.errors import UserError
from tests.annotate.jobs import tales, write

NAMES = Names("text", "id", "prompt", "response", "messages")


def parse(line):
    return parser("documents", NAMES, lambda text: chunks(text, ChunkConfig(24)))(line)


def index_of(paths, *, sample=None, **options):
    paths = [(path, path.name) for path in paths]
    return make_index(paths, parse, **({"part_chunks": 10, "sample": sample or Sample(0, 0)} | options))


def records(source, **options):
    return [record for _, record in records_of(source, parse, **({"start": START, "set_aside": False} | options))]


def test_parts_are_runs_of_records_that_can_be_entered(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", tales(n)) for name, n in (("a", 40), ("b", 3), ("c", 25))]
    for path in files:  # ids of the tales would occur twice
        path.write_text(path.read_text().replace("tale/", f"{path.name}/"))
    index = index_of(files)
    assert (index.records, index.bad_records) == (68, 0) and index.chunks == sum(part.chunks for part in index.parts)
    assert [part.name for part in index.parts] == [f"part-{i:05d}" for i in range(len(index.parts))]
    assert all(part.chunks < 13 for part in index.parts)  # no more than one record above
    for number, source in enumerate(index.sources):
        whole, taken = records(source), []
        for part in (part for part in index.parts if part.source == number):
            assert part.chunks >= 10 or part.records == len(whole) - len(taken)
            taken += records(source, start=part.start)[: part.records]
        assert taken == whole
    assert Index.from_json(json.loads(json.dumps(index.to_json()))) == index


def test_bad_records_are_counted_and_listed(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": ""}, {"text": "b"}])
    listed = io.StringIO()
    index = index_of([path], set_aside=True, bad=listed)
    assert (index.records, index.bad_records) == (2, 1)
    assert json.loads(listed.getvalue())["where"] == f"{path}:2"
    write(path, [{"text": ""}, {"body": "b"}])
    with pytest.raises(UserError, match="every record is bad; the first: .*a.jsonl:1: field 'text' is empty"):
        index_of([path], set_aside=True)


def test_ids_that_occur_twice_are_named_with_both_places(tmp_path):
    first = write(tmp_path / "a.jsonl", [{"id": "x", "text": "a"}, {"id": "y", "text": "b"}])
    second = write(tmp_path / "b.jsonl", [{"text": "c"}, {"id": "y", "text": "d"}])
    with pytest.raises(UserError) as caught:
        index_of([first, second])
    assert str(caught.value).startswith(f"{second}:2: the id 'y' occurs twice, first at {first}:2; make ids unique")


def test_a_source_may_be_touched_but_not_changed(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a"}])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    sources = index_of([path, tmp_path / "texts"]).sources
    path.touch()
    check_unchanged(sources)
    (tmp_path / "texts" / "b.txt").write_text("b")
    with pytest.raises(UserError, match="texts: has changed since this annotation was begun"):
        check_unchanged(sources)
    path.unlink()
    with pytest.raises(UserError, match="a.jsonl: cannot be read: No such file"):
        check_unchanged(sources)
    assert stat(tmp_path / "texts")[0] == 2


def test_a_sample_is_even_the_same_in_any_order_and_small(tmp_path):
    many = records(index_of([write(tmp_path / "a.jsonl", tales(600))]).sources[0])
    drawn = []
    for order in (many, many[::-1]):
        sample = Sample(100, 7)
        for record in order:
            sample.add(record)
        drawn.append(sample.passages())
    assert drawn[0] == drawn[1] and len(drawn[0]) == 100 == len({(one.record, one.index) for one in drawn[0]})
    whole = Sample(10_000, 7)
    other = Sample(100, 8)
    for record in many:
        whole.add(record)
        other.add(record)
    assert len(whole.passages()) == sum(len(record.texts) for record in many)
    assert other.passages() != drawn[0]
    places = {record.id: i for i, record in enumerate(many)}
    assert 200 < sum(places[one.record] for one in drawn[0]) / 100 < 400  # 300 is the middle


def test_a_sample_keeps_no_long_texts(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "x" * 50_000, "scan": "y" * 50_000}])
    sample = Sample(10_000, 0)
    for record in records(index_of([path]).sources[0]):
        sample.add(record._replace(texts=("a" * 50_000, "b" * 50_000)))
    for passage in sample.passages():
        assert len(passage.text) == 10_000 and len(passage.before) <= 10_000 and not passage.fields
