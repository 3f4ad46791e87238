"""A tokenizer that knows a few words of tales."""

import json
from pathlib import Path

import pytest

from anchortrain.data.tokenizer_training import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    record = {"text": "The fox ran to the mill.\n\nIt slept.", "annotations": [{"topic": "fox"}, {}]}
    (folder / "corpus.jsonl").write_text(f"{json.dumps(record)}\n" * 4)
    train_tokenizer([folder / "corpus.jsonl"], vocab_size=300, out=folder / "tokenizer.json")
    return folder / "tokenizer.json"
