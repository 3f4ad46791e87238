"""Harvested records are what `anchortrain prepare` takes, and the prepared data is what it makes of them."""

import json

import numpy as np

from anchortrain.annotation import Tag
from anchortrain.data.prepare import prepare
from anchortrain.data.prepared import PreparedDataset
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.files import write_jsonl_atomic
from anchortrain.rehearsal.records import lengths, prepare_records, record


def test_prepared_data_equals_what_prepare_makes(data, tmp_path):
    plans = [(Tag("hero", "fox"), Tag("place", "São Paulo’s café")), (), (Tag("hero", "cat"), Tag("hero", "owl"))]
    texts = ["The fox ran.\n\nIt  slept; <ann> and </ann>.", "É bom.", "x"]
    prompts = ["", "Tell", "Go"]
    made = [
        record(f"r-{i}", p, t, z, {"run": "a"}) for i, (p, t, z) in enumerate(zip(prompts, texts, plans, strict=True))
    ]
    path = tmp_path / "records.jsonl"
    write_jsonl_atomic(path, made * 100)
    vocabulary = Vocabulary.from_path(data.vocabulary.path)
    ours = prepare_records(path, vocabulary, tmp_path / "ours", length=200)
    theirs = prepare("instructions", [path], data.vocabulary.path, tmp_path / "theirs", length=200)
    a, b = PreparedDataset(tmp_path / "ours"), PreparedDataset(tmp_path / "theirs")
    for i in range(len(a)):
        assert (a[i].tokens == b[i].tokens).all() and (a[i].roles == b[i].roles).all() and a[i].id == b[i].id
    mine, other = json.loads(ours.to_json()), json.loads(theirs.to_json())
    for name in ("versions", "shards"):  # the ArrayRecord file is compressed in an order of its own
        del mine[name], other[name]
    assert mine == other
    assert lengths(made, vocabulary) == np.asarray(a.lengths[:3]).tolist()
