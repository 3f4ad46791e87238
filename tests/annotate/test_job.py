"""A job from its inputs to what `prepare` takes: every format, nothing lost, failures asked again, settings kept."""

import hashlib
import json
import os

import pyarrow.dataset
import pytest

from anchortrain.annotate import annotators
from anchortrain.annotate.directory import BAD_RECORDS
from anchortrain.annotate.job import annotate
from anchortrain.annotate.parts import FORMATS
from anchortrain.annotate.passages import Answer
from anchortrain.annotation import Tag
from anchortrain.data.records import read_documents, read_instructions
from anchortrain.data.sources import read_lines
from anchortrain.errors import UserError
from tests.annotate.jobs import annotating, product, tales, write


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "tales.jsonl", tales(60))


class Flaky:
    """Fails for passages with a word in them, says nothing about others, and remembers what it was asked."""

    fails = ("number 7 ", "number 30 ", "number 55 ")

    def __init__(self):
        self.asked = []

    def annotate(self, passages):
        self.asked += [(passage.record, passage.index) for passage in passages]
        return [self._answer(passage) for passage in passages]

    def _answer(self, passage):
        if any(word in passage.text for word in self.fails):
            return Answer(None, "the server is tired")
        return Answer((Tag("topic", f"fox {passage.index}"),) if passage.index < 2 else ())

    def close(self):
        pass


@pytest.fixture
def flaky(monkeypatch):
    made = Flaky()
    monkeypatch.setattr(annotators, "_open", lambda *_: made)
    return made


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_records_their_annotations_and_their_fields(corpus, tmp_path, format):
    records = list(tales(60))
    manifest = annotate([corpus], tmp_path / "out", annotating(format=format))
    documents = list(read_documents([tmp_path / "out"]))
    assert ["".join(chunk.text for chunk in document.chunks) for document in documents] == [
        record["text"] for record in records
    ]
    assert [document.id for document in documents] == [
        record.get("id", f"tales.jsonl:{i}") for i, record in enumerate(records, 1)
    ]
    for record, document in zip(records, documents, strict=True):
        assert {chunk.annotation for chunk in document.chunks} == {(Tag("genre", record["genre"]),)}
    for line, record in zip(read_lines([tmp_path / "out"]), records, strict=True):
        found = json.loads(line.data)
        assert (json.loads(found["fields"]) if format == "parquet" else found)["genre"] == record["genre"]
    counts = [manifest[name] for name in ("records", "chunks", "annotated", "empty", "unannotated", "failed")]
    chunks = sum(len(document.chunks) for document in documents)
    assert counts == [60, chunks, chunks, 0, 0, 0] and manifest["tags"] == {"genre": chunks}
    assert len(manifest["parts"]) > 3
    for part in manifest["parts"]:
        assert hashlib.sha256((tmp_path / "out" / part["file"]).read_bytes()).hexdigest() == part["sha256"]
    assert manifest["sources"] == [{"path": str(corpus), "sha256": hashlib.sha256(corpus.read_bytes()).hexdigest()}]


def test_the_same_command_changes_nothing_that_is_finished(corpus, tmp_path):
    annotate([corpus], tmp_path / "a", annotating())
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "a").glob("part-*")}
    first = product(tmp_path / "a")
    annotate([corpus], tmp_path / "a", annotating(workers=3))
    assert product(tmp_path / "a") == first
    assert {path: os.stat(path).st_mtime_ns for path in before} == before


def test_a_part_that_someone_removed_is_made_again(corpus, tmp_path):
    annotate([corpus], tmp_path / "a", annotating())
    first = product(tmp_path / "a")
    (tmp_path / "a" / "part-00002.jsonl").unlink()
    (tmp_path / "a" / "state" / "part-00000.json").unlink()
    annotate([corpus], tmp_path / "a", annotating())
    assert product(tmp_path / "a") == first


@pytest.mark.parametrize("format", FORMATS)
def test_the_product_of_one_job_is_the_source_of_another(tmp_path, corpus, format):
    annotate([corpus], tmp_path / "a", annotating())
    annotate([corpus], tmp_path / "b", annotating(format=format))
    annotate([tmp_path / "b"], tmp_path / "c", annotating())
    first, second = (list(read_documents([tmp_path / name])) for name in "ac")
    assert [(one.id, [chunk.text for chunk in one.chunks]) for one in first] == [
        (one.id, [chunk.text for chunk in one.chunks]) for one in second
    ]


def test_instructions_and_chats(tmp_path):
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "A fox.\n\nA hen."}]
    rows = [{"messages": chat, "genre": "chat"}, {"prompt": "Tell.", "response": "It ran.", "genre": "tale", "n": 1}]
    corpus = write(tmp_path / "a.jsonl", rows)
    for format in FORMATS:
        annotate([corpus], tmp_path / format, annotating(kind="instructions", format=format))
        first, second = read_instructions([tmp_path / format])
        assert (first.prompt, first.response, first.annotation) == ("Hi.", "A fox.\n\nA hen.", (Tag("genre", "chat"),))
        assert (second.prompt, second.response, second.annotation) == ("Tell.", "It ran.", (Tag("genre", "tale"),))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_what_failed_is_set_aside_and_asked_again_alone(corpus, tmp_path, flaky, format):
    settings = annotating(format=format, part_chunks=10)
    manifest = annotate([corpus], tmp_path / "a", settings)
    failed = [json.loads(line) for line in (tmp_path / "a" / "failed.jsonl").read_text().splitlines()]
    assert manifest["failed"] == len(failed) == 5
    assert {(one["id"], one["chunk"]) for one in failed} == {
        ("tales.jsonl:8", 0), ("tales.jsonl:8", 1), ("tale/30", 0), ("tale/55", 0), ("tale/55", 1)
    }  # fmt: skip
    assert all(one["failed"] == "the server is tired" and "fox number" in one["text"] for one in failed)
    assert len(flaky.asked) == len(set(flaky.asked)) == manifest["chunks"]
    assert sum(len(one.chunks) for one in read_documents([tmp_path / "a"])) == manifest["chunks"]

    flaky.asked, flaky.fails = [], ("number 30 ",)
    assert annotate([corpus], tmp_path / "a", settings)["failed"] == 1
    assert sorted(flaky.asked) == sorted((one["id"], one["chunk"]) for one in failed)
    flaky.asked, flaky.fails = [], ()
    assert annotate([corpus], tmp_path / "a", settings)["failed"] == 0
    assert flaky.asked == [("tale/30", 0)] and not (tmp_path / "a" / "failed.jsonl").exists()
    annotate([corpus], tmp_path / "b", settings)
    assert product(tmp_path / "a") == product(tmp_path / "b")


def test_failed_instructions_are_asked_again_too(tmp_path, flaky):
    rows = [{"prompt": f"p{i}", "response": f"the fox number {i} ran", "n": i} for i in range(40)]
    corpus = write(tmp_path / "a.jsonl", rows)
    for format in ("jsonl", "parquet"):
        flaky.fails = Flaky.fails
        settings = annotating(kind="instructions", format=format)
        assert annotate([corpus], tmp_path / format, settings)["failed"] == 2
        assert [one.annotation for one in read_instructions([tmp_path / format])].count(None) == 2
        flaky.fails = ()
        assert annotate([corpus], tmp_path / format, settings)["failed"] == 0
        annotate([corpus], tmp_path / f"{format}2", settings)
        assert product(tmp_path / format) == product(tmp_path / f"{format}2")


def test_an_annotator_that_can_go_on_no_more_leaves_what_is_finished(corpus, tmp_path, flaky, monkeypatch):
    usual = flaky.annotate

    def stops(passages):
        if len(flaky.asked) >= 25:
            raise UserError("no money left")
        return usual(passages)

    monkeypatch.setattr("anchortrain.annotate.workers._BATCH", 5)
    monkeypatch.setattr(flaky, "annotate", stops)
    with pytest.raises(UserError, match="no money left"):
        annotate([corpus], tmp_path / "a", annotating(part_chunks=10))
    assert len(list((tmp_path / "a").glob("part-*"))) == 2 and not (tmp_path / "a" / "manifest.json").exists()
    with pytest.raises(UserError, match="not finished"):
        list(read_documents([tmp_path / "a"]))
    asked, flaky.asked = flaky.asked, []
    monkeypatch.setattr(flaky, "annotate", usual)
    annotate([corpus], tmp_path / "a", annotating(part_chunks=10))
    assert 0 < len(set(asked) & set(flaky.asked)) <= 10  # those of the part that was not finished


def test_bad_records_are_listed_and_left_out(tmp_path):
    lines = ['{"text": "one"}', '{"text": ""}', "{", '{"text": "two"}', '{"text": "caf\xe9"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="latin-1")
    with pytest.raises(UserError, match="a.jsonl:2: field 'text' is empty"):
        annotate([tmp_path / "a.jsonl"], tmp_path / "a", annotating())
    assert not (tmp_path / "a").exists()
    manifest = annotate([tmp_path / "a.jsonl"], tmp_path / "a", annotating(bad_records="set_aside"))
    assert (manifest["records"], manifest["bad_records"]) == (2, 3)
    listed = [json.loads(line) for line in (tmp_path / "a" / BAD_RECORDS).read_text().splitlines()]
    assert [one["where"].rpartition(":")[2] for one in listed] == ["2", "3", "5"]
    assert "broken JSON" in listed[1]["error"] and "invalid UTF-8" in listed[2]["error"]
    assert [one.id for one in read_documents([tmp_path / "a"])] == ["a.jsonl:1", "a.jsonl:4"]


def test_what_decides_the_result_may_not_change_within_a_job(corpus, tmp_path):
    annotate([corpus], tmp_path / "a", annotating())
    with pytest.raises(UserError, match="was begun with chunk.max_tokens = 400, now it is 50; choose another --out"):
        annotate([corpus], tmp_path / "a", annotating(ChunkConfig__max_tokens=50))
    with pytest.raises(UserError, match=r"annotators.labels.fields.genre = 'genre', now it is None"):
        annotate([corpus], tmp_path / "a", annotating(LabelsConfig__fields={"kind": "genre"}))
    with pytest.raises(UserError, match="was begun with other inputs"):
        annotate([write(tmp_path / "other.jsonl", tales(3))], tmp_path / "a", annotating())
    with pytest.raises(UserError, match="is given twice; name each input once"):
        annotate([corpus, corpus], tmp_path / "b", annotating())
    os.utime(corpus)
    annotate([corpus], tmp_path / "a", annotating())  # touched, but the same
    with open(corpus, "a") as file:
        file.write('{"text": "new"}\n')
    with pytest.raises(UserError, match="tales.jsonl: has changed since this annotation was begun"):
        annotate([corpus], tmp_path / "a", annotating())


def test_a_tokenizer_of_the_same_name_may_not_change_either(corpus, tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer.read_bytes())
    settings = annotating(ChunkConfig__tokenizer=str(path))
    annotate([corpus], tmp_path / "a", settings)
    path.write_bytes(tokenizer.read_bytes() + b" ")
    with pytest.raises(UserError, match="was begun with chunk.sha256"):
        annotate([corpus], tmp_path / "a", settings)


BAD = [
    ({"kind": "document"}, "AnnotateConfig.kind: 'document' is not allowed; did you mean 'documents'?"),
    ({"format": "csv"}, "AnnotateConfig.format: 'csv' is not allowed"),
    ({"bad_records": "skip"}, "AnnotateConfig.bad_records: 'skip' is not allowed"),
    ({"part_chunks": 0}, "AnnotateConfig.part_chunks must be at least 1, got 0"),
    ({"workers": -1}, "AnnotateConfig.workers must be at least 0, got -1"),
    ({"seed": -1}, "AnnotateConfig.seed must be at least 0, got -1"),
    ({"ChunkConfig__max_tokens": 1}, "ChunkConfig.max_tokens must be at least 2, got 1"),
    ({"ChunkConfig__min_tokens": 500}, "ChunkConfig.min_tokens (500) is above ChunkConfig.max_tokens (400)"),
    ({"ChunkConfig__tokenizer": "absent.json"}, "absent.json: "),
    ({"schema": "story"}, "unknown schema 'story'"),
]


@pytest.mark.parametrize(("bindings", "message"), BAD)
def test_settings_that_no_job_could_have(corpus, tmp_path, bindings, message):
    with pytest.raises(UserError) as caught:
        annotate([corpus], tmp_path / "a", annotating(**bindings))
    assert str(caught.value).startswith(message) and not (tmp_path / "a").exists()


def test_one_job_at_a_time_and_no_directory_of_others(corpus, tmp_path, flaky, monkeypatch):
    def inner(passages):
        with pytest.raises(UserError, match="another process annotates into it; wait for it"):
            annotate([corpus], tmp_path / "a", annotating())
        raise UserError("seen")

    monkeypatch.setattr(flaky, "annotate", inner)
    with pytest.raises(UserError, match="seen"):
        annotate([corpus], tmp_path / "a", annotating())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="mine: is not empty and no annotation job"):
        annotate([corpus], tmp_path / "mine", annotating())
    for damage in ("{", "[]", '{"format": 1}', '{"format": 9, "identity": {}, "index": {}}'):
        (tmp_path / "a" / "job.json").write_text(damage)
        with pytest.raises(UserError, match="job.json: cannot be read: .*; choose another --out"):
            annotate([corpus], tmp_path / "a", annotating())


def test_damaged_state_is_named(corpus, tmp_path):
    annotate([corpus], tmp_path / "a", annotating())
    for damage in ("", "{", '{"x": 1}', "[1]"):
        (tmp_path / "a" / "state" / "part-00001.json").write_text(damage)
        with pytest.raises(UserError, match="part-00001.json: cannot be read: .*; remove it to annotate this part"):
            annotate([corpus], tmp_path / "a", annotating())


def test_parquet_parts_are_one_table(corpus, tmp_path, flaky):
    annotate([corpus], tmp_path / "a", annotating(format="parquet", part_chunks=10))
    files = sorted(map(str, (tmp_path / "a").glob("*.parquet")))
    table = pyarrow.dataset.dataset(files).to_table()
    assert table.num_rows == 60 and table.column_names == ["id", "chunks", "fields"]


def test_a_lone_surrogate_in_a_field_is_kept_as_it_was(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "ü", "title": "\\ud800 ü", "genre": "x \\udfff"}\n')
    for format in FORMATS:
        annotate([tmp_path / "a.jsonl"], tmp_path / format, annotating(format=format))
        (line,) = read_lines([tmp_path / format])
        row = json.loads(line.data)
        assert (json.loads(row["fields"]) if format == "parquet" else row)["title"] == "\ud800 ü"
        assert [document.chunks[0].annotation for document in read_documents([tmp_path / format])] == [
            (Tag("genre", "x"),)
        ]


def test_a_part_that_was_damaged_is_made_again(corpus, tmp_path):
    manifest = annotate([corpus], tmp_path / "a", annotating())
    damaged = tmp_path / "a" / manifest["parts"][1]["file"]
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    assert annotate([corpus], tmp_path / "a", annotating()) == manifest and damaged.read_bytes() == content


def test_a_difference_within_a_schema_is_named(corpus, tmp_path):
    schema = "[keys.genre]\nmost = {most}\n[keys.other]\n"
    (tmp_path / "mine.toml").write_text(schema.format(most=2))
    annotate([corpus], tmp_path / "a", annotating(schema=str(tmp_path / "mine.toml")))
    (tmp_path / "mine.toml").write_text(schema.format(most=1))
    with pytest.raises(UserError, match=r"schema.keys\[0\].most = 2, now it is 1"):
        annotate([corpus], tmp_path / "a", annotating(schema=str(tmp_path / "mine.toml")))
