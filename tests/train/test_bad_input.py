"""Each mistake ends in one clear line and exit code 2, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from anchortrain.checkpoint import fingerprint
from anchortrain.cli import main
from tests.train.conftest import bindings

ANCHOR = ("LossConfig.anchor_weight = 1.0", "LossConfig.anchor_rows = 8")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def train(out: Path, gin_bindings: list[str]) -> int:
    return run("train", "--out", out, *(word for one in gin_bindings for word in ("--gin_bindings", one)))


def the_line(capsys) -> str:
    """What the user sees on stderr, which must be one line."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("anchortrain: error: ")
    return line


@pytest.mark.parametrize(
    "more, paths, message",
    [
        (["ModelConfig.d_modle = 8"], {}, "unknown field 'd_modle' of ModelConfig; did you mean 'd_model'?"),
        (["ModelConfig.d_ff = 'x'"], {}, "ModelConfig.d_ff must be of type int, got str 'x'"),
        ([], {"train": "documents_"}, "documents_: no such directory; make it with `anchortrain prepare`"),
        ([], {"train": "."}, ": not a prepared directory, it has no manifest.json"),
        (["DataConfig.train = {}"], {}, "DataConfig.train: is empty; name a directory"),
        ([], {"heldout": {"a": "other_vocabulary"}}, "other_vocabulary: prepared with another vocabulary than "),
        (["DataConfig.length = 16"], {}, "but rows are 16 long; prepare it with --length 16"),
        ([], {"init_from": "nowhere"}, "nowhere: no such run directory"),
        ([], {"init_from": "documents"}, "documents: not a run directory; make it with `anchortrain train --out`"),
        ([], {"train": "other_vocabulary", "init_from": "base"}, "/run: was trained with another vocabulary than"),
        (
            ["ModelConfig.vocabulary_size = 64"],
            {},
            "documents was prepared with a vocabulary of ",
        ),
        (
            ["ModelConfig.vocabulary_size = 1000"],
            {"init_from": "base"},
            ", this run has 1000; use the same ModelConfig",
        ),
        (["ModelConfig.d_ff = 16"], {"init_from": "base"}, "has ModelConfig.d_ff = 32, this run has 16; use the same"),
        ([*ANCHOR], {"anchor_data": "draws"}, "the anchor needs a reference; set RunConfig"),
        (
            [*ANCHOR],
            {"anchor_data": "documents", "init_from": "base"},
            "documents: holds no draws; name what `anchortrain draw` made, or set LossConfig.anchor_source",
        ),
        (
            [*ANCHOR, "LossConfig.anchor_source = 'data'"],
            {"train": "plain", "init_from": "base"},
            "plain: nothing to anchor at",
        ),
        ([], {"heldout": {"d": "draws"}}, "DataConfig.heldout['d']: drift on draws needs a reference; set RunConfig"),
        ([], {"anchor_run": "nowhere"}, "nowhere: no such run directory; make it with `anchortrain train --out`"),
        ([], {"train": "other_vocabulary", "anchor_run": "base"}, "/run: was trained with another vocabulary than"),
        (["ModelConfig.d_ff = 16"], {"anchor_run": "base"}, "has ModelConfig.d_ff = 32, this run has 16; use the same"),
        (["LossConfig.anchor_target = 0.1"], {}, "LossConfig.anchor_target needs LossConfig.anchor_weight > 0"),
        (
            ["MeshConfig.data = 3"],
            {},
            "mesh data=3 fsdp=1 sequence=1 tensor=1 does not fit 8 devices; make the product",
        ),
        (
            ["MeshConfig.tensor = 8", "ModelConfig.d_ff = 36"],
            {},
            "ModelConfig.n_heads: 2 query heads do not divide over 8 devices of mesh axis tensor",
        ),
        (["DataConfig.batch_rows = 12"], {}, "DataConfig.batch_rows: 12 rows cannot be shared out over 8 devices; use"),
        (
            [*ANCHOR, "LossConfig.anchor_rows = 4"],
            {"anchor_data": "draws", "init_from": "base"},
            "LossConfig.anchor_rows: 4 rows cannot be shared out over 8 devices",
        ),
    ],
)
def test_a_mistake_in_the_configuration(data, base, tmp_path, capsys, more, paths, message):
    def place(name: str) -> str:
        return str(base if name == "base" else data.documents.parent / name)

    found = {"train": place("documents")}
    for key, value in paths.items():
        found[key] = {k: place(v) for k, v in value.items()} if isinstance(value, dict) else place(value)
    assert train(tmp_path / "run", bindings(*more, steps=2, **found)) == 2
    assert message in the_line(capsys)
    assert not list(tmp_path.iterdir())


def test_draws_of_another_run_are_no_reference(data, base, tmp_path, capsys):
    shutil.copytree(data.draws, tmp_path / "draws")
    manifest = json.loads((tmp_path / "draws" / "manifest.json").read_text())
    for made_by, code in (("another", 2), (fingerprint(base), 0)):
        manifest["notes"] = {"reference": "runs/another", "reference_fingerprint": made_by}
        (tmp_path / "draws" / "manifest.json").write_text(json.dumps(manifest))
        heldout = {"heldout": {"drift": tmp_path / "draws"}, "init_from": base}
        assert train(tmp_path / "out", bindings(steps=1, train=data.instructions, **heldout)) == code
        said = capsys.readouterr().err
        assert ("was drawn from runs/another, but the reference is" in said) == (code == 2)


def test_a_directory_with_something_else_in_it(data, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert train(tmp_path, bindings(steps=2, train=data.documents)) == 2
    assert f"{tmp_path}: is not empty and not a run; choose another --out" in the_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_of_another_configuration(data, base, capsys):
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    assert train(base, bindings("OptimizerConfig.beta1 = 0.5", steps=60, train=data.documents)) == 2
    line = the_line(capsys)
    # The first difference is named: `base` has held-out data.
    assert f"{base}: was started with DataConfig.heldout = {{'documents'" in line and "choose another --out" in line
    heldout = {"documents": data.heldout}
    assert train(base, bindings("OptimizerConfig.beta1 = 0.5", steps=60, train=data.documents, heldout=heldout)) == 2
    assert "was started with OptimizerConfig.beta1 = 0.9, now it is 0.5; choose" in the_line(capsys)
    assert before == {path: path.stat().st_mtime_ns for path in base.rglob("*")}


def test_other_data_under_the_same_name(data, base, tmp_path, capsys):
    """The saved position would mean other batches."""
    run_dir = shutil.copytree(base, tmp_path / "run")
    (run_dir / "finished.json").unlink()
    moved = tmp_path / "documents"
    shutil.copytree(data.heldout, moved)
    config = json.loads((run_dir / "config.json").read_text())
    config["data"] |= {"train": [[str(moved), 1.0]], "heldout": []}
    (run_dir / "config.json").write_text(json.dumps(config))
    assert run("train", "--config", run_dir / "config.json", "--out", run_dir) == 2
    assert "the saved position in the data belongs to other data" in the_line(capsys)


def test_neither_or_both_configurations(tmp_path, capsys):
    for options in ([], ["--config", tmp_path / "a", "--gin_file", tmp_path / "b"]):
        assert run("train", "--out", tmp_path / "run", *options) == 2
        assert "give either --config or --gin_file and --gin_bindings" in the_line(capsys)


def test_a_diverging_run_stops(data, tmp_path, capsys):
    settings = bindings("OptimizerConfig.learning_rate = 1e30", steps=20, train=data.documents)
    assert train(tmp_path / "run", settings) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"anchortrain: error: {tmp_path}/run: the loss is nan at step ")
    assert line.endswith("; lower OptimizerConfig.learning_rate")


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("documents", [], "documents: holds documents, which have no prompts; name instructions made by"),
        ("instructions", ["--draws", "0"], "--draws: the number of draws must be at least 1, got 0"),
        ("nowhere", [], "nowhere: no such directory"),
    ],
)
def test_bad_input_to_draw(data, base, tmp_path, capsys, source, options, message):
    assert run("draw", base, "--data", data.documents.parent / source, "--out", tmp_path / "draws", *options) == 2
    assert message in the_line(capsys) and not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many KiB."""
    mounted = []

    def mount(kib: int) -> Path:
        place = tmp_path / f"disk{kib}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a full disk is simulated by mounting one, which needs root: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_no_space_at_the_start(data, small_disk, capsys):
    disk = small_disk(8)
    assert train(disk / "run", bindings(steps=2, train=data.documents)) == 2
    line = the_line(capsys)
    assert str(disk) in line and "no space left on device" in line.lower()
    assert not list(disk.iterdir())


def test_no_space_for_a_checkpoint(data, small_disk, capsys):
    disk = small_disk(120)
    settings = bindings(steps=2, train=data.documents)
    assert train(disk / "run", settings) == 2
    *_, progress, line = capsys.readouterr().err.strip().splitlines()
    assert progress.startswith("run: ") and line == (
        f"anchortrain: error: {disk}/run/checkpoints: cannot be written: no space left on device; "
        "the same command continues once it can be"
    )
    assert not os.listdir(disk / "run" / "checkpoints") and not (disk / "run" / "finished.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert train(disk / "run", settings) == 0
    assert os.listdir(disk / "run" / "checkpoints") == ["2"]
