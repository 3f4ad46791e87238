"""`prepare`: exact budgets, honest manifests, and nothing left behind on bad input."""

import argparse
import json

import numpy as np
import pytest

from anchortrain.commands import prepare as command
from anchortrain.data.prepare import losses, prepare
from anchortrain.data.prepared import PreparedDataset
from anchortrain.errors import UserError
from anchortrain.roles import Role
from tests.conftest import shared_data


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents and instructions, every tenth without annotation, one document too long for a row of 64."""
    root = tmp_path_factory.mktemp("corpus")
    documents, instructions = [], []
    for i in range(200):
        annotation = None if i % 10 == 9 else {"hero": "fox", "place": f"mill {i}"}
        documents.append({"text": f"the fox {i} ran\n\nto the mill", "annotations": [annotation, None]})
        instructions.append({"id": str(i), "prompt": "the fox", "response": f"ran {i}", "annotation": annotation})
    documents[3]["text"] = "ABCDEFGHIJ" * 12 + "\n\nend"
    for name, records in (("documents", documents), ("instructions", instructions)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


@pytest.fixture
def run(corpus, vocabulary, tmp_path):
    """run(name, **options) -> prepared data set, with rows of 64."""

    def make(name, kind="documents", **options):
        settings = {"length": 64} | options
        prepare(kind, [corpus / f"{kind}.jsonl"], vocabulary.path, tmp_path / name, **settings)
        return PreparedDataset(tmp_path / name)

    return make


def test_the_manifest_counts_what_is_there(run, vocabulary, capfd):
    dataset = run("d")
    manifest, examples = dataset.manifest, [dataset[i] for i in range(len(dataset))]
    assert capfd.readouterr().err.count("\n") == 1  # the progress line, and nothing of TensorFlow's
    assert (manifest.kind, manifest.annotated, manifest.max_length) == ("documents", True, 64)
    assert manifest.vocabulary_hash == vocabulary.hash and manifest.vocabulary_size == vocabulary.size
    roles = np.concatenate([example.roles for example in examples])
    assert manifest.tokens_by_role == {role.name: int((roles == role).sum()) for role in Role if role}
    windows = manifest.notes["windows"]
    assert windows >= 3 and manifest.examples == 199 + windows
    assert manifest.notes == {
        "records": 200, "unannotated": 20, "annotation_left_out": 0, "dropped": 0, "split": 1, "windows": windows,
    }  # fmt: skip
    keys = sum(int((example.tokens == vocabulary.ann_open).sum()) for example in examples)
    assert manifest.annotation_keys == {"hero": keys, "place": keys}
    assert manifest.sources[0]["records"] == 200 and len(manifest.sources[0]["sha256"]) == 64
    assert {"tensorflow", "seqio", "tokenizers"} <= manifest.versions.keys()
    assert examples[0].id == "documents.jsonl:1" and vocabulary.decode(examples[0].tokens[-5:]).endswith("mill")


def test_annotated_and_plain_have_the_same_tokens(run, vocabulary, tmp_path):
    plain = run("plain", annotated=False)
    assert plain.manifest.tokens_by_role["ANNOTATION_KEY"] == 0 and not plain.manifest.annotated
    matched, whole = run("matched", match=tmp_path / "plain", shards=2), run("whole")
    assert matched.manifest.tokens == plain.manifest.tokens == int(matched.lengths.sum())
    assert matched.manifest.notes["budget"] == plain.manifest.tokens
    assert matched.manifest.notes["records"] < 200
    # The same examples in the same order, the last one cut short.
    order = [*range(0, len(matched), 2), *range(1, len(matched), 2)]
    found = {at: matched[i] for i, at in enumerate(order)}
    for i in range(len(matched)):
        n = len(found[i].tokens)
        assert found[i].tokens.tolist() == whole[i].tokens[:n].tolist()
        assert n == len(whole[i].tokens) or i == len(matched) - 1
    assert run("few", tokens=100).manifest.tokens == 100
    with pytest.raises(UserError, match=f"the corpus has {plain.manifest.tokens} tokens, {10**6} are asked for"):
        run("many", annotated=False, tokens=10**6)
    assert run("exact", annotated=False, tokens=plain.manifest.tokens).manifest.tokens == plain.manifest.tokens


def test_instructions(run, vocabulary, capfd):
    dataset = run("i", kind="instructions", unannotated_share=0.5)
    manifest = dataset.manifest
    assert manifest.kind == "instructions" and manifest.examples == 200
    assert 60 < manifest.notes["annotation_left_out"] < 120 and manifest.notes["unannotated"] == 20
    assert manifest.annotation_keys["hero"] == 180 - manifest.notes["annotation_left_out"]
    capfd.readouterr()
    with pytest.raises(UserError, match=r"instructions\.jsonl:1: example '0' has \d+ tokens, the limit is 12"):
        run("long", kind="instructions", length=12)
    dropped = run("dropped", kind="instructions", length=16, long="drop").manifest
    assert dropped.notes["dropped"] == 180 and dropped.examples == 20 and dropped.notes["records"] == 200


def test_the_same_input_gives_the_same_files(run):
    first, second = run("a"), run("b")
    assert first.manifest == second.manifest


def test_bad_input_leaves_nothing_behind(corpus, vocabulary, tmp_path):
    good = corpus / "documents.jsonl"
    (tmp_path / "bad.jsonl").write_bytes(good.read_bytes() + b'{"text": 3}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "taken").mkdir()
    before = {path.name for path in tmp_path.iterdir()}

    def fails(message, *, inputs=(good,), tokenizer=vocabulary.path, out="out", kind="documents", **options):
        with pytest.raises(UserError, match=message):
            prepare(kind, list(inputs), tokenizer, tmp_path / out, **options)
        assert {path.name for path in tmp_path.iterdir()} == before

    fails(r"bad\.jsonl:201: field 'text' must be a string", inputs=[tmp_path / "bad.jsonl"])
    fails("missing.jsonl: cannot be read", inputs=[good, tmp_path / "missing.jsonl"])
    fails("empty.jsonl: empty corpus", inputs=[tmp_path / "empty.jsonl"])
    fails("cannot read the tokenizer", tokenizer=tmp_path / "missing.json")
    fails("--kind documents", kind="instructions")
    fails("taken: already exists", out="taken")
    fails("length must be at least 2", length=1)
    fails("tokens must be at least 1", tokens=0)
    fails("no such directory", match=tmp_path / "nothing")
    fails("instructions cannot be split", kind="instructions", long="split")
    fails(r"example 'documents\.jsonl:4' has \d+ tokens, the limit is 64", length=64, long="error")


def test_a_budget_is_only_matched_within_a_vocabulary(run, corpus, tmp_path):
    run("bpe")
    other = shared_data() / "tokenizers" / "sentencepiece_test_model_1000.model"
    with pytest.raises(UserError, match="prepared with another vocabulary"):
        prepare("documents", [corpus / "documents.jsonl"], other, tmp_path / "sp", match=tmp_path / "bpe")


def test_a_lossy_tokenizer_and_a_plain_corpus_are_warned_of(corpus, tmp_path, vocabulary, capfd):
    lossy = shared_data() / "tokenizers" / "simplestories-4096.tokenizer.json"
    prepare("documents", [corpus / "documents.jsonl"], lossy, tmp_path / "lossy")
    warning = capfd.readouterr().err
    assert "is lossy on this corpus; lost are" in warning
    for lost in ("newlines", "exact spaces", "'A'"):
        assert lost in warning
    (tmp_path / "p.jsonl").write_text('{"text": "the fox"}\n')
    prepare("documents", [tmp_path / "p.jsonl"], vocabulary.path, tmp_path / "p")
    assert "no record has an annotation; --plain" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "back", "lost"),
    [
        ("a", "a", []),
        ("a\n\nb", "a b", ["newlines"]),
        ("a  b", "a b", ["spaces"]),
        ("Fox {", "fox", ["spaces", "capital letters", "'{'"]),
        ("a: b", "a : b", ["exact spaces"]),
        ("ab", "ba", ["the order of characters"]),
    ],
)
def test_losses(text, back, lost):
    assert losses(text, back) == lost


def test_the_command(corpus, vocabulary, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = ["--kind", "documents", "--inputs", str(corpus / "documents.jsonl"), "--out", str(tmp_path / "out")]
    args = parser.parse_args([*arguments, "--tokenizer", str(vocabulary.path), "--plain", "--tokens", "500"])
    assert command.run(args) == 0
    assert " 500 tokens (TEXT 500), records " in capsys.readouterr().out
