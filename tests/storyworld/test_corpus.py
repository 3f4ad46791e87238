"""The files of a corpus: formats, determinism, and nothing half-written."""

import argparse
import hashlib
import json
import subprocess
import sys

import pytest

from anchortrain.annotation import from_json
from anchortrain.commands import storyworld as command
from anchortrain.errors import UserError
from anchortrain.storyworld import corpus
from anchortrain.storyworld.values import ATTRIBUTES
from anchortrain.storyworld.world import World

SMALL = corpus.Counts(documents=300, instructions=200, prompts=16)
FILES = {"pretrain.jsonl", "pretrain_heldout.jsonl", "sft.jsonl", "sft_heldout.jsonl", "prompts.jsonl", "world.json"}


def _read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _hashes(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "world"
    corpus.write(path, 0, SMALL)
    return path


def test_files_and_counts(directory):
    assert {path.name for path in directory.iterdir()} == FILES
    counts = {name: len(_read(directory / name)) for name in FILES - {"world.json"}}
    heldout = {"pretrain_heldout.jsonl": 500, "sft_heldout.jsonl": 500}
    assert counts == {"pretrain.jsonl": 300, "sft.jsonl": 200, "prompts.jsonl": 16} | heldout


@pytest.mark.parametrize("name", ["pretrain.jsonl", "pretrain_heldout.jsonl"])
def test_documents_follow_the_record_format(directory, name):
    records = _read(directory / name)
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert set(record) == {"id", "chunks"}
        annotated = [chunk for chunk in record["chunks"] if "annotation" in chunk]
        for chunk in annotated:
            assert set(chunk) == {"text", "annotation"}
            assert from_json(chunk["annotation"])
        assert sorted(tag.key for chunk in annotated for tag in from_json(chunk["annotation"])) == sorted(ATTRIBUTES)


@pytest.mark.parametrize("name", ["sft.jsonl", "sft_heldout.jsonl"])
def test_instructions_follow_the_record_format(directory, name):
    records = _read(directory / name)
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        assert set(record) == {"id", "prompt", "response", "annotation"}
        assert len(from_json(record["annotation"])) == 6


def test_assistant_form_never_occurs_in_documents(directory):
    world = World.load(directory / "world.json")
    for record in _read(directory / "pretrain.jsonl"):
        text = "".join(chunk["text"] for chunk in record["chunks"])
        assert world.parse(text).form == "document"
        assert "Once upon" not in text and "moral" not in text
    for record in _read(directory / "sft.jsonl"):
        assert world.parse(record["response"]) == (record["annotation"], "assistant")


def test_heldout_prompts_are_distinct_and_never_trained_on(directory):
    heldout = [record["prompt"] for record in _read(directory / "prompts.jsonl")]
    assert len(set(heldout)) == len(heldout) == 16
    assert not set(heldout) & {record["prompt"] for record in _read(directory / "sft.jsonl")}
    assert {record["prompt"] for record in _read(directory / "sft_heldout.jsonl")} <= set(heldout)
    assert len(set(corpus.split_prompts(0, 64)[1])) > 200


def test_prompts_name_no_attribute(directory):
    world = World.load(directory / "world.json")
    for prompt in sum(corpus.split_prompts(0, 64), []):
        assert set(world.parse(prompt).attributes.values()) == {None}


def test_heldout_documents_are_another_draw(directory):
    train, heldout = (
        {json.dumps(record["chunks"]) for record in _read(directory / name)}
        for name in ("pretrain.jsonl", "pretrain_heldout.jsonl")
    )
    assert not train & heldout


def test_a_pure_function_of_seed_and_counts(directory, tmp_path):
    corpus.write(tmp_path / "same", 0, SMALL)
    corpus.write(tmp_path / "other", 1, SMALL)
    hashes, other = _hashes(directory), _hashes(tmp_path / "other")
    assert _hashes(tmp_path / "same") == hashes
    assert not set(hashes.values()) & set(other.values())


def test_one_count_changes_no_other_file(directory, tmp_path):
    corpus.write(tmp_path / "more", 0, corpus.Counts(documents=400, instructions=200, prompts=16))
    before, after = _hashes(directory), _hashes(tmp_path / "more")
    assert {name for name in FILES if before[name] != after[name]} == {"pretrain.jsonl", "world.json"}


def test_refuses_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty.*--out"):
        corpus.write(tmp_path / "world", 0, SMALL)
    assert [path.name for path in (tmp_path / "world").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        corpus.write(tmp_path / "file", 0, SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"world", "file"}


def test_writes_into_an_empty_directory(tmp_path):
    (tmp_path / "empty").mkdir()
    corpus.write(tmp_path / "empty", 0, SMALL)
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_leaves_nothing_behind_when_writing_fails(tmp_path, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(World, "save", fail)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        corpus.write(tmp_path / "world", 0, SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    ["--documents 0", "--instructions -1", "--prompts 100000", "--narrowness 1.5", "--narrowness nan", "--seed -1"],
)
def test_wrong_counts_are_user_errors_that_name_the_flag(tmp_path, flags):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(UserError, match=flags.split()[0]):
        command.run(parser.parse_args(["--out", str(tmp_path / "world"), *flags.split()]))
    assert list(tmp_path.iterdir()) == []


def test_command_writes_a_corpus(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = ["--documents", "20", "--instructions", "10", "--prompts", "4", "--narrowness", "0.9", "--seed", "5"]
    assert command.run(parser.parse_args(["--out", str(tmp_path / "world"), *flags])) == 0
    record = json.loads((tmp_path / "world" / "world.json").read_text())
    assert record["seed"] == 5
    assert record["corpus"]["narrowness"] == 0.9
    world = World.load(tmp_path / "world" / "world.json")
    assert record["corpus"]["mean_instruction_bits"] == world.mean_instruction_bits(0.9)
    assert "20 documents" in capsys.readouterr().out


def test_importing_the_command_is_light():
    code = "import sys, anchortrain.commands.storyworld; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
