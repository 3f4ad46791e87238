"""`anchortrain scaling report` from end to end."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from anchortrain.cli import main
from anchortrain.scaling.figures import FIGURES
from anchortrain.scaling.report import write_report
from anchortrain.scaling.style import LOOKS, look
from tests.scaling import synthetic_study as synthetic

SVG = "{http://www.w3.org/2000/svg}"


def texts(path) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.parse(path).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    home = tmp_path_factory.mktemp("report")
    synthetic.write(home / "study", synthetic.rows(), synthetic.curves())
    assert main(["scaling", "report", str(home / "study"), "--out", str(home / "out")]) == 0
    return home / "out"


def test_everything_is_written_and_well_formed(out):
    claims = json.loads((out / "claims.json").read_text())
    assert {claim["figure"] for claim in claims} <= {f"figures/{name}.svg" for name in FIGURES}
    for name in FIGURES:
        shown = texts(out / "figures" / f"{name}.svg")
        assert not [one for one in shown if "$" in one or "mathdefault" in one]
        assert "not measured yet" not in shown
    assert any("KL anchor: slope 0.0" in one for one in texts(out / "figures" / "data_entropy.svg"))
    assert any("b = -0.25" in one for one in texts(out / "figures" / "pretrain_loss.svg"))


def test_the_page_holds_all_and_loads_nothing(out):
    page = (out / "report.html").read_text()
    assert page.count("<svg") == len(FIGURES)
    assert not re.search(r'(?:src|href)="(?!#)', page.replace("xlink:href", "xlink"))
    assert "<script" not in page and "<style type" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(ids)
    for target in targets:
        assert ids.count(target) == 1, target


def test_tables_say_what_was_found(out):
    text = (out / "tables.md").read_text()
    assert "## What the paper says" in text and "| 850k | 851,968 | 3 |" in text
    assert "Not measured" not in text
    for line in text.splitlines():
        if line.startswith("| masked SFT | 3 |"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 13


def test_the_same_rows_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "anchortrain.scaling.report.FIGURES", {"drift": FIGURES["drift"], "frontier": FIGURES["frontier"]}
    )
    synthetic.write(tmp_path / "study", synthetic.rows(2), synthetic.curves(2))
    for name in ("one", "two"):
        write_report(tmp_path / "study", tmp_path / name)
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_an_unfinished_study_is_shown_and_names_are_escaped(tmp_path):
    rows = [
        row for row in synthetic.rows(1) if row["size"] in ("27k", "70k") and row["method"] in ("base", "sft", "kl")
    ]
    rows += [row | {"method": "<b>$x$|_y_"} for row in rows if row["method"] == "kl"]
    described = synthetic.description(name="<script>alert(1)</script>", methods=["sft", "kl", "<b>$x$|_y_"])
    written = write_report(synthetic.write(tmp_path / "study", rows, described=described), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "<b>$" not in page and "&lt;b&gt;$x$|_y_" in page
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "- KL anchor: 27k (2 of 3 seeds), 70k (2 of 3 seeds), 160k (3 of 3 seeds)" in text
    assert "- No curves of training." in text and r"\<b\>$x$\|\_y\_" in text
    assert len(written) == len(FIGURES) + 3
    assert any("<b>$x$|_y_" in one for one in texts(tmp_path / "out" / "figures" / "diversity_by_size.svg"))


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["scaling", "report", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_methods_are_told_apart_by_more_than_colour():
    assert len({one.colour for one in LOOKS.values()}) == len(LOOKS)
    assert len({(one.marker, one.dash) for one in LOOKS.values()}) == len(LOOKS)
    assert look("a method of tomorrow") == look("a method of tomorrow")
