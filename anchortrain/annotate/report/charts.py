"""Charts of the page, of HTML and CSS alone. All strings from the corpus are escaped here."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from anchortrain.annotate.report import wording
from anchortrain.evaluate.table import number

Figures = Mapping[str, Any]

_CHARTED_KEYS = 16
_VALUE_KEYS = 12
_ROOM = 0.66  # of a row for its longest bar: the figure stands right of it, on a phone too
_PARTS = {"annotated": "with tags", "empty": "empty", "unannotated": "not suited", "failed": "failed"}


def _legend(items: Iterable[tuple[str, str]]) -> str:
    """(CSS class, text) as a line of swatches."""
    shown = "".join(f'<span><i class="swatch {css}"></i>{text}</span>' for css, text in items)
    return f'<p class="legend">{shown}</p>'


def _row(name: str, bars: str) -> str:
    who = escape(wording.shown(name, most=40))
    return f'<div class="bars"><div class="who">{who}</div><div class="track">{bars}</div></div>'


def _bar(css: str, value: float, end: float, said: str) -> str:
    """A bar as long as `value` of `end`; ours is everything in `said`."""
    width = 100 * min(max(value / end, 0.0), 1.0) if end > 0 else 0.0
    return f'<div class="bar"><b class="{css}" style="width:{_ROOM * width:.2f}%"></b><span>{said}</span></div>'


def coverage_bar(figures: Figures) -> str:
    """One bar for all chunks, cut by what became of them."""
    corpus = figures["corpus"]
    present = [(field, name) for field, name in _PARTS.items() if corpus[field]]
    parts = "".join(
        f'<i class="{field}" style="flex-grow:{corpus[field]}" title="{name}: {corpus[field]:,}"></i>'
        for field, name in present
    )
    legend = [(field, f"{name} {wording.share(corpus[field] / corpus['chunks'])}") for field, name in present]
    return f'<div class="stack">{parts}</div>{_legend(legend)}'


def histogram(figures: Figures) -> str:
    """Annotations by their number of tags."""
    counts = figures["corpus"]["tags_histogram"]
    most = max(counts)
    if not most:
        return ""
    columns = []
    for n, count in enumerate(counts):
        name = f"{n}+" if n == len(counts) - 1 else str(n)
        height = 100 * count / most
        columns.append(
            f'<div title="{name} tags: {count:,} annotations"><b style="height:{height:.2f}%"></b><i>{name}</i></div>'
        )
    return f'<h3>Tags of an annotation</h3><div class="columns">{"".join(columns)}</div>'


def entropy_bars(figures: Figures) -> str:
    """The effective number of values by key, on a logarithmic scale."""
    rows = [row for row in figures["keys"][:_CHARTED_KEYS] if row["effective"] is not None]
    end = max((row["entropy_bits"] for row in rows), default=0.0)
    drawn = []
    for row in rows:
        effective = row["effective"]
        count = f"{effective:.1f}" if effective < 100 else f"{effective:,.0f}"
        said = f"{'≥ ' if row['at_least'] else ''}{count} of {row['distinct']:,}"
        drawn.append(_row(row["key"], _bar("annotation", row["entropy_bits"], end, said)))
    return f'<h3>Effective number of values</h3><div class="chart">{"".join(drawn)}</div>'


def values(figures: Figures) -> str:
    """The most frequent values of the first keys as bars, the rarest as a line."""
    blocks = []
    for row in figures["keys"][:_VALUE_KEYS]:
        if not row["top"]:
            continue
        most = row["top"][0]["count"]
        bars = "".join(_value(one["value"], one["count"], most) for one in row["top"])
        _, rarest = wording.value_lines(row)
        rare = f'<p class="note">rarest: <bdi>{escape(rarest)}</bdi></p>' if rarest else ""
        blocks.append(f"<div><h3>{escape(wording.shown(row['key'], most=40))}</h3><ol>{bars}</ol>{rare}</div>")
    return f'<div class="values">{"".join(blocks)}</div>' if blocks else ""


def _value(value: str, count: int, most: int) -> str:
    name = escape(wording.shown(value, most=60))
    return f'<li><i style="width:{100 * count / most:.2f}%"></i><bdi>{name}</bdi><span>{count:,}</span></li>'


def recovery_bars(figures: Figures) -> str:
    """Bits found of each key's tags, within their entropy."""
    found = figures["information"]["recovery"]
    end = max(one["entropy"] for one in found.values())
    drawn = []
    for key, one in found.items():
        bits = max(one["bits"], 0.0)
        full, filled = (100 * _ROOM * value / end if end > 0 else 0.0 for value in (one["entropy"], bits))
        drawn.append(
            _row(
                key,
                f'<div class="bar of"><b class="whole" style="width:{full:.2f}%"></b>'
                f'<b class="text" style="width:{min(filled, full):.2f}%"></b>'
                f'<span style="left:{full:.2f}%">{number(bits)} of {number(one["entropy"])}</span></div>',
            )
        )
    legend = _legend([("text", "bits found in the text"), ("whole", "entropy of the tag")])
    return f'{legend}<div class="chart">{"".join(drawn)}</div>'


def saving_bars(figures: Figures) -> str:
    """Bits that a chunk's text costs less with each key's tags, with and without words spelled out."""
    saving = figures["information"]["saving"]
    rest = saving["not_spelled"] or {"keys": {}}
    rows = [("all keys", saving["all"], saving["not_spelled"])]
    rows += [(key, one, rest["keys"].get(key)) for key, one in saving["all"]["keys"].items()]
    end = max(one["bits_per_chunk"] for _, one, _ in rows)
    drawn = []
    for name, one, less in rows:
        bars = _bar("text", one["bits_per_chunk"], end, number(one["bits_per_chunk"]))
        if less is not None:
            bars += _bar("wellformed", less["bits_per_chunk"], end, number(less["bits_per_chunk"]))
        bars += _bar("control", one["control_bits_per_chunk"], end, number(one["control_bits_per_chunk"]))
        drawn.append(_row(name, bars))
    legend = _legend(
        [
            ("text", "bits a chunk"),
            ("wellformed", "without words spelled out"),
            ("control", "annotations of other documents"),
        ]
    )
    return f'{legend}<div class="chart">{"".join(drawn)}</div>'
