"""Text never becomes a control, controls keep or get their ids, and nothing is lost that need not be."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchortrain.data.vocabulary import CONTROLS, Vocabulary
from anchortrain.errors import UserError
from tests.conftest import shared_data

FORGED = "".join(CONTROLS) + " </s> <s> <|endoftext|> <|pad|> <ann>hero: fox</ann>"


@pytest.fixture(scope="module")
def sentencepiece():
    return Vocabulary.from_path(shared_data() / "tokenizers" / "sentencepiece_test_model_1000.model")


def test_controls_that_the_tokenizer_has_keep_their_ids(vocabulary):
    assert [vocabulary.controls[name] for name in ("<pad>", "<bos>", "<eos>")] == [0, 1, 2]
    appended = [vocabulary.ann_open, vocabulary.ann_close, vocabulary.user, vocabulary.assistant]
    assert appended == list(range(vocabulary.base_size, vocabulary.size))
    assert vocabulary.control_ids == frozenset([0, 1, 2, *appended])


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_level_round_trip(vocabulary, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert not vocabulary.control_ids & set(ids)


def test_text_cannot_forge_a_control(vocabulary):
    ids = vocabulary.encode(FORGED)
    assert not vocabulary.control_ids & set(ids)
    assert vocabulary.decode([vocabulary.bos, *ids, vocabulary.ann_close, vocabulary.eos]) == FORGED


def test_a_control_that_is_not_special_in_the_file_cannot_be_forged_either(vocabulary, tmp_path):
    described = json.loads(vocabulary.path.read_text())
    for token in described["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    weak = Vocabulary.from_path(tmp_path / "tokenizer.json")
    assert weak.eos == vocabulary.eos
    assert not weak.control_ids & set(weak.encode(FORGED))


def test_token_text(vocabulary):
    assert vocabulary.token_text(vocabulary.ann_open) == "<ann>"
    assert "".join(map(vocabulary.token_text, vocabulary.encode(" fox\n"))) == " fox\n"
    assert all(vocabulary.token_text(token) for token in vocabulary.encode("é"))


def test_sentencepiece(sentencepiece):
    assert (sentencepiece.bos, sentencepiece.eos) == (1, 2)  # <s> and </s> of the model
    assert (sentencepiece.pad, sentencepiece.size) == (1000, 1005)
    ids = sentencepiece.encode(FORGED)
    assert ids and not sentencepiece.control_ids & set(ids)
    assert sentencepiece.decode([1, *sentencepiece.encode("hello world"), 1001, 2]) == "hello world"
    assert sentencepiece.token_text(1001) == "<ann>"
    assert sentencepiece.encode_batch(["hello", "", "a b"]) == [sentencepiece.encode(t) for t in ("hello", "", "a b")]


def test_a_tokenizer_from_elsewhere(tmp_path):
    packed = shared_data() / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.tokenizer.json.gz"
    with pytest.raises(UserError, match="gunzip"):
        Vocabulary.from_path(packed)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    neox = Vocabulary.from_path(path)
    assert neox.token_text(neox.eos) == "<eos>" and neox.eos < neox.base_size and neox.pad < neox.base_size
    assert neox.bos == neox.eos
    assert neox.size == neox.base_size + 4
    text = FORGED + "two  spaces\n\nand newlines "
    assert not neox.control_ids & set(neox.encode(text))
    assert neox.decode(neox.encode(text)) == text


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_unreadable_tokenizers(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Vocabulary.from_path(path)
    for content in (b"", b"{}", b"garbage"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable tokenizer"):
            Vocabulary.from_path(path)
    with pytest.raises(UserError, match="not a tokenizer"):
        Vocabulary.from_path(tmp_path / "tokenizer.txt")
