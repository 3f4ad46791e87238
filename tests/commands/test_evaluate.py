"""`anchortrain evaluate` from files to files."""

import argparse
import json

import numpy as np
import pytest

from anchortrain.commands import evaluate
from anchortrain.errors import UserError
from anchortrain.storyworld.world import World


@pytest.fixture
def files(tmp_path):
    world, rng = World.from_seed(0), np.random.default_rng(0)
    world.save(tmp_path / "world.json")
    for name, rho in (("base", 0.0), ("sft", 0.9), ("kl", 0.05)):
        rows = [world.instruction(latent, "p", rng) for latent in world.sample_latents(128, rng, rho)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(*arguments):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.run(parser.parse_args([str(one) for one in arguments]))


def test_compares_and_writes(files, capsys):
    (files / "sft.jsonl").rename(files / "plain.jsonl")
    names = [files / "base.jsonl", files / "plain.jsonl", f"mine={files / 'kl.jsonl'}"]
    assert run(*names, "--world", files / "world.json", "--sft", "plain", "--out", files / "out") == 0
    assert "mine" in capsys.readouterr().out
    summary = json.loads((files / "out/summary.json").read_text())
    assert list(summary["methods"]) == ["base", "plain", "mine"]
    assert summary["methods"]["mine"]["gap_closed"] > 0.8
    assert {path.name for path in (files / "out").iterdir()} == {"summary.json", "report.html", "report.png"}


def test_real_text_and_one_set(files, capsys):
    assert run(files / "kl.jsonl") == 0
    assert "distinct-1" in capsys.readouterr().out


def test_samples_in_run_directories_are_called_after_them(files, capsys):
    for name in ("base", "kl"):
        (files / f"run_{name}").mkdir()
        (files / f"{name}.jsonl").rename(files / f"run_{name}/samples.jsonl")
    assert run(files / "run_base/samples.jsonl", files / "run_kl/samples.jsonl") == 0
    assert "run_kl" in capsys.readouterr().out


def test_refusals(files):
    with pytest.raises(UserError, match="--base nobody"):
        run(files / "kl.jsonl", "--base", "nobody")
    with pytest.raises(UserError, match="write NAME=FILE"):
        run(files / "kl.jsonl", files / "kl.jsonl")
    with pytest.raises(UserError, match="nowhere.jsonl"):
        run(files / "nowhere.jsonl")
    (files / "sft.jsonl").write_text((files / "sft.jsonl").read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match="sft 127"):
        run(files / "base.jsonl", files / "sft.jsonl", "--out", files / "out")
    assert not (files / "out").exists()
