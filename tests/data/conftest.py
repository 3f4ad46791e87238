"""A tiny vocabulary and prepared data sets for the tests of this folder."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from anchortrain.annotation import pieces
from anchortrain.data.prepared import Example, PreparedWriter
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.roles import Role


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Vocabulary:
    """Byte-level BPE trained on a sentence or two, with three of the controls; the others are appended."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(["the fox ran to the mill; hero: fox; place: mill"] * 4, trainer)
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    tokenizer.save(str(path))
    return Vocabulary.from_path(path)


def _interleaved(vocabulary: Vocabulary, *parts, id: str = "") -> Example:
    """An example of hand-written parts: (text or control id, role)."""
    tokens, roles = [], []
    for content, role in parts:
        ids = [content] if isinstance(content, int) else vocabulary.encode(content)
        tokens += ids
        roles += [role] * len(ids)
    return Example(np.array(tokens, np.int32), np.array(roles, np.uint8), id)


def _instruction(vocabulary: Vocabulary, prompt: str, annotation, response: str, id: str = "") -> Example:
    """<user> prompt <assistant> [<ann> … </ann>] response <eos>"""
    parts = [(vocabulary.user, Role.PROMPT), (prompt, Role.PROMPT), (vocabulary.assistant, Role.PROMPT)]
    if annotation is not None:
        parts += [(vocabulary.ann_open, Role.ANNOTATION_KEY), *pieces(annotation)]
        parts += [(vocabulary.ann_close, Role.ANNOTATION_KEY)]
    return _interleaved(vocabulary, *parts, (response, Role.TEXT), (vocabulary.eos, Role.TEXT), id=id)


def _numbered(rng: np.random.Generator, number: int, length: int, roles=(1, 2, 3, 4)) -> Example:
    """Random tokens below 256; the id is `number`. Roles are random, the first is PROMPT."""
    drawn = rng.choice(roles, length).astype(np.uint8)
    drawn[0] = Role.PROMPT
    return Example(rng.integers(0, 256, length).astype(np.int32), drawn, str(number))


@pytest.fixture(scope="session")
def make(vocabulary) -> SimpleNamespace:
    """Makers of examples: `interleaved(*parts)`, `instruction(prompt, annotation, response)`, `numbered(rng, i, n)`."""
    return SimpleNamespace(
        interleaved=partial(_interleaved, vocabulary), instruction=partial(_instruction, vocabulary), numbered=_numbered
    )


@pytest.fixture(scope="session")
def write(vocabulary):
    """write(directory, examples, kind=…, annotated=…, shards=…) -> directory as a string."""

    def write_dataset(directory, examples, *, kind="instructions", annotated=True, shards=1, vocabulary=vocabulary):
        settings = {"kind": kind, "annotated": annotated, "max_length": 512, "shards": shards}
        with PreparedWriter(directory, vocabulary=vocabulary, **settings) as writer:
            for example in examples:
                writer.add(example, ["hero"] if Role.ANNOTATION_VALUE in example.roles else [])
            writer.finish()
        return str(directory)

    return write_dataset


@pytest.fixture(scope="session")
def story_like(tmp_path_factory, write) -> dict[str, str]:
    """Directories of 500 instructions of 30-90 tokens and 400 documents of 60-120, in two shards each."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("story_like")
    instructions = [_numbered(rng, i, n) for i, n in enumerate(rng.integers(30, 91, 500))]
    documents = [_numbered(rng, i, n) for i, n in enumerate(rng.integers(60, 121, 400))]
    return {
        "instructions": write(root / "instructions", instructions, shards=2),
        "documents": write(root / "documents", documents, kind="documents", shards=2),
    }
