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
from anchortrain.roles import Role


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


def rows_of(capsys, *argv) -> list[dict]:
    assert cli.main(["sample", *argv, "--constrain", "--jsonl", *LIMITS]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_plans_are_steered(run, capsys):
    prompt = [run, "--prompt", "Tell me.", "-n", "4"]
    assert all(["hero", "fox"] in row["annotation"] for row in rows_of(capsys, *prompt, "--set", "hero=fox"))
    assert {row["annotation_text"] for row in rows_of(capsys, *prompt, "--plan", "hero: hen")} == {"hero: hen"}
    assert {row["annotation_text"] for row in rows_of(capsys, *prompt, "--plan", "")} == {""}
    begun = rows_of(capsys, *prompt, "--prefix", "hero: f", "--forbid", "hero=fox")
    assert all(row["annotation_text"].startswith("hero: f") and row["annotation_text"] != "hero: fox" for row in begun)


def test_sets(run, capsys):
    argv = [run, "--prompt", "Tell me.", "--prompt", "Tell us.", "-n", "6", "--responses", "2", "--distinct"]
    rows = rows_of(capsys, *argv)
    assert [row["prompt"] for row in rows] == ["Tell me."] * 6 + ["Tell us."] * 6
    for prompt in ("Tell me.", "Tell us."):
        tokens = {tuple(row["tokens"][: row["roles"].index(Role.TEXT)]) for row in rows if row["prompt"] == prompt}
        assert len(tokens) == 3 and all(0 < row["inclusion"] <= 1 for row in rows)


@pytest.mark.parametrize("how", [["--distinct"], ["--responses", "2"]])
def test_sets_of_several_prompts_are_drawn_with_numbers_of_their_own(run, capsys, how):
    """One plan a prompt: were the numbers the same, a model that hardly reads its prompt would plan always the same."""
    prompts = [part for i in range(12) for part in ("--prompt", f"Tell me {i}.")]
    rows = rows_of(capsys, run, *prompts, "-n", "12", *how)
    assert len({row["index"] for row in rows}) == len(rows)
    assert len({tuple(row["tokens"][: row["roles"].index(Role.TEXT)]) for row in rows}) > 4


def test_temperatures_and_baselines(run, capsys):
    rows = rows_of(capsys, run, "--prompt", "Tell me.", "-n", "3", "--temperatures", "0,1.5")
    assert [row["temperature"] for row in rows] == [0.0] * 3 + [1.5] * 3
    assert len({row["annotation_text"] + row["response"] for row in rows[:3]}) == 1
    assert cli.main(["sample", run, "--prompt", "Hi", "-n", "2", "--baseline", "list", *LIMITS]) == 0
    captured = capsys.readouterr()
    # A model with random parameters writes no list.
    assert captured.out == "" and "0 samples" in captured.err
    assert "2 were asked for; answers that hold no list count nothing" in captured.err


def test_a_table_comes_as_samples_are_finished(run, capsys, monkeypatch):
    from anchortrain.decode import sampler

    def broken(*args, **kwargs):
        for i, pair in enumerate(whole(*args, **kwargs)):
            if i == 20:
                raise KeyboardInterrupt
            yield pair

    whole = sampler.stream
    monkeypatch.setattr(sampler, "stream", broken)
    assert cli.main(["sample", run, "--prompt", "Tell me.", "-n", "64", *LIMITS]) == cli.EXIT_INTERRUPTED
    assert len(capsys.readouterr().out.splitlines()) > 3


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
        (["--prompt", "Hi", "--set", "hero"], "--set: a tag must read key=value"),
        (["--prompt", "Hi", "--forbid", "hero=a;b"], "contains the delimiter"),
        (["--prompt", "Hi", "--plan", "fox"], "--plan: a tag must read"),
        (["--prompt", "Hi", "--set", "villain=wolf"], "no key 'villain'; use one of its keys: hero"),
        (["--prompt", "Hi", "--set", "hero=fox", "--forbid", "hero=fox"], "fixed and forbidden"),
        (["--prompt", "Hi", "--set", "hero=fox", "--single_stage"], "in two stages only"),
        (["--prompt", "Hi", "--distinct", "--set", "hero=fox"], "distinct plans cannot be steered"),
        (["--prompt", "Hi", "--responses", "0"], "--responses: must be at least 1"),
        (["--prompt", "Hi", "--response_temperature", "-1"], "response_temperature"),
        (["--prompt", "Hi", "--single_stage", "--document"], "not allowed with"),
        (["--prompts", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_mistakes_end_in_one_line(run, capsys, argv, message):
    assert cli.main(["sample", run, *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
