"""Figures along what is swept at one size: budget, examples, narrowness, temperature."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from anchortrain.evaluate import table
from anchortrain.scaling import fits
from anchortrain.scaling.claims import shown
from anchortrain.scaling.curves import against, along, at, by_size
from anchortrain.scaling.results import BASE, Study
from anchortrain.scaling.style import SOFT, canvas, curve, dot, legend, look, nothing, same_scale, short, svg, title


def _methods(study: Study, axis: str) -> list[str]:
    """Methods that were measured at several values of an axis."""
    size = study.sweep_size
    names = table.ordered(dict.fromkeys(row.method for row in study.rows))
    return [
        name for name in names if len(study.values_of(axis, name, size)) > 1 and (name != BASE or axis == "temperature")
    ]


def _base_band(axes: Axes, study: Study, quantity: str) -> bool:
    """The base as a line across, for axes on which it has no place."""
    found = fits.mean(list(at(study, BASE, study.sweep_size, quantity).values()))
    if found is None:
        return False
    axes.axhline(found.value, color=look(BASE).colour, lw=1.5, zorder=2)
    if found.low is not None:
        axes.axhspan(found.low, found.high, color=look(BASE).colour, alpha=0.12, lw=0, zorder=1)
    return True


def _sweep(study: Study, name: str, axis: str, label: str) -> bytes:
    """Entropy of all responses and of well-formed ones along an axis."""
    methods = _methods(study, axis)
    with canvas(1, 2, 10.4, 4.0) as (figure, axes):
        base = False
        for one, (quantity, heading) in zip(axes, _KINDS, strict=True):
            for method in methods:
                curve(one, method, along(study, method, axis, quantity))
            if not one.lines:
                nothing(one)
            base |= _base_band(one, study, quantity)
            one.set_xscale("log")
            places = sorted({x for method in methods for x in study.values_of(axis, method, study.sweep_size)})
            one.set_xticks(places, [short(x) for x in places])
            one.xaxis.set_minor_locator(NullLocator())
            title(one, f"{heading}, {study.sweep_size}")
            one.set_xlabel(label)
            one.set_ylabel("bits per attribute")
        same_scale(axes)
        legend(figure, [BASE, *methods] if base else methods)
        return svg(figure, name)


_KINDS = (("text_bits", "all responses"), ("wellformed_bits", "well-formed"))


def tokens(study: Study, name: str) -> bytes:
    """Diversity against the post-training budget."""
    return _sweep(study, name, "tokens", "post-training tokens")


def examples(study: Study, name: str) -> bytes:
    """Diversity against distinct examples."""
    return _sweep(study, name, "examples", "post-training examples")


def fit(study: Study, name: str) -> bytes:
    """Text entropy against held-out loss of the post-training data: all sizes, and all budgets at the sweep's size."""
    names = [one for one in table.ordered(dict.fromkeys(row.method for row in study.rows)) if one != BASE]
    # The loss is given the plan where there is one, so the two kinds of methods are not on one scale.
    with canvas(1, 2, 10.4, 4.2) as (figure, axes):
        drawn = set()
        plain = [one for one in names if one.startswith("sft")]
        for one, methods, heading in (
            (axes[0], plain, "without plan"),
            (axes[1], [n for n in names if n not in plain], "given the plan"),
        ):
            for method in methods:
                drawn |= {method} if _fit_points(one, study, method) else set()
            if not one.collections:
                nothing(one)
            title(one, f"text entropy against loss, {heading}")
            one.set_xlabel("held-out loss of post-training data, nats per text token")
            one.set_ylabel("bits per attribute")
        same_scale(axes)
        legend(figure, drawn)
        return svg(figure, name)


def _fit_points(axes: Axes, study: Study, method: str) -> bool:
    """Marks joined over sizes, and those of other budgets joined thinly; whether there were any."""
    nll = {point.size: point.mean.value for point in by_size(study, method, "sft_nll")}
    points = [(nll[p.size], p.mean.value, p.size) for p in by_size(study, method, "text_bits") if p.size in nll]
    budgets, _ = against(study, method, "tokens", "sft_nll", "text_bits")
    colour = look(method).colour
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, lw=1, alpha=0.7)
    if len(budgets) > 1:
        axes.plot([p.x for p in budgets], [p.mean.value for p in budgets], color=colour, lw=0.8, ls=":")
    for point in budgets:
        dot(axes, method, point.x, point.mean.value, _area(study, study.sweep_size))
    for x, y, size in points:
        dot(axes, method, x, y, _area(study, size))
    return bool(points or budgets)


def _area(study: Study, size: str) -> float:
    """Marks from 14 to 80 square points over the logarithm of the parameters."""
    logs = [math.log(one) for one in study.sizes.values()]
    return 14 + 66 * (math.log(study.sizes[size]) - logs[0]) / max(logs[-1] - logs[0], 1e-9)


def data_entropy(study: Study, name: str) -> bytes:
    """Output entropy against data entropy, with slopes."""
    with canvas(1, 1, 8.2, 5.0) as (figure, (axes,)):
        drawn, slopes = [], {}
        for method in _methods(study, "narrowness"):
            points, flat = against(study, method, "narrowness", "data_bits", "text_bits")
            curve(axes, method, points, dash="none")
            if points:
                drawn.append(method)
            if (line := fits.line(flat) if len(flat.x) > 1 else None) is not None:
                xs = np.linspace(min(flat.x), max(flat.x), 2)
                axes.plot(xs, [line.predict(x).value for x in xs], color=look(method).colour, lw=1.2, zorder=2)
                slopes[method] = f": slope {shown(line.terms['b'])}"
        if drawn:
            low, high = axes.get_xlim()
            axes.plot([low, high], [low, high], color=SOFT, ls=":", lw=1.1)
            axes.set_xlim(low, high)
            base = _base_band(axes, study, "text_bits")
            same_scale([axes])
            legend(figure, [BASE, *drawn] if base else drawn, [("output as the data", SOFT, ":")], slopes)
        else:
            nothing(axes)
        title(axes, f"output entropy against data entropy, {study.sweep_size}")
        axes.set_xlabel("entropy of the post-training data, bits per attribute")
        axes.set_ylabel("text entropy of responses, bits per attribute")
        return svg(figure, name)


def frontier(study: Study, name: str) -> bytes:
    """Text entropy against well-formed share, and against well-formed share x agreement for methods with a plan."""
    methods = _methods(study, "temperature")
    with canvas(1, 2, 10.4, 4.4) as (figure, axes):
        for one, by_agreement in zip(axes, (False, True), strict=True):
            for method in methods:
                _frontier(one, study, method, by_agreement)
            if not one.lines:
                nothing(one)
            title(one, f"{'agreement counted, too' if by_agreement else 'over temperature'}, {study.sweep_size}")
            one.set_xlabel("well-formed × agreement, %" if by_agreement else "well-formed responses, %")
            one.set_ylabel("text entropy, bits per attribute")
        same_scale(axes)
        legend(figure, methods)
        return svg(figure, name)


def _frontier(axes: Axes, study: Study, method: str, by_agreement: bool) -> None:
    colour, _, dash = look(method)
    places = []
    for point in along(study, method, "temperature", "text_bits"):
        quality = _mean(study, method, "wellformed", point.x)
        agreement = _mean(study, method, "agreement", point.x) if by_agreement else 1.0
        if quality is not None and agreement is not None:
            places.append((100 * quality * agreement, point.mean.value, point.x))
    axes.plot([x for x, _, _ in places], [y for _, y, _ in places], color=colour, ls=dash, lw=1.3, zorder=3)
    for x, y, _ in places:
        dot(axes, method, x, y, 28)
    for x, y, temperature in places[:1] + places[-1:] if len(places) > 1 else places:
        axes.annotate(f"{temperature:g}", (x, y), (4, 4), textcoords="offset points", fontsize=7, color=colour)


def _mean(study: Study, method: str, quantity: str, temperature: float) -> float | None:
    found = fits.mean(list(at(study, method, study.sweep_size, quantity, temperature=temperature).values()))
    return None if found is None else found.value
