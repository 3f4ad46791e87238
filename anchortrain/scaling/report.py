"""The report of a study: figures, tables, claims and one page, all from its small text files."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from anchortrain.evaluate import table
from anchortrain.evaluate.report_frame import frame, html_table, note, section
from anchortrain.files import write_bytes_atomic, write_text_atomic
from anchortrain.progress import Progress
from anchortrain.scaling.claims import judge
from anchortrain.scaling.figures import FIGURES
from anchortrain.scaling.reading import read_study
from anchortrain.scaling.results import Study
from anchortrain.scaling.tables import Table, methods_of, tables

Claims = Sequence[Mapping[str, Any]]

_STYLE = """
figure { margin: 0; } figure svg { width: 100%; height: auto; background: #fff; border-radius: 6px; }
.claims { list-style: none; margin: 0; padding: 0; }
.claims li { display: grid; grid-template-columns: 4rem 1fr; gap: 0 1rem; padding: .6rem 0; }
.claims li + li { border-top: 1px solid var(--rule); }
.claims p { margin: 0; } .claims .soft { color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
.holds { font-weight: 600; } .yes { color: var(--k2); } .no { color: var(--k7); } .open { color: var(--soft); }
main { max-width: 72rem; } a { color: inherit; }
"""
_WORDS = {True: ("yes", "holds"), False: ("no", "fails"), None: ("open", "open")}
_SOURCES = {"paper": "What the paper says", "ours": "What this project says"}


def write_report(directory: str | Path, out: str | Path) -> list[Path]:
    """Writes figures/*.svg, tables.md, claims.json and report.html under `out`; returns their paths.

    The same rows give the same bytes. Raises UserError where the study cannot be read or `out` not be written.
    """
    out, study = Path(out), read_study(directory)
    claims, shown, absent = judge(study), tables(study), missing(study)
    pictures, written = {}, []
    with Progress(len(FIGURES), "figures", "report") as progress:
        for name, drawing in FIGURES.items():
            pictures[name] = drawing.draw(study, name)
            progress.update(1)
    for name, picture in pictures.items():
        written.append(out / "figures" / f"{name}.svg")
        write_bytes_atomic(written[-1], picture)
    texts = {
        "tables.md": markdown(study, claims, shown, absent),
        "claims.json": json.dumps(claims, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": page(study, claims, shown, absent, pictures),
    }
    for name, text in texts.items():
        written.append(out / name)
        write_text_atomic(written[-1], text)
    return written


def missing(study: Study) -> list[str]:
    """What the study was to measure and has not: one line for each method with the same gaps at each size."""
    lines = []
    for method in methods_of(study):
        sizes = study.planned(method) if study.ladder else study.sizes
        absent = {size: study.seeds - len(study.at(method, size)) for size in sizes}
        gaps = [f"{size} ({lacking} of {study.seeds} seeds)" for size, lacking in absent.items() if lacking > 0]
        if gaps:
            lines.append(f"{table.label(method)}: {', '.join(gaps)}")
    if len({row.n for row in study.rows if row.n is not None}) > 1:
        lines.append("Numbers of samples differ between rows, and entropies compare only at equal N.")
    if not study.curves:
        lines.append("No curves of training.")
    return lines


def tally(claims: Claims) -> str:
    """`12 of 16 claims of the paper hold, 3 fail, 1 is open; …`."""
    said = []
    for source, whose in (("paper", "the paper"), ("ours", "this project")):
        verdicts = [claim["holds"] for claim in claims if claim["source"] == source]
        counts = [sum(one is verdict for one in verdicts) for verdict in (True, False, None)]
        said.append(f"{whose}: {counts[0]} of {len(verdicts)} claims hold, {counts[1]} fail, {counts[2]} are open")
    return "; ".join(said)


def markdown(study: Study, claims: Claims, shown: Sequence[Table], absent: Sequence[str]) -> str:
    """Claims and tables for reading in a repository."""
    parts = [f"# Study {_inline(study.name)}", "", tally(claims).capitalize() + ".", ""]
    for source, title in _SOURCES.items():
        parts += [f"## {title}", "", *claims_table(claims, source), ""]
    for one in shown:
        parts += [f"## {_inline(one.title)}", "", *_markdown_table(one.lines), ""]
        parts += [f"{_inline(line)}  " for line in one.notes] + [""]
    if absent:
        parts += ["## Not measured", "", *(f"- {_inline(line)}" for line in absent), ""]
    if study.command:
        parts += ["Made from the rows of", "", f"    {' '.join(study.command.split())}", ""]
    return "\n".join(parts)


def claims_table(claims: Claims, source: str, figures: str = "") -> list[str]:
    """Lines of a Markdown table of the claims of `source`, "paper" or "ours"; paths of figures begin with `figures`."""
    lines = [["claim", "verdict", "figures"]]
    for one in claims:
        if one["source"] == source:
            picture = f"[{one['figure'].rpartition('/')[2]}]({figures}{one['figure']})"
            lines.append([one["text"], f"**{_WORDS[one['holds']][1]}**", f"{_inline(one['sentence'])} {picture}"])
    return _markdown_table(lines, escaped=True)


def _inline(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def _markdown_table(lines: Sequence[Sequence[str]], escaped: bool = False) -> list[str]:
    head, *body = [[cell if escaped else _inline(cell) for cell in line] for line in lines]
    aligned = ["---"] + ["---" if escaped else "--:"] * (len(head) - 1)
    return [f"| {' | '.join(line)} |" for line in (head, aligned, *body)]


def page(
    study: Study, claims: Claims, shown: Sequence[Table], absent: Sequence[str], pictures: Mapping[str, bytes]
) -> str:
    """The whole page, in one file; every string that is not ours is escaped."""
    name = escape(study.name)
    finding = escape(tally(claims).capitalize())
    sections = [f'<header><h1>Scaling study: {name}</h1><p class="finding">{finding}.</p></header>']
    for source, title in _SOURCES.items():
        items = "".join(_claim(one) for one in claims if one["source"] == source)
        sections.append(section(title, "", f'<ul class="claims">{items}</ul>'))
    for key, drawing in FIGURES.items():
        picture = _embedded(pictures[key], drawing.title)
        sections.append(section(drawing.title, escape(drawing.caption), f'<figure id="{key}">{picture}</figure>'))
    for one in shown:
        sections.append(section(escape(one.title), "", html_table(one.lines) + (note(one.notes) if one.notes else "")))
    if absent:
        sections.append(section("Not measured", "", note(absent)))
    if study.command:
        sections.append(f"<footer><p>Rows made by <code>{escape(study.command)}</code></p></footer>")
    return frame(f"scaling study {name}", "\n".join(sections), _STYLE)


def _claim(claim: Mapping[str, Any]) -> str:
    css, word = _WORDS[claim["holds"]]
    key = claim["figure"].rpartition("/")[2].removesuffix(".svg")
    return (
        f'<li><span class="holds {css}">{word}</span><div><p>{escape(claim["text"])}</p>'
        f'<p class="soft">{escape(claim["sentence"])} <a href="#{key}">figure</a></p></div></li>'
    )


def _embedded(picture: bytes, title: str) -> str:
    """An SVG file as part of a page: without its prologue, and without a style sheet that would reach the page."""
    text = picture.decode()
    text = re.sub(r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.S)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
