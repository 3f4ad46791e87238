"""`anchortrain inspect`: what it prints is what the loader gives, readable without a terminal, safe in one."""

import argparse
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from anchortrain.annotation import Tag
from anchortrain.commands import inspect as command
from anchortrain.config import DataConfig, LossConfig
from anchortrain.data.inspection import inspect_sources, print_report, visible
from anchortrain.data.loader import make_loader
from anchortrain.errors import UserError
from anchortrain.roles import Role

HOSTILE = "[red]bold[/red] \x1b[31m\x1b]0;title\x07 \u202ereversed\u202c \r\n\ttail [/] <ann>"
SETTINGS = {"length": 128, "objective": "masked", "syntax_share": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, write, make) -> str:
    annotation = (Tag("hero", "[link=x]fox"),)
    examples = [make.instruction(f"tell {i}?", annotation, HOSTILE, id=f"[b]{i}\x1b[2J") for i in range(5)]
    return write(tmp_path_factory.mktemp("hostile") / "a", examples)


def run(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(arguments)))


def test_visible_hides_nothing():
    assert visible("a\nb\tc\rd") == "a⏎b⇥c␍d"
    assert visible("\x1b[31m\x00\x7f\x9b\u202e\u2028\ud800é狐") == (
        "\\u{1b}[31m\\u{0}\\u{7f}\\u{9b}\\u{202e}\\u{2028}\\u{d800}é狐"
    )


def test_rows_are_what_the_loader_gives(story_like):
    sources = {story_like["instructions"]: 2.0, story_like["documents"]: 1.0}
    report = inspect_sources(sources, rows=3, **SETTINGS)
    batch = next(make_loader(sources, batch_rows=4, **SETTINGS))
    for r, row in enumerate(report["rows"]):
        for number, segment in enumerate(row["segments"], 1):
            slots = batch["segment_ids"][r] == number
            assert segment["tokens"] == batch["targets"][r, slots].tolist()
            assert segment["loss_weights"] == batch["loss_weights"][r, slots].tolist()
            assert segment["anchor"] == batch["anchor_positions"][r, slots].tolist()
            assert segment["roles"] == [Role(role).name for role in batch["target_roles"][r, slots]]
            assert segment["start"] == np.flatnonzero(slots)[0]
        assert row["padding"] == (batch["segment_ids"][r] == 0).sum()


def test_statistics(tmp_path, write, make):
    examples = [make.instruction("a", (Tag("hero", "fox"),) * i, "b" * 10 * (i + 1), id=str(i)) for i in range(1, 4)]
    report = inspect_sources({write(tmp_path / "a", examples): 3.0}, rows=1, **SETTINGS)
    (source,) = report["sources"]
    lengths = [len(example.tokens) for example in examples]
    roles = np.concatenate([example.roles for example in examples])
    assert source["share"] == 1.0 and source["examples"] == 3 and source["tokens"] == sum(lengths)
    assert source["tokens_per_example"] == pytest.approx(
        {"min": min(lengths), "median": np.median(lengths), "p95": np.percentile(lengths, 95), "max": max(lengths)}
    )
    assert source["tokens_by_role"]["ANNOTATION_VALUE"] == (roles == Role.ANNOTATION_VALUE).sum()
    assert source["trained_share"] == pytest.approx((roles == Role.TEXT).mean())
    assert source["annotation_keys"] == {"hero": 3}
    packing = report["packing"]
    assert 0.8 < packing["fill"] <= 1 and packing["syntax_examples"] == 0
    assert packing["trained_share"] == pytest.approx((roles == Role.TEXT).mean(), abs=0.05)


def test_plain_output_shows_weights_roles_and_anchors(tmp_path, write, make, capsys):
    path = write(tmp_path / "a", [make.instruction("tell\n", (Tag("hero", "fox"),), "the fox ran", id="tale 7")])
    assert run(path, "--rows", "1", "--length", "40") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("tale 7 [masked]" in line and "after <bos>" in line for line in lines)
    spans = [line.split(None, 3) for line in lines if " w " in line and line[:6].strip().isdigit()]
    shown = [(role, mark.removeprefix("w ").strip()) for _, role, _, mark in (s for s in spans)]
    shown = [(role, "".join(rest.replace("|", "").split())) for role, rest in shown]
    assert shown[:5] == [
        ("PROMPT", "0<user>tell⏎<assistant>"),
        ("ANNOTATION_KEY", "0<ann>"),
        ("ANNOTATION_KEY", "0Ahero:"),
        ("ANNOTATION_VALUE", "0Afox"),
        ("ANNOTATION_KEY", "0A</ann>"),
    ]
    assert shown[5] == ("TEXT", "1thefoxran<eos>")


def test_hostile_text_stays_text(hostile, capsys):
    for arguments in ([hostile], [hostile, "--json"], [hostile, "--no-color"]):
        assert run(*arguments) == 0
        out = capsys.readouterr().out
        assert not [character for character in out if character != "\n" and visible(character) != character]


def test_colour_keeps_markup_of_the_corpus_as_text(hostile, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_report(inspect_sources({hostile: 1.0}, rows=1, **SETTINGS), colour=True)
    out = capsys.readouterr().out
    assert "[red]bold[/red]" in out and "[link=x]fox" in out and "[b]" in out
    assert "\x1b[" in out  # our own colours
    assert "\x1b[2J" not in out and "\x1b]" not in out and "\u202e" not in out and "\r" not in out


def test_json(story_like, capsys):
    assert run(story_like["instructions"], f"{story_like['documents']}=3", "--rows", "1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [source["share"] for source in report["sources"]] == [0.25, 0.75]
    assert len(report["rows"]) == 1 and report["settings"]["length"] == 128


def test_rows_grow_to_the_longest_example(tmp_path, write, make, capsys):
    path = write(tmp_path / "a", [make.numbered(np.random.default_rng(0), 0, 300)])
    assert run(path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["length"] == 300


def test_bad_input(story_like, tmp_path):
    path = story_like["documents"]
    for arguments, message in [
        ([], "nothing to inspect"),
        ([str(tmp_path / "none")], "no such directory"),
        ([str(tmp_path)], "not a prepared directory"),
        ([f"{path}=much"], "weight must be a number"),
        ([f"{path}=0"], "weight must be a positive number"),
        ([f"{path}=1", f"{path}=2"], "named twice"),
        ([path, "--length", "20"], "but rows are 20 long"),
        ([path, "--length", "0"], "positive"),
    ]:
        with pytest.raises(UserError, match=message):
            run(*arguments)


def test_data_and_objective_come_from_gin_files_unless_given(story_like, monkeypatch, capsys):
    def load(gin_files, bindings):
        assert (gin_files, bindings) == (["a.gin"], ["x = 1"])
        data = DataConfig(train={story_like["instructions"]: 1.0}, length=200, seed=5)
        return SimpleNamespace(data=data, loss=LossConfig(objective="unmasked"))

    monkeypatch.setitem(sys.modules, "anchortrain.experiment", SimpleNamespace(load=load))
    gin = ["--json", "--gin_file", "a.gin", "--gin_bindings", "x = 1"]
    run(*gin)
    report = json.loads(capsys.readouterr().out)
    assert report["settings"] == {"length": 200, "objective": "unmasked", "syntax_share": 0.003, "seed": 5}
    run(*gin, story_like["documents"], "--length", "150", "--objective", "masked", "--seed", "0")
    report = json.loads(capsys.readouterr().out)
    assert report["settings"] == {"length": 150, "objective": "masked", "syntax_share": 0.003, "seed": 0}
    assert report["sources"][0]["kind"] == "documents"
