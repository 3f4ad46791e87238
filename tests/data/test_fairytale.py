"""FairytaleQA from the shared data: documents annotated by people, questions as instructions."""

import json
from collections import Counter

import pytest

from anchortrain.data.fairytale import tag_of, write_fairytale
from anchortrain.data.records import load_object, read_documents, read_instructions
from anchortrain.data.sources import read_lines
from anchortrain.errors import UserError
from tests.conftest import shared_data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("fairytale")
    return out, write_fairytale(shared_data(), out)


def test_the_split_is_that_of_the_data(written):
    assert written[1] == {
        "documents_train.jsonl": 232,
        "documents_heldout.jsonl": 46,
        "instructions_train.jsonl": 8548,
        "instructions_heldout.jsonl": 2032,
    }


def test_documents_are_the_tales_and_most_sections_are_annotated(written):
    documents = list(read_documents([written[0] / "documents_train.jsonl"]))
    lines = read_lines([shared_data() / "corpus" / "fairytaleqa_stories.jsonl.gz"])
    stories = {story["id"]: story["sections"] for story in map(load_object, lines)}
    for document in documents:
        assert "".join(chunk.text for chunk in document.chunks) == "\n\n".join(stories[document.id])
    annotations = [chunk.annotation for document in documents for chunk in document.chunks]
    assert sum(one is not None for one in annotations) > 0.6 * len(annotations)
    keys = Counter(tag.key for one in annotations for tag in one or ())
    assert set(keys) == {"character", "setting", "action", "feeling", "cause", "outcome", "prediction"}
    assert all(len(tag.value.split()) <= 5 for one in annotations for tag in one or ())


def test_instructions_have_a_passage_a_question_and_an_annotation(written):
    instructions = list(read_instructions([written[0] / "instructions_heldout.jsonl"]))
    assert len({one.id for one in instructions}) == len(instructions)
    for one in instructions:
        passage, question = one.prompt.rsplit("\n\n", 1)
        assert passage and question and len(passage.split()) <= 60
    assert sum(one.annotation is not None for one in instructions) > 0.8 * len(instructions)


@pytest.mark.parametrize(
    ("attribute", "answer", "tag"),
    [
        ("character", "The  King's son.", ("character", "King's son")),
        ("causal relationship", "it was cold; very", ("cause", "it was cold, very")),
        ("action", "a", ("action", "a")),
        ("action", "he went away and never came back", None),
        ("feeling", "...", None),
    ],
)
def test_a_short_answer_becomes_a_tag(attribute, answer, tag):
    assert tag_of({"attribute": [attribute, "setting"], "answers": [answer, "other"]}) == tag


def test_missing_data_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="fairytaleqa_stories.jsonl.gz: cannot be read"):
        write_fairytale(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "corpus").mkdir()
    import gzip

    path = tmp_path / "corpus" / "fairytaleqa_stories.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"id": "x", "split": "train"}).encode()))
    with pytest.raises(UserError, match=":1: no field 'sections'"):
        write_fairytale(tmp_path, tmp_path / "out")
