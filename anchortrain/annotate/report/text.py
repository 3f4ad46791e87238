"""The report for a terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anchortrain.annotate.report import wording
from anchortrain.annotate.report.statistics import Example, Report
from anchortrain.annotation import render
from anchortrain.evaluate.table import aligned

_WIDTH = 110
_VALUE_KEYS = 12  # whose values are listed
_EXAMPLES = 3
_CHARACTERS = 300  # of an example's text


def format_text(report: Report) -> str:
    """The whole report as lines of plain text, in which nothing of the corpus can move a cursor."""
    figures = report.figures
    lines = [*_wrapped(wording.finding(figures)), ""]
    lines += aligned(wording.corpus_table(figures), rule_after=1)
    lines += _titled("failures", _wrapped(wording.failures(figures)))
    if figures["keys"]:
        lines += ["", *aligned(wording.key_table(figures), rule_after=1), *_wrapped(wording.key_notes(figures))]
        lines += _titled("values", list(_values(figures)))
    lines += list(_information(figures))
    calls = wording.call_lines(figures)
    lines += _titled("to look at", [line for title, said in calls for line in (title, *_wrapped([said], "  "))])
    lines += _titled("examples", [line for one in report.examples[:_EXAMPLES] for line in _example(one)])
    lines += ["", *_wrapped(wording.counted_over(figures))]
    return "\n".join(lines) + "\n"


def _titled(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, "─" * len(title), *lines] if lines else []


def _wrapped(sentences: Sequence[str], indent: str = "") -> list[str]:
    return [
        line
        for one in sentences
        for line in textwrap.wrap(one, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    ]


def _values(figures: Mapping[str, Any]) -> Iterator[str]:
    for row in figures["keys"][:_VALUE_KEYS]:
        top, rarest = wording.value_lines(row)
        yield from _wrapped([f"{wording.shown(row['key'], most=40)}: {top}"])
        if rarest:
            yield from _wrapped([f"rarest: {rarest}"], "  ")


def _information(figures: Mapping[str, Any]) -> Iterator[str]:
    if rows := wording.recovery_table(figures):
        yield from _titled("the tag from the text", aligned(rows, rule_after=1))
        yield from _wrapped(wording.RECOVERY_NOTES)
    if rows := wording.saving_table(figures):
        yield from _titled("the text from the tag", aligned(rows, rule_after=1))
        yield from _wrapped(wording.saving_notes(figures))
    yield from _titled("the annotation of a text", _wrapped(wording.identification_notes(figures)))


def _example(example: Example) -> list[str]:
    text = " ".join(wording.shown(example.chunk.text[: 2 * _CHARACTERS], keep="\n\t").split())
    tags = wording.shown(render(example.chunk.annotation or ()), most=2 * _CHARACTERS)
    return [
        *_wrapped([f"[{wording.shown(example.record, most=60)}] {tags}"]),
        *_wrapped([text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "…"], "  "),
    ]
