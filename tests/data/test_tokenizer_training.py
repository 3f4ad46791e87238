"""The trained tokenizer is lossless, deterministic, and knows the corpus's words and annotations."""

import json

import pytest

from anchortrain.data.tokenizer_training import MIN_VOCAB_SIZE, train_tokenizer
from anchortrain.data.vocabulary import CONTROLS, Vocabulary
from anchortrain.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "mixed.jsonl"
    document = {"text": "A lantern glowed.\n\nThe badger slept.", "annotations": [{"object": "lantern"}, None]}
    instruction = {"prompt": "Who slept?", "response": "The badger slept <eos>.", "annotation": {"hero": "badger"}}
    path.write_text("\n".join(map(json.dumps, [document, instruction] * 50)))
    return path


def test_controls_come_first_and_words_are_whole(corpus, tmp_path):
    out = tmp_path / "tokenizer.json"
    size = train_tokenizer([corpus], vocab_size=1024, out=out)
    vocabulary = Vocabulary.from_path(out)
    assert [vocabulary.controls[name] for name in CONTROLS] == list(range(len(CONTROLS)))
    assert vocabulary.size == vocabulary.base_size == size < 1024
    # A value and the same word in running text are the same token.
    assert len(vocabulary.encode(" badger")) == 1
    assert vocabulary.encode(" badger")[0] in vocabulary.encode("The badger slept")
    assert len(vocabulary.encode("hero:")) == 2
    for text in ("  two  spaces\n\n\tand é 🦊\x00\r\n", "".join(CONTROLS)):
        assert vocabulary.decode(vocabulary.encode(text)) == text
        assert not vocabulary.control_ids & set(vocabulary.encode(text))


def test_the_size_is_met_and_the_file_is_always_the_same(corpus, tmp_path):
    for name in ("a.json", "b.json"):
        assert train_tokenizer([corpus], vocab_size=280, out=tmp_path / name) == 280
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_bad_input_leaves_nothing_behind(corpus, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text":\n')
    with pytest.raises(UserError, match="bad.jsonl:2: broken JSON"):
        train_tokenizer([tmp_path / "bad.jsonl"], vocab_size=300, out=tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=f"at least {MIN_VOCAB_SIZE}"):
        train_tokenizer([corpus], vocab_size=MIN_VOCAB_SIZE - 1, out=tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]
