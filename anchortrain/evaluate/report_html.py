"""The HTML page of a comparison, on the frame of `report_frame`."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from anchortrain.evaluate import table
from anchortrain.evaluate.report_frame import frame, html_table, note, section
from anchortrain.evaluate.report_samples import samples_html
from anchortrain.evaluate.samples import Sample

Summary = Mapping[str, Any]


def page(summary: Summary, samples: Mapping[str, Sequence[Sample]]) -> str:
    """The whole page. Every string that is not ours is escaped."""
    sections = (
        _header(summary),
        section("Methods", "", _table(summary)),
        section(
            "Semantic entropy",
            "How many different things a model says, in bits, averaged over attributes. "
            "A method that keeps the diversity of the base model reaches its line.",
            _bars(summary),
        ),
        section(
            "Diversity against quality",
            "Entropy of responses against the share of them in the form that was trained. The upper right is good.",
            _scatter(summary),
        ),
        section(
            "By attribute",
            "Entropy of the responses in bits; the stronger the colour, the closer to the base model.",
            _heat_map(summary),
        ),
        samples_html({name: samples[name] for name in table.ordered(samples)}),
        _footer(summary),
    )
    return frame("diversity after post-training", "\n".join(filter(None, sections)))


def _header(summary: Summary) -> str:
    return f'<header><h1>Diversity after post-training</h1><p class="finding">{_finding(summary)}</p></header>'


def _finding(summary: Summary) -> str:
    """The result in two sentences, from the figures alone."""
    methods = summary["methods"]
    base, sft = (row.get("text_bits") for row in (table.base_row(summary), table.sft_row(summary)))
    if base is None or sft is None:
        return "Semantic entropy of samples, by method."
    said = f"The base model varies its texts by <b>{base:.2f} bits</b> of semantic entropy per attribute; "
    said += f"after standard SFT <b>{sft:.2f} bits</b> are left."
    kept = [
        f"<b>{escape(table.label(name))}</b> closes {table.percent(methods[name]['gap_closed'])} of that gap"
        for name in ("masked", "kl")
        if name in methods and methods[name].get("gap_closed") is not None
    ]
    return f"{said} {'; '.join(kept)}." if kept else said


def _table(summary: Summary) -> str:
    methods = summary["methods"]
    body = [table.cells(summary, name) for name in table.ordered(methods)]
    content = html_table([table.COLUMNS, *body]) + note(table.notes(summary))
    if surface := table.statistics(summary):
        content += html_table(surface) + note([table.SURFACE_NOTE])
    return content


def _bars(summary: Summary) -> str:
    methods, end = summary["methods"], table.scale_end(summary)
    references = [("base", "base model", table.base_row(summary).get("text_bits"))]
    references.append(("data", "instruction data", summary.get("sft_data_bits")))
    lines = "".join(
        f'<i class="line {css}" style="left:{100 * value / end:.2f}%"></i>'
        for css, _, value in references
        if value is not None
    )
    legend = [f'<span><i class="swatch {kind}"></i>{text}</span>' for kind, text in table.KINDS.items()]
    legend += [
        f'<span><i class="swatch line {css}"></i>{text} {value:.2f}</span>'
        for css, text, value in references
        if value is not None
    ]
    rows = []
    for name in table.ordered(methods):
        bars = "".join(_bar(kind, methods[name], end) for kind in table.KINDS)
        rows.append(
            f'<div class="bars"><div class="who">{escape(table.label(name))}</div>'
            f'<div class="track">{lines}{bars}</div></div>'
        )
    ticks = "".join(f'<i style="left:{100 * tick / end:.2f}%">{tick}</i>' for tick in range(int(end) + 1))
    rows.append(f'<div class="bars"><div class="who"></div><div class="axis">{ticks}</div></div>')
    return f'<p class="legend">{"".join(legend)}</p><div class="chart">{"".join(rows)}</div>'


def _bar(kind: str, row: Mapping[str, Any], end: float) -> str:
    value, ends = row.get(f"{kind}_bits"), row.get(f"{kind}_bits_interval")
    if value is None:
        return f'<div class="bar none" title="{table.KINDS[kind]}: n/a"></div>'
    about = "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    return (
        f'<div class="bar" title="{table.KINDS[kind]}: {value:.2f} bits{about}">'
        f'<b class="{kind}" style="width:{100 * value / end:.2f}%"></b><span>{value:.2f}</span></div>'
    )


def _heat_map(summary: Summary) -> str:
    methods = summary["methods"]
    names = [name for name in table.ordered(methods) if methods[name].get("attributes")]
    attributes = list(dict.fromkeys(one for name in names for one in methods[name]["attributes"]))
    if not any(table.attribute_bits(methods[name], one) is not None for name in names for one in attributes):
        return ""
    heads = "".join(f'<th scope="col">{escape(one)}</th>' for one in attributes)
    rows = []
    for name in names:
        values = "".join(
            _heat_cell(table.attribute_bits(methods[name], one), table.full_bits(summary, one)) for one in attributes
        )
        rows.append(f'<tr><th scope="row">{escape(table.label(name))}</th>{values}</tr>')
    return (
        f'<div class="scroll"><table class="heat"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heat_cell(value: float | None, full: float) -> str:
    if value is None:
        return f'<td class="dim">{table.MISSING}</td>'
    level = min(10, max(0, round(10 * value / full)))
    return f'<td class="level{level}" title="{100 * value / full:.0f} % of the base">{value:.2f}</td>'


def _scatter(summary: Summary) -> str:
    methods, end = summary["methods"], table.scale_end(summary)
    points = [
        (name, methods[name]["wellformed"], methods[name]["text_bits"])
        for name in table.ordered(methods)
        if methods[name].get("wellformed") is not None and methods[name].get("text_bits") is not None
    ]
    if not points:
        return ""
    left, top, width, height = 44, 12, 500, 260
    drawn = []
    for i in range(int(end) + 1):
        y = top + height * (1 - i / end)
        drawn.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        drawn.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{i}</text>')
    for i in range(0, 101, 20):
        x = left + width * i / 100
        drawn.append(f'<text class="tick" x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{i} %</text>')
    numbers = []
    for i, (name, share, value) in enumerate(points, 1):
        x, y = left + width * share, top + height * (1 - value / end)
        drawn.append(f'<circle class="c{i % 8}" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        drawn.append(f'<text class="mark" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{i}</text>')
        numbers.append(f'<li><i class="dot c{i % 8}">{i}</i>{escape(table.label(name))}</li>')
    drawn.append(
        f'<text class="tick" x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">well-formed</text>'
        f'<text class="tick" transform="translate(12 {top + height / 2}) rotate(-90)" text-anchor="middle">bits</text>'
    )
    return (
        f'<div class="scatter"><svg viewBox="0 0 {left + width + 24} {top + height + 48}" role="img" '
        f'aria-label="entropy against well-formed share">{"".join(drawn)}</svg><ol>{"".join(numbers)}</ol></div>'
    )


def _footer(summary: Summary) -> str:
    facts = []
    if summary.get("prior_bits") is not None:
        facts.append(f"exact entropy of the world {_mean(summary['prior_bits']):.2f} bits")
    if summary.get("base_agreement") is not None:
        facts.append(f"base agreement {table.percent(summary['base_agreement'])}")
    if summary.get("seed") is not None:
        facts.append(f"seed {escape(str(summary['seed']))}")
    if summary.get("seconds") is not None:
        facts.append(f"{summary['seconds'] / 60:.1f} minutes")
    said = f"{' · '.join(facts)}. " if facts else ""
    return (
        f"<footer><p>{said}Intervals are 95 % by bootstrap over samples: sampling error of this one training run, "
        "not the spread over training seeds. Entropies have a bias that depends on N and compare only at equal N."
        "</p></footer>"
    )


def _mean(bits: float | Mapping[str, float]) -> float:
    """`prior_bits` may be the mean itself, or by attribute."""
    return sum(bits.values()) / len(bits) if isinstance(bits, Mapping) else bits
