"""`anchortrain annotate report` from files to files."""

import argparse
import json
import subprocess
import sys

import pytest

from anchortrain.commands import annotate_report
from anchortrain.data.fairytale import write_fairytale
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.errors import UserError
from tests.conftest import shared_data


def run(*arguments):
    parser = argparse.ArgumentParser()
    annotate_report.add_arguments(parser)
    return annotate_report.run(parser.parse_args([str(one) for one in arguments]))


@pytest.fixture(scope="module")
def tales(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tales")
    write_fairytale(shared_data(), folder)
    return folder


def test_prints_and_writes(tales, tmp_path, capsys):
    train_tokenizer([tales / "documents_heldout.jsonl"], vocab_size=512, out=tmp_path / "tokenizer.json")
    sources = [tales / "documents_heldout.jsonl", tales / "instructions_heldout.jsonl"]
    options = ["--out", tmp_path / "new/report.html", "--json", tmp_path / "figures.json", "--sample", 1500]
    assert run(*sources, *options, "--tokenizer", tmp_path / "tokenizer.json", "--examples", 2) == 0
    printed = capsys.readouterr().out
    assert "tokens of tokenizer.json" in printed and "character" in printed and "report.html" in printed
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["corpus"]["annotated"] > 1000 and figures["information"]["measured"]
    assert 1500 <= figures["sample"]["chunks"] < 1530 < figures["corpus"]["chunks"]
    html = (tmp_path / "new/report.html").read_text(encoding="utf-8")
    assert html.count("<article>") == 2 and "1,5" in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "new", "tokenizer.json"]


def test_compressed_records(tales, tmp_path, capsys):
    import zstandard

    (tmp_path / "some").mkdir()
    for i, name in enumerate(("documents_heldout.jsonl", "documents_heldout.jsonl")):
        lines = (tales / name).read_bytes().splitlines(keepends=True)[8 * i : 8 * i + 8]
        (tmp_path / f"some/{i}.jsonl.zst").write_bytes(zstandard.compress(b"".join(lines)))
    assert run(tmp_path / "some") == 0
    assert "16 documents" in capsys.readouterr().out


def test_refusals(tales, tmp_path):
    heldout = tales / "instructions_heldout.jsonl"
    with pytest.raises(UserError, match="--sample"):
        run(heldout, "--sample", 0)
    with pytest.raises(UserError, match="nowhere"):
        run(tmp_path / "nowhere", "--out", tmp_path / "report.html")
    with pytest.raises(UserError, match="cannot write"):
        run(tales / "documents_heldout.jsonl", "--sample", 20, "--out", "/dev/null/report.html")
    assert not list(tmp_path.iterdir())


def test_help_is_light():
    code = (
        "import argparse, sys; from anchortrain.commands import annotate_report as c;"
        "c.add_arguments(argparse.ArgumentParser());"
        "print([m for m in ('numpy', 'sklearn', 'scipy', 'jax', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
