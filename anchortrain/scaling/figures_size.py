"""Figures over the sizes of the ladder."""

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from anchortrain.scaling.curves import Point, by_size, ratio
from anchortrain.scaling.results import BASE, SFT, Study
from anchortrain.scaling.style import (
    INK,
    SOFT,
    canvas,
    curve,
    legend,
    look,
    main_methods,
    nothing,
    other_methods,
    same_scale,
    size_axis,
    svg,
    title,
)

BARS = (4.0, 10.0)  # of the collapse ratio: masked SFT, KL anchor


def panels(study: Study) -> list[tuple[str, list[str]]]:
    """The methods side by side: (heading, methods)."""
    found = [("methods", main_methods(study)), ("controls, ablations, variants", other_methods(study))]
    return [(heading, methods) for heading, methods in found if methods]


def _each(axes: Axes, study: Study, methods: list[str], quantity: str, scale: float = 1.0) -> None:
    for method in methods:
        points = by_size(study, method, quantity)
        scaled = [Point(p.x, {seed: scale * y for seed, y in p.by_seed.items()}, p.size) for p in points]
        curve(axes, method, scaled)
    size_axis(axes, study)
    if not axes.lines:
        nothing(axes)


def _grid(study: Study, name: str, rows: list[tuple[str, str, str, float]]) -> bytes:
    """A row of panels for each of (heading, quantity, y label, scale)."""
    columns = panels(study)
    with canvas(len(rows), len(columns), 5.2 * len(columns), 3.3 * len(rows) + 0.6) as (figure, axes):
        for i, (heading, quantity, label, scale) in enumerate(rows):
            row = axes[i * len(columns) : (i + 1) * len(columns)]
            for one, (what, methods) in zip(row, columns, strict=True):
                _each(one, study, methods, quantity, scale)
                title(one, f"{heading}: {what}")
                one.set_ylabel(label)
            same_scale(row, 104.0 if scale == 100 else None)
        legend(figure, [method for _, methods in columns for method in methods])
        return svg(figure, name)


def diversity(study: Study, name: str) -> bytes:
    """Text entropy, and that of well-formed responses."""
    label = "bits per attribute"
    return _grid(study, name, [("all responses", "text_bits", label, 1), ("well-formed", "wellformed_bits", label, 1)])


def lost(study: Study, name: str) -> bytes:
    """Share of the base's entropy that is lost."""
    return _grid(study, name, [("entropy lost", "lost_share", "share of the base's text entropy, %", 100)])


def quality(study: Study, name: str) -> bytes:
    """Form and agreement."""
    rows = [("well-formed", "wellformed", "well-formed responses, %", 100.0)]
    rows.append(("agreement", "agreement", "attributes as planned, %", 100.0))
    return _grid(study, name, rows)


def ratios(study: Study, name: str) -> bytes:
    """Collapse ratios on logarithmic axes, with the bars; methods are moved apart so that intervals can be seen."""
    columns = panels(study)
    with canvas(1, len(columns), 5.2 * len(columns), 4.2) as (figure, axes):
        shown = []
        for one, (what, methods) in zip(axes, columns, strict=True):
            methods = [method for method in methods if method not in (BASE, SFT)]
            for i, method in enumerate(methods):
                if _ratio_curve(one, study, method, 1.4 ** ((i + 0.5) / len(methods) - 0.5)):
                    shown.append(method)
            one.set_yscale("log")
            one.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
            one.axhline(1, color=SOFT, lw=1)
            for bar in BARS:
                one.axhline(bar, color=INK, ls=":", lw=1.1)
                one.text(
                    1.01, bar, f"{bar:g}×", transform=one.get_yaxis_transform(), va="center", color=SOFT, fontsize=8
                )
            title(one, f"collapse ratio: {what}")
            one.set_ylabel("times less collapse than standard SFT")
            size_axis(one, study)
        # Intervals of ratios that are hardly measurable have no end worth seeing: the axis is made for the middles.
        middles = [y for one in axes for line in one.lines for y in line.get_ydata()]
        for one in axes:
            one.set_ylim(0.8 * min(middles), max(2.5 * max(middles), 14))
        legend(figure, shown)
        return svg(figure, name)


def _ratio_curve(axes: Axes, study: Study, method: str, shift: float) -> bool:
    """Ratios with intervals; whether there were any."""
    found = [(study.sizes[size], one) for size in study.sizes if (one := ratio(study, method, size)) is not None]
    if not found:
        return False
    colour, marker, dash = look(method)
    xs = [x * shift for x, _ in found]
    axes.plot(xs, [one.value for _, one in found], color=colour, ls=dash, lw=1.4, zorder=3)
    for x, (_, one) in zip(xs, found, strict=True):
        face = "white" if one.capped else colour
        size = 9 if marker == "*" else 6
        axes.plot(x, one.value, marker=marker, ms=size, color=colour, mfc=face, mec=colour, zorder=4)
        if one.low is None:
            continue
        top = one.value * 1.6 if one.high is None else one.high
        if one.high is None:
            axes.annotate("", (x, top), (x, one.value), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1})
        axes.vlines(x, one.low, top, color=colour, lw=1, zorder=2)
    return True
