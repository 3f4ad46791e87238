"""`anchortrain sample` end to end, on a run with random parameters."""

import json
import os
import sys

import jax
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
    monkeypatch.setattr(anchortrain.checkpoint, "fingerprint", lambda path: str(path))
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
    assert "2 were asked for: answers that hold no list count nothing" in captured.err


def interrupt_after(monkeypatch, count: int) -> None:
    """Ctrl-C once so many samples are drawn."""
    from anchortrain.decode import sampler

    def broken(*args, **kwargs):
        for i, pair in enumerate(whole(*args, **kwargs)):
            if i == count:
                raise KeyboardInterrupt
            yield pair

    whole = sampler.stream
    monkeypatch.setattr(sampler, "stream", broken)


def test_a_table_comes_as_samples_are_finished(run, capsys, monkeypatch):
    interrupt_after(monkeypatch, 20)
    assert cli.main(["sample", run, "--prompt", "Tell me.", "-n", "64", *LIMITS]) == cli.EXIT_INTERRUPTED
    assert len(capsys.readouterr().out.splitlines()) > 3


KINDS = [
    [],
    ["--responses", "2", "--distinct"],
    ["--temperatures", "0.7,1.2", "--responses", "2"],
    ["--baseline", "list"],
]


@pytest.mark.parametrize("kind", KINDS, ids=["plain", "distinct", "temperatures", "baseline"])
def test_an_interrupted_file_is_taken_up_again(run, tmp_path, capsys, monkeypatch, kind):
    prompts = ["--prompt", "Tell me.", "--prompt", "Tell us.", "--prompt", "Tell them."]
    argv = ["sample", run, *prompts, "-n", "24", *kind, *LIMITS]
    whole, file = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert cli.main([*argv, "--jsonl", str(whole)]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 20)
        code = cli.main([*argv, "--jsonl", str(file)])
    error = capsys.readouterr().err
    assert not file.exists() or code == 0
    left = tmp_path / "cut.jsonl.unfinished"
    if code == cli.EXIT_INTERRUPTED and left.exists():
        assert "are kept, the same command goes on from there" in error
        with open(left, "ab") as cut:  # killed while it wrote
            cut.write(b'{"part": 7, "rows": [{"prom')
        before = left.read_bytes()
        assert cli.main([*argv, "--seed", "1", "--jsonl", str(file)]) == 2
        assert (
            "holds rows of a request with other seed;" in capsys.readouterr().err
            and left.read_bytes() == before.rpartition(b"\n")[0] + b"\n"
        )
    assert cli.main([*argv, "--jsonl", str(file)]) == 0
    rows, expected = ([json.loads(line) for line in path.read_text().splitlines()] for path in (file, whole))
    for row, other in zip(rows, expected, strict=True):
        for name in [name for name in row if name.endswith("_logprob")]:
            assert row.pop(name) == pytest.approx(other.pop(name), abs=1e-3)
        assert row == other
    assert not left.exists()


def test_a_file_that_cannot_be_written_is_said_before_anything_is_drawn(run, tmp_path, capsys, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(anchortrain.checkpoint, "load_run", never)
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "file" / "out.jsonl", "cannot write")):
        assert cli.main(["sample", run, "--prompt", "Hi", "--jsonl", str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_lack_of_memory_is_said_in_one_line(run, capsys, monkeypatch):
    from anchortrain.decode import sampler

    def exhausted(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9719123968 bytes.")

    monkeypatch.setattr(sampler, "stream", exhausted)
    assert cli.main(["sample", run, "--prompt", "Hi", *LIMITS]) == 2
    assert "out of memory; shorten the prompts, or lower --batch_size" in capsys.readouterr().err


def test_prompts_are_not_replaced_by_samples(run, tmp_path, capsys):
    prompts, link = tmp_path / "prompts.jsonl", tmp_path / "link.jsonl"
    prompts.write_text('{"prompt": "One?"}\n')
    link.symlink_to(prompts)
    for one in (prompts, link):
        assert cli.main(["sample", run, "--prompts", str(prompts), "-n", "1", "--jsonl", str(one)]) == 2
        assert "the prompts would be lost" in capsys.readouterr().err
    assert prompts.read_text() == '{"prompt": "One?"}\n'


def test_a_sample_that_cannot_do_without_a_forbidden_tag_does_not_stop_the_others(run, capsys, monkeypatch):
    from anchortrain.decode import stream

    monkeypatch.setattr(stream, "ATTEMPTS", 1)
    argv = ["sample", run, "--prompt", "Hi", "-n", "24", "--jsonl", *LIMITS]
    assert cli.main([*argv, "--prefix", "hero: f"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    common = max({row["annotation_text"] for row in rows}, key=[row["annotation_text"] for row in rows].count)
    left = [row for row in rows if row["annotation_text"] != common]
    forbid = ["--prefix", "hero: f", "--forbid", common.replace(": ", "=")]
    assert cli.main([*argv, *forbid]) == (0 if left else 2)
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["index"] for row in found] == [row["index"] for row in left]
    assert f"24 were asked for: none of 1 plans was without '{common}'" in captured.err


def test_a_file_stays_where_all_samples_are_refused(run, tmp_path, capsys):
    file = tmp_path / "samples.jsonl"
    argv = ["sample", run, "--prompt", "Hi", "-n", "2", "--annotation_temperature", "0", "--jsonl", str(file), *LIMITS]
    assert cli.main([*argv, "--prefix", "hero: f"]) == 0
    before = file.read_text()
    tag = json.loads(before.splitlines()[0])["annotation_text"].replace(": ", "=")
    capsys.readouterr()
    assert cli.main([*argv, "--prefix", "hero: f", "--forbid", tag]) == 2
    assert "none of 256 plans was without" in capsys.readouterr().err
    assert file.read_text() == before and not (tmp_path / "samples.jsonl.unfinished").exists()


def test_the_table_tells_prompts_and_temperatures_apart(run, capsys):
    argv = ["sample", run, "--prompt", "Hi", "--prompt", "Ho", "-n", "2", "--temperatures", "0.5,1", *LIMITS]
    assert cli.main(argv) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("-- ")]
    assert heads == [f"-- temperature {t}: {prompt}" for t in ("0.5", "1") for prompt in ("Hi", "Ho")]


def test_a_closed_standard_output_is_no_fault(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["sample", run, "--prompt", "Hi", "-n", "1", "--jsonl", str(tmp_path / "a.jsonl"), *LIMITS]) == 0


def test_prompts_come_through_a_pipe(run, capsys):
    """A new process, for a standard input of its own."""
    reading, writing = os.pipe()
    os.write(writing, b'{"prompt": "One?"}\n{"prompt": "Two?"}\n')
    os.close(writing)
    rows = rows_of(capsys, run, "--prompts", f"/dev/fd/{reading}", "-n", "4")
    os.close(reading)
    assert [row["prompt"] for row in rows] == ["One?", "Two?"] * 2


def test_what_will_hardly_be_wanted_is_said(run, capsys):
    def said(*argv) -> str:
        rows_of_argv = ["sample", run, *argv, "--jsonl", *LIMITS]
        assert cli.main(rows_of_argv) == 0
        return capsys.readouterr().err

    assert "more than the 64 of a row in training" in said("--prompt", "fox " * 200, "-n", "1")
    assert "-n 1 is less than the 2 prompts" in said("--prompt", "Hi", "--prompt", "Ho", "-n", "1")
    assert "1 sample, " in said("--prompt", "Hi", "-n", "1")
    assert "warning" not in said("--prompt", "Hi", "-n", "1", "--plan", "hero: fox")
    alone = ["--prompt", "Hi", "-n", "1", "--single_stage"]
    assert "drawn: --annotation_top_k, --constrain changes nothing" in said(
        *alone, "--constrain", "--annotation_top_k", "3"
    )
    assert "warning" not in said(*alone)
    few = said("--prompt", "Hi", "-n", "40", "--distinct", "--annotation_top_k", "1")
    assert "40 were asked for: there are no more plans, with these settings" in few


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
        (["--prompt", "Hi", "--prompt", " "], "the prompt is empty"),
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
        (["--prompt", "\udcff"], "--prompt: is not UTF-8 text"),
        (["--prompt", "Hi", "--set", "hero=\udcff"], "--set: is not UTF-8 text"),
        (["--prompt", "Hi", "--temperatures", "1,0.5,1"], "a temperature is given twice"),
        (["--prompt", "Hi", "--temperatures", "1,2", "--annotation_temperature", "2"], "give one of the two"),
    ],
)
def test_mistakes_end_in_one_line(run, capsys, argv, message):
    assert cli.main(["sample", run, *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
