"""How figures look: a method has one colour and one marker everywhere, and the same rows give the same bytes.

Figures are SVG on a white card of their own, so that they can be read on white and dark pages alike. Colours are those
of Okabe and Ito and of Tol, which the colour-blind tell apart; markers and dashes say the same again.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from anchortrain.evaluate import table
from anchortrain.scaling.curves import Point
from anchortrain.scaling.results import Study

INK, SOFT, RULE = "#1c1c1a", "#5c5b56", "#e3e2dc"


class Look(NamedTuple):
    colour: str
    marker: str
    dash: str = "-"


LOOKS = {
    "base": Look("#4d4d4d", "D"),
    "sft": Look("#d55e00", "s"),
    "sft_compute": Look("#e69f00", "D", "--"),
    "unmasked": Look("#8c510a", "P", "--"),
    "masked": Look("#56b4e9", "^"),
    "replay": Look("#009e73", "v"),
    "kl": Look("#0072b2", "o"),
    "kl_js": Look("#44aa99", "<", "--"),
    "kl_reverse": Look("#117733", ">", "--"),
    "kl_adaptive": Look("#6f8fc4", "p", "--"),
    "kl_data": Look("#66a61e", "p", ":"),
    "kl_replay": Look("#332288", "h"),
    "rehearsal": Look("#cc79a7", "*"),
    "rehearsal_no_anchor": Look("#882255", "X", "--"),
    "no_annotated_pretraining": Look("#999933", "d", "--"),
    "plans_from_instructions": Look("#8a7a2a", "P", ":"),
    "no_annotation_decoding": Look("#b8860b", "8", ":"),
}
_OTHERS = (
    Look("#7a7a7a", "H", "-."),
    Look("#a14a7a", "s", "-."),
    Look("#5a7a3a", "D", "-."),
    Look("#3a6a8a", "^", "-."),
)
# The methods of the story in one panel, what they are held against in another: fifteen lines in one cannot be read.
MAIN = ("base", "sft", "masked", "replay", "kl", "kl_replay", "rehearsal")

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small files that a reader can search
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def look(method: str) -> Look:
    """A method's colour, marker and dash; names that are not known share four greyish ones."""
    return LOOKS.get(method) or _OTHERS[sum(method.encode()) % len(_OTHERS)]


def main_methods(study: Study) -> list[str]:
    """Those of the story that have rows."""
    return [method for method in _present(study) if method in MAIN]


def other_methods(study: Study) -> list[str]:
    """Base and standard SFT, and then controls, ablations and variants."""
    others = [method for method in _present(study) if method not in MAIN]
    return [method for method in _present(study) if method in ("base", "sft", "kl")] + others if others else []


def _present(study: Study) -> list[str]:
    return table.ordered(dict.fromkeys(row.method for row in study.rows))


@contextmanager
def canvas(rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of rows x columns panels with our settings; size in inches. Draw and `svg` inside the context."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04)
        axes = figure.subplots(rows, columns, squeeze=False)
        for one in axes.flat:
            one.grid(color=RULE, lw=0.7, zorder=0)
            one.spines[["top", "right"]].set_visible(False)
            one.tick_params(length=3)
        yield figure, list(axes.flat)


def svg(figure: Figure, name: str) -> bytes:
    """The figure as SVG; `name` salts the ids in it, so that several fit on one page."""
    with matplotlib.rc_context({"svg.hashsalt": name}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "anchortrain"})
    # Ids that matplotlib numbers in every figure anew.
    text = re.sub(r'id="(\w+_\d+)"', rf'id="{name}-\1"', buffer.getvalue().decode())
    return re.sub(r"[ \t]+$", "", text, flags=re.M).encode()


def curve(axes: Axes, method: str, points: Sequence[Point], *, dash: str | None = None, marks: bool = True) -> None:
    """Means over seeds joined by a line, with their 95 % intervals as a band; under two points as bars."""
    if not points:
        return
    colour, marker, own = look(method)
    xs, means = [point.x for point in points], [point.mean for point in points]
    axes.plot(
        xs, [one.value for one in means], color=colour, ls=dash or own, lw=1.7, zorder=3,
        marker=marker if marks else None, ms=8 if marker == "*" else 5, mec="white", mew=0.6,
    )  # fmt: skip
    known = [(x, one.value, one.low, one.high) for x, one in zip(xs, means, strict=True) if one.low is not None]
    if len(known) > 1:
        axes.fill_between(*([one[i] for one in known] for i in (0, 2, 3)), color=colour, alpha=0.13, lw=0, zorder=2)
    else:
        for x, value, low, high in known:
            axes.errorbar(x, value, [[value - low], [high - value]], color=colour, lw=1, capsize=2, zorder=2)


def dot(axes: Axes, method: str, x: float, y: float, size: float = 40) -> None:
    """One marker of a method, `size` in square points."""
    colour, marker, _ = look(method)
    axes.scatter(
        x, y, s=size * (1.8 if marker == "*" else 1), color=colour, marker=marker, ec="white", lw=0.6, zorder=4
    )


def size_axis(axes: Axes, study: Study) -> None:
    """Non-embedding parameters on a logarithmic axis, a tick for every size."""
    values = list(study.sizes.values())
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(values, list(study.sizes))
    axes.set_xlim(values[0] / 1.25, values[-1] * 1.25)
    axes.set_xlabel("non-embedding parameters")


def same_scale(axes: Sequence[Axes], most: float | None = None) -> None:
    """Panels that compare at a glance: from zero to a little above the highest mean, or `most` where that is lower.

    The intervals of two seeds are wider than anything worth seeing, so they have no say.
    """
    heights = [float(y) for one in axes for line in one.lines for y in line.get_ydata() if math.isfinite(y)]
    low, high = min([0.0, *heights]), max(heights, default=1.0)
    high = high if high > low else low + 1.0  # all zero, as in a study that learned nothing
    top = high + 0.05 * (high - low)
    for one in axes:
        one.set_ylim(1.04 * low - 0.01 * high * (low < 0), top if most is None else min(top, most))


def log_ticks(axis: Axis) -> None:
    """Labels of a logarithmic axis without mathematical markup: 0.1, 1, 10, and 10⁶ or more; between them where few."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axis.set_minor_formatter(NullFormatter())


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(value: float) -> str:
    if 1e-4 < value < 1e6:
        return f"{value:g}"
    factor, exponent = f"{value:.0e}".split("e")
    return ("" if factor == "1" else f"{factor}·") + "10" + str(int(exponent)).translate(_RAISED)


def short(value: float) -> str:
    """200k, 1.6M, 0.8."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold", color=INK)


def legend(
    figure: Figure,
    methods: Iterable[str],
    extra: Sequence[tuple[str, str, str]] = (),
    said: Mapping[str, str] | None = None,
) -> None:
    """One legend under all panels: methods, with what is `said` of them, then lines of `extra` (name, colour, dash)."""
    line = matplotlib.lines.Line2D
    handles = []
    for method in table.ordered(dict.fromkeys(methods)):
        colour, marker, dash = look(method)
        size = 9 if marker == "*" else 6
        name = table.label(method) + (said or {}).get(method, "")
        handles.append(line([], [], color=colour, marker=marker, ls=dash, ms=size, mec="white", label=name))
    handles += [line([], [], color=colour, ls=dash, label=name) for name, colour, dash in extra]
    if handles:
        widest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, int(figure.get_figwidth() // (0.7 + 0.066 * widest)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)


def nothing(axes: Axes, why: str = "not measured yet") -> None:
    """Says in an empty panel that there is nothing to show."""
    axes.text(0.5, 0.5, why, ha="center", va="center", color=SOFT, transform=axes.transAxes)
