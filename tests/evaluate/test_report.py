"""The report: complete, escaped, self-contained, and fine with half a table."""

import re
from html.parser import HTMLParser

import pytest

from anchortrain.evaluate.collapse import compare
from anchortrain.evaluate.report import write_report
from anchortrain.evaluate.report_html import page
from anchortrain.evaluate.table import format_table

EVIL = '<script>alert("&")</script><img src=x onerror=y>'


@pytest.fixture
def summary(sets, world):
    methods = compare(sets, world)
    return {"seed": 0, "seconds": 300.0, "prior_bits": 3.5, "sft_data_bits": 1.0, "base_agreement": 0.97,
            "methods": methods}  # fmt: skip


class _Balanced(HTMLParser):
    VOID = {"meta", "br", "path", "circle"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], set(), set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


def checked(html):
    parser = _Balanced()
    parser.feed(html)
    assert not parser.open
    assert not parser.seen & {"script", "img", "link", "iframe", "object"}
    assert not parser.attributes & {"src", "href", "onerror"}
    assert not re.search(r"url\(|@import|https?://", html)
    return parser


def test_page_is_whole_and_loads_nothing(summary, sets, tmp_path):
    html_path, png_path = write_report(tmp_path / "new", summary, sets)
    html = html_path.read_text(encoding="utf-8")
    assert "svg" in checked(html).seen
    for said in ("KL anchor", "standard SFT", "N = 400", "hero", "base agreement 97 %", "prefers-color-scheme: dark"):
        assert said in html
    assert png_path.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.glob("new/*")) == ["report.html", "report.png"]


def test_everything_from_samples_is_escaped(summary, sets):
    row = {"prompt": EVIL, "response": f"hero {EVIL} \ud800", "annotation": [["hero", EVIL.replace(";", "")]]}
    broken = {"prompt": EVIL, "response": EVIL, "annotation": None, "annotation_text": EVIL}
    summary["methods"][EVIL] = summary["methods"]["kl"] | {"attributes": {EVIL: {"text": {"bits": 1.0}}}}
    checked(page(summary, {"kl": [row, broken], EVIL: [row]}))


def test_values_are_marked_whole_in_the_response(summary):
    row = {"response": "A fox & an oxen. Fox's ox", "annotation": [["a", "ox"], ["b", "fox"]]}
    html = page(summary, {"kl": [row]})
    assert re.findall(r"<mark[^>]*>([^<]+)</mark>", html) == ["fox", "ox"]


@pytest.mark.parametrize("kept", [[], ["base"], ["sft"], ["kl", "other $x$"]])
def test_half_a_table(summary, sets, tmp_path, kept):
    rows = {name: summary["methods"].get(name, {"n": 4, "text_bits": None}) for name in kept}
    partial = {"methods": rows}
    write_report(tmp_path, partial, {name: sets.get(name, []) for name in kept})
    checked((tmp_path / "report.html").read_text())
    assert len(format_table(partial).splitlines()) >= 3 + len(kept)


def test_real_text_shows_surface_statistics(sets):
    summary = {"methods": compare(sets)}
    assert "distinct-2" in format_table(summary)
    html = page(summary, sets)
    checked(html)
    assert "distinct-2" in html


def test_table_as_text(summary):
    lines = format_table(summary).splitlines()
    assert [line.split("  ")[0] for line in lines[3:7]] == ["base", "standard SFT", "masked SFT", "KL anchor"]
    assert "n/a" in lines[3]
    assert "0 %  " in lines[4] and "1.0×" in lines[4]
    assert re.search(r"\d+ % \[\d+, \d+\] +\d+(\.\d)?×", lines[5])
    assert lines[6].endswith("*") and any(line.startswith("* ") for line in lines)
    assert max(map(len, lines)) <= 110
