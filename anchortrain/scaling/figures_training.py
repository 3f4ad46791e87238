"""Figures of training: drift, and losses against compute."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from anchortrain.evaluate import table
from anchortrain.scaling import fits
from anchortrain.scaling.curves import Point, at, by_size
from anchortrain.scaling.results import BASE, Curve, Study
from anchortrain.scaling.style import INK, canvas, curve, dot, legend, log_ticks, look, nothing, size_axis, svg, title

_SMALLEST = 1e-3  # nats: where the logarithmic axis of drift ends


def drift(study: Study, name: str) -> bytes:
    """During training at the sweep's size, and at the end at every size."""
    with canvas(1, 2, 10.4, 4.4) as (figure, axes):
        during = drift_curves(study)
        for method, points in during.items():
            curve(axes[0], method, [_floored(point) for point in points], marks=False)
        title(axes[0], f"during training, {study.sweep_size}")
        axes[0].set_xlabel("post-training tokens")
        axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
        names = table.ordered(dict.fromkeys(row.method for row in study.rows))
        after = {method: by_size(study, method, "drift") for method in names}
        for method, points in after.items():
            curve(axes[1], method, [_floored(point) for point in points])
        title(axes[1], "after training")
        size_axis(axes[1], study)
        for one in axes:
            one.set_ylabel("KL(R_ref‖R), nats")
            if one.lines:
                one.set_yscale("log")
                heights = [y for line in one.lines for y in line.get_ydata() if y > 0]  # ends of intervals may not be
                one.set_ylim(min(heights) / 2, max(heights) * 2)
                log_ticks(one.yaxis)
            else:
                nothing(one)
        legend(figure, [method for method in names if during.get(method) or after[method]])
        return svg(figure, name)


def _floored(point: Point) -> Point:
    """An estimate of a small divergence may be negative; on a logarithmic axis it lies at the end."""
    return Point(point.x, {seed: max(y, _SMALLEST) for seed, y in point.by_seed.items()}, point.size)


def drift_curves(study: Study) -> dict[str, list[Point]]:
    """Method -> divergence by tokens, at the sweep's size on data of the default narrowness."""
    found: dict[str, dict[float, dict[int, float]]] = {}
    usual = (None, study.defaults["narrowness"])
    for one in study.curves:
        if one.kind == "drift" and one.size == study.sweep_size and one.narrowness in usual:
            for tokens, kl, _ in one.points:
                if tokens and kl is not None:  # at the start it is 0, which has no logarithm
                    found.setdefault(one.method, {}).setdefault(tokens, {})[one.seed] = kl
    return {method: [Point(x, found[method][x]) for x in sorted(found[method])] for method in table.ordered(found)}


def pretrain(study: Study, name: str) -> bytes:
    """Loss during pretraining, one colour for each size, and the law through the final losses of the bases."""
    with canvas(1, 1, 8.2, 4.8) as (figure, (axes,)):
        # From light to dark with size: an order, not categories.
        shades = np.linspace(0.25, 0.95, len(study.sizes))
        colours = dict(zip(study.sizes, (_shade(one) for one in shades), strict=True))
        extra = []
        for size in study.sizes:
            curves = [one for one in study.curves if one.kind == "pretrain" and one.method == BASE and one.size == size]
            for one in curves:
                _loss_curve(axes, one, colours[size])
            if curves:
                extra.append((size, colours[size], "-"))
        ends = pretrain_ends(study)
        law = fits.offset(ends) if len(ends.x) > 3 else None
        if law is not None:
            xs = np.geomspace(min(ends.x), max(ends.x) * 3, 60)
            axes.plot(xs, [law.predict(x).value for x in xs], color=INK, ls="--", lw=1.3, zorder=4)
            terms = law.terms
            ends_b = "" if terms["b"].low is None else f" [{terms['b'].low:.2f}, {terms['b'].high:.2f}]"
            extra.append((f"fit: {terms['c'].value:.3f} + a·C^b, b = {terms['b'].value:.2f}{ends_b}", INK, "--"))
        _losses(axes, "pretraining compute, floating-point operations", "held-out loss of documents, nats per token")
        title(axes, "pretraining loss against compute")
        legend(figure, (), extra)
        return svg(figure, name)


def _shade(share: float) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["cividis_r"](share))


def _loss_curve(axes: Axes, one: Curve, colour: str) -> None:
    points = [(flops, loss) for _, flops, loss in one.points if flops and loss is not None]
    axes.plot([x for x, _ in points], [y for _, y in points], color=colour, lw=1.2, alpha=0.85, zorder=3)
    if points:
        axes.plot(*points[-1], marker="o", ms=4, color=colour, mec="white", mew=0.5, zorder=5)


def pretrain_ends(study: Study) -> fits.Series:
    """(operations, held-out loss at the end, seed) of every base."""
    ends = []
    for one in study.curves:
        points = [(flops, loss) for _, flops, loss in one.points if flops and loss is not None]
        if one.kind == "pretrain" and one.method == BASE and points:
            ends.append((*points[-1], one.seed))
    return fits.Series(*([end[i] for end in ends] for i in range(3)))


def _losses(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if not axes.lines and not axes.collections:
        nothing(axes)
        return
    axes.set_xscale("log")
    log_ticks(axes.xaxis)


def posttrain(study: Study, name: str) -> bytes:
    """Held-out loss of the post-training data against what post-training took, joined over sizes."""
    with canvas(1, 1, 8.2, 4.8) as (figure, (axes,)):
        drawn = []
        for method in table.ordered(dict.fromkeys(row.method for row in study.rows)):
            points = []
            for size in study.sizes if method != BASE else ():
                both = [fits.mean(list(at(study, method, size, one).values())) for one in ("flops", "sft_nll")]
                if both[0] is not None and both[1] is not None and both[0].value > 0:
                    points.append((both[0].value, both[1].value))
            if points:
                drawn.append(method)
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=look(method).colour,
                    ls=look(method).dash,
                    lw=1,
                )
            for x, y in points:
                dot(axes, method, x, y, 30)
        _losses(axes, "compute since the base, floating-point operations", "held-out loss, nats per text token")
        title(axes, "loss on post-training data against compute")
        legend(figure, drawn)
        return svg(figure, name)
