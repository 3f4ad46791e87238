"""The report as one self-contained page: charts of HTML and CSS alone, everything from the corpus escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from anchortrain.annotate.report import wording
from anchortrain.annotate.report.charts import coverage_bar, entropy_bars, histogram, recovery_bars, saving_bars, values
from anchortrain.annotate.report.statistics import Example, Report
from anchortrain.evaluate.report_frame import frame, html_table, note, section
from anchortrain.evaluate.report_samples import COLOURS, marked

_CHARACTERS = 1200  # of an example's text
_KEPT = "\n\t\u200c\u200d"  # the joiners are part of words and emoji

Figures = Mapping[str, Any]


def page(report: Report) -> str:
    """The whole page. Every string that is not ours is escaped, and shows no control characters."""
    figures = report.figures
    sections = (
        _header(figures),
        section("To look at", "What may be wrong, and what to do about it.", _calls(figures)),
        section("Coverage", "What became of the chunks, and how many tags an annotation has.", _coverage(figures)),
        section("Keys", "How often a key is there, and how much its values vary.", _keys(figures)),
        section("Values", "The most frequent values of each key, and the rarest.", values(figures)),
        section(
            "The tag from the text", "Can a reader tell the tag? By key, on held-out documents.", _recovery(figures)
        ),
        section(
            "The text from the tag", "Does the tag help to predict the text? On held-out documents.", _saving(figures)
        ),
        section("The annotation of a text", "", _sentences(wording.identification_notes(figures))),
        _examples(report.examples),
        f"<footer>{_sentences(wording.counted_over(figures))}</footer>",
    )
    style = (resources.files("anchortrain.annotate.report") / "page.css").read_text(encoding="utf-8")
    return frame("are the annotations any good?", "\n".join(filter(None, sections)), style)


def _sentences(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{escape(one)}</p>" for one in sentences)


def _header(figures: Figures) -> str:
    said = escape(" ".join(wording.finding(figures)))
    # Of a long path the end tells more.
    ends = (one if len(one) <= 80 else "…" + one[-79:] for one in figures["sources"][:4])
    sources = ", ".join(wording.shown(one) for one in ends)
    more = len(figures["sources"]) - 4
    named = escape(sources + (f" and {more} more" if more > 0 else ""))
    title = "<h1>Are the annotations any good?</h1>"
    return f'<header>{title}<p class="finding">{said}</p><p class="note">{named}</p></header>'


def _calls(figures: Figures) -> str:
    lines = wording.call_lines(figures)
    if not lines:
        return "<p>Nothing stands out.</p>"
    rows = "".join(f"<li><b>{escape(title)}</b><p>{escape(said)}</p></li>" for title, said in lines)
    return f'<ul class="calls">{rows}</ul>'


def _coverage(figures: Figures) -> str:
    content = coverage_bar(figures) + html_table(wording.corpus_table(figures)) + histogram(figures)
    if failed := wording.failures(figures):
        content += "<h3>Failures</h3>" + note(failed)
    return content


def _keys(figures: Figures) -> str:
    if not figures["keys"]:
        return ""
    return entropy_bars(figures) + html_table(wording.key_table(figures)) + note(wording.key_notes(figures))


def _recovery(figures: Figures) -> str:
    rows = wording.recovery_table(figures)
    return recovery_bars(figures) + html_table(rows) + note(wording.RECOVERY_NOTES) if rows else ""


def _saving(figures: Figures) -> str:
    rows = wording.saving_table(figures)
    return saving_bars(figures) + html_table(rows) + note(wording.saving_notes(figures)) if rows else ""


def _examples(examples: Sequence[Example]) -> str:
    keys: dict[str, int] = {}  # key -> colour
    shown = "".join(_example(one, keys) for one in examples)
    lead = (
        "Chunks of different documents, drawn by the hash of their ids. Values are marked where the text spells them."
    )
    return section("Examples", lead, shown)


def _example(example: Example, keys: dict[str, int]) -> str:
    tags = example.chunk.annotation or ()
    colours = {tag.value: keys.setdefault(tag.key, len(keys) % COLOURS) for tag in tags}
    chips = "".join(
        f'<span class="chip k{colours[tag.value]}"><small>{escape(wording.shown(tag.key))}</small> '
        f"<bdi>{escape(wording.shown(tag.value, keep=_KEPT))}</bdi></span>"
        for tag in tags
    )
    text = wording.shown(example.chunk.text.strip(), keep=_KEPT, most=_CHARACTERS)
    name = escape(wording.shown(example.record, most=60))
    return (
        f'<article><div><div class="plan">{chips}</div><p class="note">{name}</p></div>'
        f'<div class="said" dir="auto"><p>{marked(text, colours)}</p></div></article>'
    )
