"""`anchortrain annotate` on the command line: options, what it tells, and what follows in the chain."""

import argparse
import gzip
import itertools
import json

import pytest

from anchortrain import cli
from anchortrain.commands import annotate as command
from anchortrain.data.records import read_documents, read_instructions
from tests.annotate.jobs import command as argv
from tests.annotate.jobs import error, run, tales, write
from tests.conftest import shared_data


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "tales.jsonl", tales(60))


def configuration(*options):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.configuration(parser.parse_args(["--inputs", "a", "--out", "b", *options]))


def test_options_are_bound_after_gin_files_and_bindings(tmp_path):
    (tmp_path / "a.gin").write_text("ChunkConfig.max_tokens = 100\nAnnotateConfig.seed = 1\nLlmConfig.model = 'x'\n")
    found = configuration(
        *("--gin_file", str(tmp_path / "a.gin"), "--gin_bindings", "AnnotateConfig.seed = 2"),
        *("--gin_bindings", "LlmConfig.model = 'y'"),
        *("--model", "z", "--labels", "genre", "author=meta.author", "--id_field", "", "--workers", "3"),
    )
    assert (found.chunk.max_tokens, found.annotate.seed, found.llm.model) == (100, 2, "z")
    assert found.labels.fields == {"genre": "genre", "author": "meta.author"}
    assert (found.source.id, found.annotate.workers, found.annotate.kind) == ("", 3, "documents")


def test_every_option_binds_a_field_that_there_is():
    texts = {"kind": "instructions", "labels": "a"}
    for option, name in command._BINDS.items():
        section, _, field = name.partition(".")
        number = option in ("workers", "seed", "min_tokens", "max_tokens")
        found = configuration(f"--{option}", "7" if number else texts.get(option, "word"))
        (owner,) = [one for one in vars(found).values() if type(one).__name__ == section]
        assert getattr(owner, field) == (
            7 if number else {"a": "a"} if option == "labels" else texts.get(option, "word")
        )


def test_what_it_tells(corpus, tmp_path, capsys):
    options = ["--annotator", "labels", "--labels", "genre", "--bad_records", "set_aside", "--min_tokens", "24"]
    with open(corpus, "a") as file:
        file.write("{\n")
    assert cli.main(["annotate", "--inputs", str(corpus), "--out", str(tmp_path / "a"), *options]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/a: 60 records, 120 chunks (120 annotated), 120 tags\n"
    assert err.startswith("index: ") and "annotate: 100% 120/120 chunks, " in err and " chunks/s, in " in err
    assert err.endswith(f"warning: 1 bad records were left out, see {tmp_path}/a/bad_records.jsonl\n")


MISTAKES = [
    (["--annotator", "labels"], "the labels annotator has neither fields nor a table; give --labels FIELD … or bind"),
    (["--annotator", "ofline"], "unknown annotator 'ofline'; did you mean 'offline'?"),
    (["--kind", "document"], "argument --kind: invalid choice: 'document'"),
    (["--format", "csv"], "AnnotateConfig.format: 'csv' is not allowed"),
    (["--workers", "many"], "argument --workers: invalid int value: 'many'"),
    (["--schema", "absent.toml"], "absent.toml: cannot read the schema: No such file or directory"),
    (["--labels", "Genre", "--annotator", "labels"], "LabelsConfig: annotation key 'Genre' must be lower-case"),
    (
        ["--text_field", "body"],
        "tales.jsonl:1: no field 'body' (there is 'id', 'text', 'genre'); name it: --text_field",
    ),
    (["--kind", "instructions"], "tales.jsonl:1: no field 'prompt' and no 'messages' (there is 'id', 'text', 'genre')"),
    (["--runner_options", "x"], "--runner_options needs --runner"),
    (["--gin_bindings", "AnnotateConfig.sed = 1"], "binding 'AnnotateConfig.sed = 1': unknown field 'sed'"),
    (["--tokenizer", "absent.json"], "absent.json: "),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(corpus, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["annotate", "--inputs", "tales.jsonl", "--out", "a", *options]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if not one.startswith("index: ")]
    assert line.startswith(f"anchortrain: error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["tales.jsonl"]


def test_as_a_process_with_one_line_for_an_error(tmp_path):
    assert error(run(argv(tmp_path / "absent.jsonl", tmp_path / "a"))) == (
        f"{tmp_path}/absent.jsonl: cannot be read: No such file or directory"
    )


def test_real_instructions_offline(tmp_path, capsys):
    with gzip.open(shared_data() / "sft" / "llms_from_scratch_instructions.jsonl.gz", "rt") as file:
        data = write(tmp_path / "a.jsonl", [json.loads(line) for line in itertools.islice(file, 300)])
    fields = ["--prompt_field", "instruction+input", "--response_field", "output", "--workers", "1"]
    out = str(tmp_path / "out")
    assert cli.main(["annotate", "--inputs", str(data), "--kind", "instructions", "--out", out, *fields]) == 0
    found = list(read_instructions([out]))
    assert len(found) == 300 and sum(bool(one.annotation) for one in found) > 150
    assert any("\n\n" in one.prompt for one in found)
    capsys.readouterr()


def test_tokenizer_prepare_and_inspect_take_the_product_as_it_is(corpus, tmp_path, capsys):
    outs = [str(tmp_path / format) for format in ("jsonl", "parquet")]
    for out in outs:
        options = [
            "--format",
            out.rpartition("/")[2],
            "--annotator",
            "labels",
            "--labels",
            "genre",
            "--min_tokens",
            "24",
        ]
        assert cli.main(["annotate", "--inputs", str(corpus), "--out", out, *options]) == 0
    first, second = (list(read_documents([out])) for out in outs)
    assert [one._replace(where="") for one in first] == [one._replace(where="") for one in second]
    tokenizer, prepared = str(tmp_path / "tokenizer.json"), str(tmp_path / "prepared")
    assert cli.main(["tokenizer", "--inputs", *outs, "--vocab_size", "400", "--out", tokenizer]) == 0
    options = ["--tokenizer", tokenizer, "--length", "512", "--out", prepared]
    assert cli.main(["prepare", "--kind", "documents", "--inputs", *outs, *options]) == 0
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    assert manifest["annotation_keys"] == {"genre": 240}
    assert [source["records"] for source in manifest["sources"]] == [60, 60]
    capsys.readouterr()
    assert cli.main(["inspect", prepared, "--rows", "1", "--no-color"]) == 0
    shown = capsys.readouterr().out
    assert "ANNOTATION_VALUE" in shown and "kind" in shown.replace("|", "")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--endpoint", "http://127.0.0.1:9/v1"], "--endpoint has no effect without --annotator llm"),
        (["--labels", "genre"], "--labels has no effect without --annotator labels"),
        (["--seed", str(2**32)], "AnnotateConfig.seed must be at most 4294967295"),
        (["--inputs", ""], "--inputs: an empty path"),
        (["--out", ""], "--out: an empty path"),
    ],
)
def test_what_would_have_no_effect_or_another_one_is_refused(tmp_path, capsys, options, message):
    corpus = write(tmp_path / "a.jsonl", tales(3))
    argv = ["annotate", "--inputs", str(corpus), "--out", str(tmp_path / "out"), *options]
    assert cli.main(argv) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(f"anchortrain: error: {message}") and captured.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_annotated_is_told(tmp_path, capsys):
    corpus = write(tmp_path / "a.jsonl", tales(3))
    argv = ["annotate", "--inputs", str(corpus), "--out", str(tmp_path / "out"), "--annotator", "labels"]
    assert cli.main([*argv, "--labels", "nowhere"]) == 0
    assert "warning: no chunk got a tag" in capsys.readouterr().err
