"""Records are read exactly, and every mistake in them is named with its place."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchortrain.annotation import Tag
from anchortrain.data.records import cut_chunks, read_documents, read_instructions, read_prompts
from anchortrain.errors import UserError


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("one", ["one"]),
        ("one\ntwo", ["one\ntwo"]),
        ("one\n\ntwo", ["one\n\n", "two"]),
        ("one\n \t\n\n  two\n\n", ["one\n \t\n\n", "  two\n\n"]),
        ("one\r\n\r\ntwo", ["one\r\n\r\n", "two"]),
        ("\n\n one\n\n", ["\n\n one\n\n"]),
        ("one\n\n  \n \n", ["one\n\n  \n \n"]),
        (" \n\n ", [" \n\n "]),
    ],
)
def test_chunks_are_cut_at_blank_lines_and_keep_them(text, chunks):
    assert cut_chunks(text) == chunks


@given(st.text(alphabet="a \n\r\t\u2028é"))
def test_chunks_concatenate_to_the_text(text):
    chunks = cut_chunks(text)
    assert "".join(chunks) == text
    assert len(chunks) == 1 or all(chunk.strip() for chunk in chunks)


def test_documents_in_both_forms(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        {"text": "one\n\ntwo", "annotations": [{"hero": ["fox", "hen"]}, None], "title": "ignored"},
        {"id": 7, "chunks": [{"text": "a", "annotation": [["place", "mill"]]}, {"text": "b"}, {"text": "\n"}]},
    )
    first, second = read_documents([path])
    assert (first.id, first.where) == ("d.jsonl:1", f"{path}:1")
    assert first.chunks == (("one\n\n", (Tag("hero", "fox"), Tag("hero", "hen"))), ("two", None))
    assert second.id == "7"
    assert second.chunks == (("a", (Tag("place", "mill"),)), ("b", None), ("\n", None))


def test_instructions_and_prompts_from_gzip_with_blank_lines_and_bom(tmp_path):
    path = tmp_path / "i.jsonl.gz"
    record = {"id": "x", "prompt": "say ü", "response": "ü\n", "annotation": {}}
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(record).encode() + b"\n\n  \n"))
    (instruction,) = read_instructions([path])
    assert instruction == ("x", "say ü", "ü\n", (), f"{path}:1")
    (prompt,) = read_prompts([path])
    assert prompt == ("x", "say ü", f"{path}:1")


BAD_DOCUMENTS = [
    ('{"txt": "a"}', "no field 'text' (there is 'txt')"),
    ('{"text": 3}', "field 'text' must be a string, got a number"),
    ('{"text": ""}', "field 'text' is empty"),
    ('{"text": "a", "annotation": {}}', "field 'annotation' does not belong here"),
    ('{"text": "a", "annotations": {}}', "field 'annotations' must be a list, got an object"),
    ('{"text": "a\\n\\nb", "annotations": [{}]}', "1 annotations for 2 chunks"),
    ('{"text": "a", "annotations": [{"hero": "a; b"}]}', "annotations[0]': annotation value of 'hero' contains"),
    ('{"text": "a", "annotations": [{"hero": "a </ann>"}]}', "annotation value of 'hero' contains the delimiter"),
    ('{"text": "a", "annotations": [{"Hero": "a"}]}', "annotation key 'Hero' must be lower-case"),
    ('{"text": "a", "annotations": ["fox"]}', "an annotation must be an object or a list of pairs"),
    ('{"chunks": []}', "field 'chunks' must be a list with at least one chunk"),
    ('{"chunks": ["a"]}', "field 'chunks[0]' must be an object, got a string"),
    ('{"chunks": [{"text": "a"}, {"annotation": null}]}', "no field 'text' (there is 'annotation')"),
    ('{"chunks": [{"text": "a"}], "text": "a"}', "field 'text' does not belong here"),
    ('{"prompt": "a", "response": "b"}', "--kind instructions"),
    ('{"text": "a", "id": ["b"]}', "field 'id' must be a string, got a list"),
    ('{"text": "\\ud800"}', "lone surrogate at character 1"),
    ("[1]", "a record must be a JSON object, got a list"),
    ('{"text": "a"', "broken JSON at column"),
    ("[" * 100_000, "broken JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_DOCUMENTS)
def test_a_bad_document_is_named_with_file_and_line(tmp_path, line, message):
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        list(read_documents([path]))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"}, "no field 'response' (there is 'prompt')"),
        ({"prompt": "a", "response": ""}, "field 'response' is empty"),
        ({"prompt": None, "response": "b"}, "field 'prompt' must be a string, got null"),
        ({"prompt": "a", "response": "b", "annotations": []}, "an instruction takes one 'annotation'"),
        ({"prompt": "a", "response": "b", "annotation": {"hero": "a\nb"}}, "contains the delimiter '\\n'"),
        ({"text": "a"}, "--kind documents"),
    ],
)
def test_a_bad_instruction_is_named(tmp_path, record, message):
    path = write(tmp_path / "i.jsonl", record)
    with pytest.raises(UserError) as caught:
        list(read_instructions([path]))
    assert str(caught.value).startswith(f"{path}:1: ")
    assert message in str(caught.value)


def test_invalid_utf8_names_the_byte(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(UserError, match=r"d\.jsonl:1: invalid UTF-8 at byte 11"):
        list(read_documents([path]))


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="missing.jsonl: cannot be read: No such file"):
        list(read_documents([tmp_path / "missing.jsonl"]))
    with pytest.raises(UserError, match="no records in this folder"):
        list(read_documents([tmp_path]))
    for content in (b"not gzip", gzip.compress(b'{"text": "a"}\n' * 1000)[:-20]):
        (tmp_path / "d.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"d\.jsonl\.gz:\d+: damaged gzip file"):
            list(read_documents([tmp_path / "d.jsonl.gz"]))


def test_an_empty_corpus_is_an_error(tmp_path):
    (tmp_path / "d.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match=r"d\.jsonl: empty corpus: no records"):
        list(read_documents([tmp_path / "d.jsonl"]))
