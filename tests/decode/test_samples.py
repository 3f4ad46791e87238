"""Rows of a samples file."""

import json

import pytest

from anchortrain.annotation import from_json, pieces
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.grammar import compile_grammar
from anchortrain.decode.samples import Sample, to_row
from anchortrain.errors import UserError
from anchortrain.evaluate.samples import read_samples
from anchortrain.files import write_jsonl_atomic
from anchortrain.roles import Role
from tests.conftest import shared_data


def made(vocabulary, *chunks, wellformed=True) -> Sample:
    """A sample of (annotation, text) chunks."""
    tokens, roles = [], []
    for tags, text in chunks:
        inside = [(text, role) for text, role in pieces(from_json(tags))]
        for content, role in [(vocabulary.ann_open, 2), *inside, (vocabulary.ann_close, 2), (text, 4)]:
            ids = [content] if isinstance(content, int) else vocabulary.encode(content)
            tokens += ids
            roles += [int(role)] * len(ids)
    return Sample("Tell me.", 7, [*tokens, vocabulary.eos], [*roles, int(Role.TEXT)], wellformed, True, -1.5, -2.5)


def test_a_row_shows_what_the_tokens_say(vocabulary):
    sample = made(vocabulary, ({"hero": "São Paulo’s fox", "place": "mill"}, "Once.\n\nThe end <ann>"))
    assert to_row(sample, vocabulary) == {
        "prompt": "Tell me.",
        "index": 7,
        "annotation": [["hero", "São Paulo’s fox"], ["place", "mill"]],
        "annotation_text": "hero: São Paulo’s fox; place: mill",
        "annotation_wellformed": True,
        "response": "Once.\n\nThe end <ann>",
        "finished": True,
        "tokens": sample.tokens,
        "roles": sample.roles,
        "annotation_logprob": -1.5,
        "response_logprob": -2.5,
    }


def test_documents_have_the_tags_of_all_chunks(vocabulary):
    chunks = [({"hero": "fox"}, "Once.\n\n"), ({}, ""), ({"place": "mill"}, "The end.")]
    row = to_row(made(vocabulary, *chunks), vocabulary)
    assert row["annotation"] == [["hero", "fox"], ["place", "mill"]]
    assert row["annotation_text"] == "hero: fox\n\nplace: mill" and row["response"] == "Once.\n\nThe end."


def test_malformed_annotations_are_shown_as_they_are(vocabulary):
    row = to_row(made(vocabulary, ({"hero": "fox"}, "Once."), wellformed=False), vocabulary)
    assert row["annotation"] is None and not row["annotation_wellformed"]
    assert row["annotation_text"] == "hero: fox"


def test_sentencepiece_spaces_do_not_reach_the_tags():
    path = shared_data() / "tokenizers" / "sentencepiece_test_model_1000.model"
    vocabulary = Vocabulary.from_path(path)
    sample = made(vocabulary, ({"hero": "old fox", "place": "mill"}, "Once upon a time."))
    row = to_row(sample, vocabulary)
    assert row["annotation"] == [["hero", "old fox"], ["place", "mill"]]
    assert row["annotation_text"] == "hero: old fox; place: mill" and row["response"] == "Once upon a time."
    end = sample.tokens.index(vocabulary.ann_close) + 1
    assert compile_grammar(vocabulary, ["hero", "place"], mode="two_stage").read(sample.tokens[1:end])[0]


def test_files_are_read_back_and_written_whole(vocabulary, tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [to_row(made(vocabulary, ({"hero": "fox"}, "Once.\u2028")), vocabulary)] * 2
    write_jsonl_atomic(path, rows)
    assert read_samples(path) == rows
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == rows
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"):
        write_jsonl_atomic(path / "below.jsonl", rows)
