"""`anchortrain sample` end to end, on a run with random parameters."""

import json

import pytest
from flax import nnx

import anchortrain.checkpoint
from anchortrain import cli
from anchortrain.checkpoint import LoadedRun, RunInfo
from anchortrain.config import ModelConfig
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.model.transformer import Transformer


@pytest.fixture
def run(tmp_path, monkeypatch) -> str:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"prompt": "Tell me.", "response": "The fox ran.", "annotation": {"hero": "fox"}}\n')
    train_tokenizer([corpus], vocab_size=270, out=tmp_path / "tokenizer.json")
    vocabulary = Vocabulary.from_path(tmp_path / "tokenizer.json")
    config = ModelConfig(d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16)
    info = RunInfo(vocabulary.hash, vocabulary.size, "tokenizer.json", ["hero"], 64)
    loaded = LoadedRun(Transformer(config, 384, rngs=nnx.Rngs(0)), vocabulary, None, info, 1)
    monkeypatch.setattr(anchortrain.checkpoint, "load_run", lambda path: loaded)
    return "run"


LIMITS = ["--max_annotation_tokens", "12", "--max_response_tokens", "20"]


def test_samples_are_written_going_round_the_prompts(run, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "samples.jsonl"
    prompts.write_text('{"prompt": "One?"}\n{"prompt": "Two?"}\n')
    argv = [
        "sample",
        run,
        "--prompt",
        "Three?",
        "--prompts",
        str(prompts),
        "-n",
        "7",
        "--constrain",
        "--jsonl",
        str(out),
    ]
    assert cli.main(argv + LIMITS) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["Three?", "One?", "Two?"] * 2 + ["Three?"]
    assert [row["index"] for row in rows] == list(range(7))
    assert all(row["annotation_wellformed"] for row in rows)
    captured = capsys.readouterr()
    assert captured.out == "" and "7 samples" in captured.err and "7 with well-formed annotations" in captured.err


def test_the_table_has_plans_beside_responses_and_nothing_that_a_terminal_obeys(run, capsys):
    assert cli.main(["sample", run, "--prompt", "Tell me.", "-n", "8", "--constrain", *LIMITS]) == 0
    out = capsys.readouterr().out
    assert "hero: " in out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("mode", ["--single_stage", "--document"])
def test_modes(run, tmp_path, mode):
    out = tmp_path / "samples.jsonl"
    prompt = [] if mode == "--document" else ["--prompt", "Tell me."]
    assert cli.main(["sample", run, *prompt, mode, "-n", "8", "--jsonl", str(out), *LIMITS]) == 0
    assert len(out.read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "there is no prompt"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "Hi", "-n", "0"], "-n must be at least 1"),
        (["--prompt", "Hi", "--document"], "without a prompt"),
        (["--prompt", "Hi", "--response_temperature", "-1"], "response_temperature"),
        (["--prompt", "Hi", "--single_stage", "--document"], "not allowed with"),
        (["--prompts", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_mistakes_end_in_one_line(run, capsys, argv, message):
    assert cli.main(["sample", run, *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
