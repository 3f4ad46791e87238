"""The on-disk format: round trip, atomicity, and damage that is found."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from anchortrain.data.prepared import (
    Example,
    PreparedDataset,
    PreparedWriter,
    check_compatible,
    decode_record,
    encode_record,
)
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.roles import Role


def equal(a: Example, b: Example) -> bool:
    return a.id == b.id and np.array_equal(a.tokens, b.tokens) and np.array_equal(a.roles, b.roles)


def new_writer(directory, vocabulary, **settings) -> PreparedWriter:
    return PreparedWriter(directory, kind="documents", annotated=True, vocabulary=vocabulary, max_length=99, **settings)


def test_record_bytes_are_as_documented():
    record = encode_record(Example(np.array([7, 300], np.int32), np.array([1, 4], np.uint8), "é"))
    assert record == b"\x02\0\0\0" + b"\x07\0\0\0" + b"\x2c\x01\0\0" + b"\x01\x04" + "é".encode()
    decoded = decode_record(record)
    assert decoded.tokens.tolist() == [7, 300] and decoded.roles.tolist() == [1, 4] and decoded.id == "é"
    assert decoded.tokens.dtype == np.int32 and decoded.roles.dtype == np.uint8


@pytest.mark.parametrize(
    "record", [b"", b"\x01", b"\x02\0\0\0\x07\0\0\0\x01", b"\0\0\0\0", b"\xff\xff\xff\xff" + b"a" * 99]
)
def test_bytes_that_are_no_record(record):
    with pytest.raises(ValueError):
        decode_record(record)


@pytest.mark.parametrize("shards", [1, 3])
def test_round_trip(tmp_path, write, shards, make):
    rng = np.random.default_rng(1)
    examples = [make.numbered(rng, i, n) for i, n in enumerate(rng.integers(1, 50, 20))]
    dataset = PreparedDataset(write(tmp_path / "a", examples, shards=shards))
    in_order = [examples[i] for shard in range(shards) for i in range(shard, 20, shards)]
    assert len(dataset) == 20
    assert dataset.lengths.tolist() == [len(example.tokens) for example in in_order]
    assert all(equal(dataset[i], in_order[i]) for i in range(20))
    some = [19, 0, 7, 7]
    assert all(equal(a, in_order[i]) for a, i in zip(dataset.__getitems__(some), some, strict=True))
    with pytest.raises(IndexError):
        dataset[20]


def test_manifest_describes_the_directory(tmp_path, vocabulary):
    example = Example(np.arange(5, dtype=np.int32), np.array([1, 2, 3, 3, 4], np.uint8), "x")
    sources = [{"path": "x.jsonl", "sha256": "00", "records": 1}]
    with new_writer(tmp_path / "a", vocabulary, sources=sources) as writer:
        writer.add(example, ["hero", "hero", "place"])
        written = writer.finish(split="train")
    manifest = PreparedDataset(tmp_path / "a").manifest
    assert manifest == written
    assert (manifest.kind, manifest.annotated, manifest.max_length) == ("documents", True, 99)
    assert (manifest.examples, manifest.tokens) == (1, 5)
    assert manifest.tokens_by_role == {"PROMPT": 1, "ANNOTATION_KEY": 1, "ANNOTATION_VALUE": 2, "TEXT": 1}
    assert manifest.annotation_keys == {"hero": 2, "place": 1}
    assert manifest.notes == {"split": "train"} and manifest.sources == sources
    assert (manifest.vocabulary_hash, manifest.vocabulary_size) == (vocabulary.hash, vocabulary.size)
    (shard,) = manifest.shards
    assert shard["sha256"] == hashlib.sha256((tmp_path / "a" / shard["file"]).read_bytes()).hexdigest()
    assert "numpy" in manifest.versions


def test_vocabulary_comes_from_the_copy(tmp_path, write, vocabulary, make):
    rng = np.random.default_rng(0)
    moved = tmp_path / "moved"
    shutil.move(write(tmp_path / "a", [make.numbered(rng, 0, 5)]), moved)
    copy = PreparedDataset(moved).vocabulary
    assert copy.path.parent == moved and copy.hash == vocabulary.hash


def test_a_failed_write_leaves_nothing(tmp_path, vocabulary, make):
    with pytest.raises(RuntimeError, match="boom"), new_writer(tmp_path / "a", vocabulary) as writer:
        writer.add(make.numbered(np.random.default_rng(0), 0, 5))
        assert not (tmp_path / "a").exists() and (tmp_path / "a.partial").exists()
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_data_set_is_refused_and_leaves_nothing(tmp_path, vocabulary):
    with pytest.raises(UserError, match="no examples"), new_writer(tmp_path / "a", vocabulary) as writer:
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_partial_of_a_killed_process_is_replaced(tmp_path, write, make):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "junk").write_text("x")
    write(tmp_path / "a", [make.numbered(np.random.default_rng(0), 0, 5)])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not (tmp_path / "a" / "junk").exists()


def test_an_existing_directory_is_never_overwritten(tmp_path, vocabulary):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="already exists"):
        new_writer(tmp_path / "a", vocabulary)


@pytest.mark.parametrize(
    "tokens, roles",
    [([1, 2], [1]), ([], []), ([-1], [4]), ([10**6], [4]), ([1], [Role.PAD]), ([1], [5])],
)
def test_inconsistent_examples_are_refused(tmp_path, vocabulary, tokens, roles):
    with new_writer(tmp_path / "a", vocabulary) as writer, pytest.raises(ValueError):
        writer.add(Example(np.array(tokens, np.int32), np.array(roles, np.uint8), "x"))


def test_an_example_over_the_limit_is_refused(tmp_path, vocabulary, make):
    with new_writer(tmp_path / "a", vocabulary) as writer, pytest.raises(UserError, match="100 tokens, at most 99"):
        writer.add(make.numbered(np.random.default_rng(0), 0, 100))


@pytest.fixture
def prepared(tmp_path, write, make):
    rng = np.random.default_rng(0)
    return tmp_path / write(tmp_path / "a", [make.numbered(rng, i, 400) for i in range(200)], shards=2)


def test_missing_directory_and_other_directories(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        PreparedDataset(tmp_path / "none")
    with pytest.raises(UserError, match="not a prepared directory"):
        PreparedDataset(tmp_path)


def _manifest(directory, **changes) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


SHARD = "data-00001-of-00002.arrayrecord"


@pytest.mark.parametrize(
    "damage, where",
    [
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json"),
        (lambda d: (d / "manifest.json").write_text("[]"), "manifest.json"),
        (lambda d: _manifest(d, format=1), "manifest.json"),
        (lambda d: _manifest(d, kind="cats"), "manifest.json"),
        (lambda d: _manifest(d, examples="many"), "'examples'"),
        (lambda d: _manifest(d, extra=1), "'extra'"),
        (lambda d: _manifest(d, examples=201), "lengths.npy"),
        (lambda d: (d / "lengths.npy").unlink(), "lengths.npy"),
        (lambda d: _truncate(d / "lengths.npy"), "lengths.npy"),
        (lambda d: np.save(d / "lengths.npy", np.full(200, 401, np.uint32)), "lengths.npy"),
        (lambda d: np.save(d / "lengths.npy", np.full(200, 400.0)), "lengths.npy"),
        (lambda d: np.save(d / "lengths.npy", np.array([None] * 200), allow_pickle=True), "lengths.npy"),
        (lambda d: (d / SHARD).unlink(), SHARD),
        (lambda d: _truncate(d / SHARD), SHARD),
        (lambda d: (d / SHARD).write_bytes(b""), SHARD),
        (lambda d: (d / SHARD).write_bytes(b"text" * 9999), SHARD),
    ],
)
def test_damage_is_found_on_opening(prepared, damage, where):
    damage(prepared)
    with pytest.raises(UserError, match=where):
        PreparedDataset(prepared)


def test_damage_inside_a_shard_is_found_on_reading(prepared):
    content = bytearray((prepared / SHARD).read_bytes())
    middle = len(content) // 3
    content[middle : middle + 30_000] = bytes(30_000)
    (prepared / SHARD).write_bytes(content)
    with pytest.raises(UserError, match=SHARD):
        PreparedDataset(prepared).__getitems__(range(200))


def test_lengths_that_do_not_fit_the_records_are_found_on_reading(prepared):
    lengths = np.full(200, 400, np.uint32)
    lengths[:2] = 399, 401
    np.save(prepared / "lengths.npy", lengths)
    with pytest.raises(UserError, match="not as long as"):
        PreparedDataset(prepared)[0]


def test_a_missing_or_swapped_vocabulary_is_found(prepared):
    (prepared / "tokenizer.json").write_text((prepared / "tokenizer.json").read_text() + "\n")
    with pytest.raises(UserError, match="not the vocabulary"):
        _ = PreparedDataset(prepared).vocabulary
    (prepared / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="missing"):
        _ = PreparedDataset(prepared).vocabulary


def test_check_compatible(tmp_path, write, vocabulary, make):
    rng = np.random.default_rng(0)
    other_file = tmp_path / "other.json"
    other_file.write_text(vocabulary.path.read_text() + "\n")
    a = PreparedDataset(write(tmp_path / "a", [make.numbered(rng, 0, 50)]))
    b = PreparedDataset(write(tmp_path / "b", [make.numbered(rng, 0, 51)], vocabulary=Vocabulary.from_path(other_file)))
    check_compatible([a, a], length=50)
    with pytest.raises(UserError, match="another vocabulary") as error:
        check_compatible([a, b], length=60)
    assert str(a.directory) in str(error.value) and str(b.directory) in str(error.value)
    with pytest.raises(UserError, match="50 tokens, but rows are 49 long"):
        check_compatible([a], length=49)
