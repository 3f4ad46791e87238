"""Labels that a corpus has become tags; FairytaleQA's are those of `anchortrain fairytale`."""

import gzip
import json

import pytest

from anchortrain.annotate.config import LabelsConfig
from anchortrain.annotate.labels import LabelsAnnotator, check
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema
from anchortrain.annotation import parse, render
from anchortrain.cli import main
from anchortrain.data.fairytale import write_fairytale
from anchortrain.data.records import read_documents
from anchortrain.errors import UserError
from tests.conftest import ROOT, shared_data

WEB = load_schema("web")


def tags(config, fields, *, record="r", index=0, schema=WEB):
    (answer,) = LabelsAnnotator(config, schema).annotate([Passage("text", "", "prose", record, index, fields)])
    return None if answer.annotation is None else render(answer.annotation)


def test_the_human_labels_of_fairytaleqa(tmp_path, monkeypatch):
    data = shared_data()
    monkeypatch.chdir(ROOT)  # the gin file names the table from here
    stories = data / "corpus" / "fairytaleqa_stories.jsonl.gz"
    gin = ["--gin_file", "gin_configs/annotate/fairytale_labels.gin"]
    assert main(["annotate", "--inputs", str(stories), "--out", str(tmp_path / "a"), *gin]) == 0
    write_fairytale(data, tmp_path / "b")
    theirs = {one.id: one for one in read_documents(sorted((tmp_path / "b").glob("documents_*.jsonl")))}
    ours = list(read_documents([tmp_path / "a"]))
    assert len(ours) == len(theirs) == 278
    for document in ours:
        assert document.chunks == theirs[document.id].chunks
    assert sum(chunk.annotation is not None for one in ours for chunk in one.chunks) > 2500


def test_metadata_of_stories(tmp_path):
    """Author and book are what Standard Ebooks calls a source: a short value, or nothing where it is long."""
    rows = []
    with gzip.open(shared_data() / "corpus" / "standardebooks_short_fiction.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            author, _, book = row.pop("source").removeprefix("standardebooks/").partition("_")
            rows.append(row | {"meta": {"author": author.replace("-", " ").title(), "book": book}})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::20]))
    labels = ["--annotator", "labels", "--labels", "author=meta.author", "title"]
    assert main(["annotate", "--inputs", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), *labels]) == 0
    for row, document in zip(rows[::20], read_documents([tmp_path / "out"]), strict=True):
        for chunk in document.chunks:
            found = dict(chunk.annotation)
            assert found["author"] == row["meta"]["author"]
            assert ("title" in found) == (len(row["title"].removeprefix("The ").removeprefix("A ").split()) <= 5)


@pytest.mark.parametrize(
    ("value", "rendered"),
    [
        ("a Fable; <ann>", "genre: Fable"),
        ("The", "genre: The"),
        (["fable", "Fable", "tale"], "genre: fable; genre: tale"),
        (1897, "genre: 1897"),
        ("one two three four five six", None),
        ([["verse"], None], "genre: verse"),
        ([None, ["verse"]], None),
        (["verse", None], "genre: verse"),
        ([], None),
        (None, None),
        ({"of": "x"}, None),
        ([{"of": "x"}, "y"], "genre: y"),
        ("...", None),
    ],
)
def test_fields(value, rendered):
    assert tags(LabelsConfig(fields={"genre": "genre"}), {"genre": value}) == rendered


def test_fields_within_fields_in_the_order_of_the_configuration_and_for_each_chunk():
    config = LabelsConfig(fields={"year": "meta.year", "mood": "moods"})
    fields = {"moods": [["sad"], ["glad", "calm"]], "meta": {"year": 1897, "x": {}}}
    assert tags(config, fields) == "year: 1897; mood: sad"
    assert tags(config, fields, index=1) == "year: 1897; mood: glad; mood: calm"
    assert tags(config, fields, index=2) == "year: 1897"
    assert tags(LabelsConfig(fields={"a": "meta.year.more", "b": "meta.x"}), fields) is None


def test_keys_of_the_schema_decide_what_a_value_is():
    config = LabelsConfig(fields={"sentiment": "mood", "topic": "topic"})
    assert tags(config, {"mood": "Positive", "topic": "A Sea Voyage"}) == "sentiment: positive; topic: sea voyage"
    assert tags(config, {"mood": "odd", "topic": "one two three four"}) is None
    assert len(parse(tags(config, {"topic": [f"t{i}" for i in range(20)]}))) == 6


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_table_beside_the_corpus(tmp_path):
    rows = [
        {"id": "r", "chunks": [1, 2], "key": "Main Hero", "value": ["the fox", "a fox"]},
        {"id": "r", "chunks": 2, "key": ["place", "x"], "value": "mill"},
        {"id": 7, "key": "place", "value": "sea"},
        {"id": "r", "chunks": [1, 2, 3], "key": "place", "value": "everywhere"},
        {"id": "r", "chunks": 1, "key": "place", "value": None},
    ]
    config = LabelsConfig(table=write(tmp_path / "t.jsonl", *rows), table_span=2, rename={"place": "location"})
    assert tags(config, {}) == "main_hero: fox"
    assert tags(config, {}, index=1) == "location: mill; main_hero: fox"
    assert tags(config, {}, index=2) is None
    assert tags(config, {}, record="7", index=5) == "location: sea"


BAD = [
    (LabelsConfig(), "the labels annotator has neither fields nor a table; give --labels FIELD"),
    (LabelsConfig(fields={"Genre": "x"}), "LabelsConfig: annotation key 'Genre' must be lower-case"),
    (LabelsConfig(fields={"a.b": "x"}), "LabelsConfig: annotation key 'a.b' must be lower-case"),
    (LabelsConfig(rename={"x": "a;"}, table="x"), "LabelsConfig: annotation key 'a;' must be lower-case"),
    (LabelsConfig(table="absent.jsonl"), "absent.jsonl: cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_mistakes(config, message):
    with pytest.raises(UserError) as caught:
        check(config)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"record": "r", "key": "a", "value": "b"}, "no field 'id' (there is 'record', 'key', 'value'); bind Lab"),
        ({"id": "r", "chunks": [0], "key": "a", "value": "b"}, "field 'chunks' must be a number from 1, or a list of"),
        ({"id": "r", "chunks": "1", "key": "a", "value": "b"}, "field 'chunks' must be a number from 1, or a list of"),
        ({"id": "r", "key": "-", "value": "b"}, "annotation key '' must be lower-case"),
    ],
)
def test_mistakes_in_a_table_name_the_line(tmp_path, row, message):
    table = write(tmp_path / "t.jsonl", {"id": "r", "key": "a", "value": "b"}, row)
    with pytest.raises(UserError) as caught:
        check(LabelsConfig(table=table))
    assert str(caught.value).startswith(f"{table}:2: {message}")


def test_a_mistake_in_the_labels_leaves_the_directory_free(tmp_path, capsys):
    corpus = write(tmp_path / "a.jsonl", {"text": "A fox.", "genre": "fable"})
    command = ["annotate", "--inputs", corpus, "--out", str(tmp_path / "out"), "--annotator", "labels"]
    assert main([*command, "--labels", "Genre=genre"]) == 2
    assert not (tmp_path / "out").exists()
    assert main([*command, "--labels", "genre"]) == 0
    capsys.readouterr()
