"""Prepared directories of random tokens, for benchmarks that need data but no language."""

from pathlib import Path

import numpy as np

from anchortrain.data.prepared import Example, PreparedWriter
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.roles import Role

_ROLES = (Role.PROMPT, Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.TEXT)
_SHARES = (0.1, 0.1, 0.1, 0.7)  # of an instruction's tokens, in this order


def make_vocabulary(directory: Path) -> Vocabulary:
    """Bytes and controls, and whatever merges one sentence gives."""
    records, path = directory / "text.jsonl", directory / "tokenizer.json"
    records.write_text('{"id": "0", "text": "the fox ran to the mill and back"}\n', encoding="utf-8")
    train_tokenizer([records], vocab_size=300, out=path)
    return Vocabulary.from_path(path)


def write_instructions(
    directory: Path, vocabulary: Vocabulary, *, shortest: int, longest: int, examples: int, shards: int = 2
) -> str:
    """Annotated instructions with lengths uniform in `shortest`..`longest`; returns the directory."""
    rng = np.random.default_rng(0)
    settings = {"kind": "instructions", "annotated": True, "max_length": longest, "shards": shards}
    with PreparedWriter(directory, vocabulary=vocabulary, **settings) as writer:
        for number, length in enumerate(rng.integers(shortest, longest + 1, examples).tolist()):
            counts = np.maximum(1, (np.array(_SHARES) * length).astype(int))
            counts[-1] = length - counts[:-1].sum()
            tokens = rng.integers(7, vocabulary.size, length, dtype=np.int32)
            writer.add(Example(tokens, np.repeat(_ROLES, counts).astype(np.uint8), str(number)))
        writer.finish()
    return str(directory)
