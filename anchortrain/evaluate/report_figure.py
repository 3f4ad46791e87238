"""The picture of a comparison, for README and notes: PNG by matplotlib without a display."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anchortrain.evaluate import table

_INK, _SOFT, _RULE = "#1c1c1a", "#66655f", "#e3e2dc"
_COLOURS = {"text": "#2a6fc9", "annotation": "#1b9e77", "wellformed": "#9a7fd1"}
_DATA = "#d9622b"
_POINTS = ("#1c1c1a", "#b3541e", "#2a6fc9", "#1a7f5a", "#8a4fbf", "#b0256f", "#007c91", "#a03030")


def draw(summary: Mapping[str, Any]) -> bytes:
    """Entropies by method above; by attribute, and against quality, below. Returns PNG bytes."""
    methods = table.ordered(summary["methods"])
    figure = Figure(figsize=(11, 4.2 + 0.75 * max(len(methods), 3)), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, hspace=0.06, wspace=0.06)
    grid = figure.add_gridspec(2, 2, height_ratios=[1.15, 1], width_ratios=[1.25, 1])
    _bars(figure.add_subplot(grid[0, :]), summary, methods)
    _heat_map(figure.add_subplot(grid[1, 0]), summary, methods)
    _scatter(figure.add_subplot(grid[1, 1]), summary, methods)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plain(name: str) -> str:
    """A label in which a dollar sign does not start mathematics."""
    return table.label(name).replace("$", r"\$")


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=10)
    axes.tick_params(colors=_SOFT, labelsize=9, length=0)
    axes.spines[:].set_visible(False)


def _bars(axes: Axes, summary: Mapping[str, Any], methods: list[str]) -> None:
    _title(axes, "Semantic entropy, bits per attribute (bars: 95 % interval)")
    height = 0.26
    for i, kind in enumerate(table.KINDS):
        for y, name in enumerate(methods):
            row = summary["methods"][name]
            value, ends = row.get(f"{kind}_bits"), row.get(f"{kind}_bits_interval")
            if value is None:
                continue
            error = None if ends is None else [[value - ends[0]], [ends[1] - value]]
            at = y + (i - 1) * height
            axes.barh(at, value, height * 0.88, color=_COLOURS[kind], zorder=2)
            if error:
                axes.errorbar(value, at, xerr=error, color=_INK, elinewidth=0.9, capsize=1.5, fmt="none", zorder=4)
            reach = value if ends is None else ends[1]
            axes.text(
                reach + 0.03, at, f"{value:.2f}", va="center", fontsize=7.5, color=_SOFT, zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
    handles = [axes.barh(0, 0, color=_COLOURS[kind], label=text) for kind, text in table.KINDS.items()]
    references = (("base model", table.base_row(summary).get("text_bits"), _INK, "-"),
                  ("instruction data", summary.get("sft_data_bits"), _DATA, "--"))  # fmt: skip
    for text, value, colour, style in references:
        if value is not None:
            handles.append(axes.axvline(value, color=colour, ls=style, lw=1.4, zorder=3, label=f"{text} {value:.2f}"))
    axes.set_yticks(range(len(methods)), [_plain(name) for name in methods], fontsize=10, color=_INK)
    axes.set_ylim(len(methods) - 0.45, -0.55)
    axes.set_xlim(0, table.scale_end(summary))
    axes.grid(axis="x", color=_RULE, lw=0.8, zorder=0)
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=5, frameon=False, fontsize=9,
        labelcolor=_INK, handlelength=1.3, columnspacing=1.6,
    )  # fmt: skip


def _heat_map(axes: Axes, summary: Mapping[str, Any], methods: list[str]) -> None:
    rows = summary["methods"]
    _title(axes, "Response entropy by attribute, bits")
    attributes = list(dict.fromkeys(one for name in methods for one in rows[name].get("attributes") or ()))
    values_MA = [[table.attribute_bits(rows[name], one) for one in attributes] for name in methods]
    if not any(value is not None for row in values_MA for value in row):
        _nothing(axes)
        return
    full_A = [table.full_bits(summary, one) for one in attributes]
    shares_MA = np.array(
        [[np.nan if v is None else v / f for v, f in zip(row, full_A, strict=True)] for row in values_MA]
    )
    axes.imshow(shares_MA, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for y, row in enumerate(values_MA):
        for x, value in enumerate(row):
            light = value is not None and shares_MA[y, x] > 0.72
            axes.text(x, y, table.number(value), ha="center", va="center", fontsize=9, color="white" if light else _INK)
    axes.set_xticks(range(len(attributes)), [one.replace("$", r"\$")[:16] for one in attributes])
    axes.xaxis.tick_bottom()
    axes.set_yticks(range(len(methods)), [_plain(name) for name in methods])
    # White lines between the cells.
    axes.set_xticks(np.arange(len(attributes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(methods) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)


def _scatter(axes: Axes, summary: Mapping[str, Any], methods: list[str]) -> None:
    _title(axes, "Diversity against quality")
    rows = summary["methods"]
    points = [(name, rows[name].get("wellformed"), rows[name].get("text_bits")) for name in methods]
    points = [point for point in points if None not in point]
    if not points:
        _nothing(axes)
        return
    for i, (name, share, value) in enumerate(points):
        axes.scatter(
            100 * share, value, s=70, color=_POINTS[i % len(_POINTS)], zorder=3, label=_plain(name), ec="white"
        )
    axes.set_xlim(0, 103)
    axes.set_ylim(0, table.scale_end(summary))
    axes.grid(color=_RULE, lw=0.8, zorder=0)
    axes.set_xlabel("well-formed responses, %", color=_SOFT, fontsize=9)
    axes.set_ylabel("text entropy, bits", color=_SOFT, fontsize=9)
    axes.legend(loc="lower left", frameon=False, fontsize=8.5, labelcolor=_INK, handletextpad=0.2)


def _nothing(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "n/a", ha="center", va="center", color=_SOFT, transform=axes.transAxes)
