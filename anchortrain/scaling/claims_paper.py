"""What the paper says, in our words, and the test of each on the study's rows (arXiv 2605.09995; docs/results.md)."""

import functools

import numpy as np

from anchortrain.evaluate import table
from anchortrain.scaling import fits
from anchortrain.scaling.claims import MARGIN as MARGIN_OF_SHARES
from anchortrain.scaling.claims import (
    Verdict,
    at_every_size,
    does_not_fall,
    grows,
    json_by_size,
    listed,
    margin,
    means,
    missing,
    not_measured,
    percent,
    shown,
    trend,
)
from anchortrain.scaling.curves import Point, against, along, at, by_size, lost_bits, paired, ratio
from anchortrain.scaling.curves import series as series_of
from anchortrain.scaling.fits import Estimate, mean
from anchortrain.scaling.results import BASE, SFT, Study

QUALITY_POINTS = 0.02  # "quality holds", "at the same quality": within so much of the well-formed share
MALFORMED = 0.5  # an ablation with fewer well-formed responses has its entropy judged over those alone
ENOUGH = 100  # well-formed responses a seed, below which their entropy is not estimated well enough to judge by


def base_grows(study: Study) -> Verdict:
    return trend(by_size(study, BASE, "text_bits"), grows, "Text entropy of the bases", "bits")


def sft_collapses(study: Study) -> Verdict:
    lost = {size: found for size in study.sizes if (found := lost_bits(study, size))}
    if not lost:
        return not_measured(*(missing(study, BASE, SFT) or (SFT,)))

    def clear(by_seed: dict[int, tuple[float, float]]) -> bool:
        """Over seeds where there are several, over samples where there is one."""
        over_seeds = mean([bits for bits, _ in by_seed.values()])
        if over_seeds.low is not None:
            return over_seeds.low > 0
        return all(bits > error for bits, error in by_seed.values())

    over_seeds = {size: mean([bits for bits, _ in found.values()]) for size, found in lost.items()}
    said = f"Bits lost by standard SFT: {listed(study, over_seeds, shown)}."
    return Verdict(at_every_size(study, lost, clear), said, {"lost_bits": json_by_size(over_seeds)})


def larger_sft(study: Study) -> Verdict:
    return trend(by_size(study, SFT, "text_bits"), _falls, "Text entropy of standard SFT", "bits")


def _falls(slope: Estimate) -> bool | None:
    return None if slope.high is None else slope.high < 0


def lost_share(study: Study) -> Verdict:
    stays = functools.partial(does_not_fall, allowed=MARGIN_OF_SHARES)
    return trend(by_size(study, SFT, "lost_share"), stays, "Share of the base's entropy lost by standard SFT", "points")


def better_fit(study: Study) -> Verdict:
    """All SFT models on the default data: of every size, and of every budget at the sweep's size."""
    flat = []
    for size in study.sizes:
        for tokens in study.values_of("tokens", SFT, size):
            nll = at(study, SFT, size, "sft_nll", tokens=tokens)
            bits = at(study, SFT, size, "text_bits", tokens=tokens)
            flat += [(nll[seed], bits[seed], seed) for seed in nll if seed in bits]
    fit = fits.line(fits.Series(*([one[i] for one in flat] for i in range(3)))) if len(flat) > 1 else None
    if fit is None:
        return Verdict(None, "Standard SFT was not measured at several sizes or budgets.")
    slope = fit.terms["b"]
    said = f"Text entropy of standard SFT changes by {shown(slope)} bits per nat of held-out loss, {fit.points} models."
    return Verdict(grows(slope), said, {"slope": slope.json(), "fit": fit.json()})


def temperature(study: Study) -> Verdict:
    """Text entropy at higher temperatures, as long as responses stay as well-formed as at the default."""
    gaps = {point.x: point.mean for point in along(study, SFT, "temperature", "gap_closed")}
    forms = {point.x: point.mean.value for point in along(study, SFT, "temperature", "wellformed")}
    usual = study.defaults["temperature"]
    tried = {one: gap for one, gap in gaps.items() if one > usual and one in forms}
    if not tried or usual not in forms:
        return Verdict(None, "Standard SFT was not sampled above the default temperature.")
    sound = {one: gap for one, gap in tried.items() if forms[one] >= forms[usual] - 0.05}
    said = ", ".join(
        f"T={one:g} closes {percent(gap)} at {100 * forms[one]:.0f} % well-formed" for one, gap in tried.items()
    )
    figures = {
        "gap_closed": {f"{one:g}": gap.json() for one, gap in tried.items()},
        "wellformed": {f"{k:g}": v for k, v in forms.items()},
    }
    kept = f"{100 * forms[usual]:.0f} % well-formed at T={usual:g}"
    holds = all((gap.value if gap.high is None else gap.high) < 0.5 for gap in sound.values())
    return Verdict(holds, f"Standard SFT, {kept}: {said}.", figures | {"judged": [f"{one:g}" for one in sound]})


def masked_ratio(study: Study) -> Verdict:
    return ratios(study, "masked", 4.0)


def ratios(study: Study, method: str, bar: float, low_at_largest: float | None = None) -> Verdict:
    """The collapse ratio at every size against a bar, and the interval's lower end at the largest against another."""
    found = {size: one for size in study.sizes if (one := ratio(study, method, size)) is not None}
    if not found:
        return not_measured(*(missing(study, BASE, SFT, method) or (method,)))
    holds = at_every_size(study, found, lambda one: one.value >= bar)
    largest = list(study.sizes)[-1]
    if low_at_largest is not None and holds is not False:
        low = found[largest].low if largest in found else None
        holds = None if low is None else (holds if low > low_at_largest else False)
    said = f"Less collapse than standard SFT: {listed(study, found, str)}; bar {bar:g}×"
    said += f", lower end above {low_at_largest:g} at {largest}." if low_at_largest is not None else "."
    if any(one.capped for one in found.values()):
        said += " * what collapse is left is below its standard error."
    return Verdict(holds, said, {"by_size": json_by_size(found), "bar": bar})


def stays_diverse(study: Study, method: str) -> Verdict:
    """Text entropy of a method does not fall with size."""
    stays = functools.partial(does_not_fall, allowed=margin(study))
    verdict = trend(by_size(study, method, "text_bits"), stays, f"Text entropy, {table.label(method)}", "bits")
    return Verdict(verdict.holds, verdict.sentence, {**verdict.figures, "margin_bits": margin(study)})


def frontier(study: Study, method: str) -> Verdict:
    """Whether each point of standard SFT has one of the method that is as well-formed and more diverse."""
    theirs, ours = (_frontier(study, one) for one in (SFT, method))
    if len(theirs) < 2 or len(ours) < 2:
        return Verdict(None, f"Standard SFT and {table.label(method)} were not sampled at several temperatures.")
    beaten = [any(q >= quality - QUALITY_POINTS and b > bits for q, b in ours) for quality, bits in theirs]
    best = [max(quality for quality, _ in one) for one in (theirs, ours)]
    said = f"{sum(beaten)} of {len(beaten)} points of standard SFT are beaten by one of {table.label(method)}; best "
    said += f"well-formed share {100 * best[0]:.0f} % against {100 * best[1]:.0f} %."
    return Verdict(all(beaten), said, {"sft": theirs, method: ours, "beaten": sum(beaten)})


def _frontier(study: Study, method: str) -> list[tuple[float, float]]:
    """(well-formed share, text bits) at each temperature, means over seeds."""
    quality = {point.x: point.mean.value for point in along(study, method, "temperature", "wellformed")}
    points = along(study, method, "temperature", "text_bits")
    return [(quality[point.x], point.mean.value) for point in points if point.x in quality]


def quality(study: Study) -> Verdict:
    form, loss = _differences(study, "wellformed"), _differences(study, "sft_nll")
    if not form or not loss:
        return not_measured(*(missing(study, SFT, "masked") or ("masked",)))
    holds_form = at_every_size(study, form, lambda one: one.value >= -QUALITY_POINTS)
    base_loss = means(by_size(study, SFT, "sft_nll"))
    relative = {size: one.value / base_loss[size].value for size, one in loss.items()}
    holds_loss = at_every_size(study, relative, lambda one: one <= QUALITY_POINTS)
    said = "Masked SFT against standard SFT, well-formed share in points: "
    said += f"{listed(study, form, lambda one: shown(one, 1, 100))}; "
    said += f"loss on post-training data, nats per token: {listed(study, loss, lambda one: shown(one, 3))}."
    figures = {"wellformed": json_by_size(form), "sft_nll": json_by_size(loss), "sft_nll_relative": relative}
    return Verdict(_both(holds_form, holds_loss), said, figures)


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _differences(study: Study, quantity: str) -> dict[str, Estimate]:
    pairs = {size: paired(at(study, "masked", size, quantity), at(study, SFT, size, quantity)) for size in study.sizes}
    return {size: one for size, one in pairs.items() if one is not None}


def ablation(study: Study, ablation: str, whole: str) -> Verdict:
    """At least half of the gap that the whole method closes is open again, wherever the ablation was run.

    Malformed text inflates entropy. Where fewer than MALFORMED of the ablation's responses are well-formed, the
    entropies of well-formed responses decide, if every seed has ENOUGH of them; otherwise text entropy decides, which
    can only make the ablation look better than it is.
    """
    if absent := missing(study, BASE, SFT, whole, ablation):
        return not_measured(*absent)
    lost, said, inflated = {}, {}, []
    for size in study.measured(ablation):
        quantity, malformed = _judged_by(study, ablation, size)
        ours, theirs = at(study, ablation, size, quantity), at(study, whole, size, quantity)
        shares = mean([1 - ours[seed] / theirs[seed] for seed in ours if theirs.get(seed, 0) > 0])
        if shares is None:
            continue
        lost[size] = shares
        form = mean(list(at(study, ablation, size, "wellformed").values()))
        said[size] = f"{percent(shares)}" + (f" over {100 * form.value:.0f} % well-formed" if form else "")
        if malformed:
            inflated.append(size)
    if not lost:
        return Verdict(None, f"Without a gain of {table.label(whole)} there is none to lose.")
    sentence = f"Share of the gain of {table.label(whole)} that is lost: {listed(study, said, str)}."
    if inflated:
        sentence += (
            f" At {', '.join(inflated)} text entropy is inflated by malformed text, and too little is well-formed."
        )
    holds = at_every_size(study, lost, lambda one: one.value >= 0.5, study.planned(ablation))
    figures = {"lost_share_of_gain": json_by_size(lost), "inflated_at": inflated}
    for quantity in ("gap_closed", "wellformed_gap_closed", "wellformed"):
        figures[quantity] = json_by_size(means(by_size(study, ablation, quantity)))
    return Verdict(holds, sentence, figures)


def _judged_by(study: Study, ablation: str, size: str) -> tuple[str, bool]:
    """The quantity that an ablation is judged by, and whether it is inflated by malformed text."""
    rows = study.at(ablation, size).values()
    shares = [row.wellformed for row in rows if row.wellformed is not None]
    if not shares or float(np.mean(shares)) >= MALFORMED:
        return "gap_closed", False
    enough = all(row.n is not None and row.n * (row.wellformed or 0) >= ENOUGH for row in rows)
    return ("wellformed_gap_closed", False) if enough else ("gap_closed", True)


def follows(study: Study, method: str) -> tuple[Estimate | None, str]:
    """The slope of output entropy against data entropy, and a sentence with it."""
    _, flat = against(study, method, "narrowness", "data_bits", "text_bits")
    fit = fits.line(flat) if len(flat.x) > 1 else None
    if fit is None:
        return None, f"Not trained on data of several entropies: {table.label(method)}."
    return fit.terms["b"], f"Output against data entropy, {table.label(method)}: slope {shown(fit.terms['b'])}."


def data_slope(study: Study, method: str, *, least: float | None = None, most: float | None = None) -> Verdict:
    """That slope against a bar from below or above."""
    slope, said = follows(study, method)
    if slope is None:
        return Verdict(None, said)
    holds = slope.value >= least if least is not None else slope.value <= (most or 0.0)
    return Verdict(holds, said, {"slope": slope.json(), "bar": least if least is not None else most})


def more_data(study: Study) -> Verdict:
    return trend(_over_examples(study, SFT), _falls, "Text entropy of standard SFT", "bits", "examples")


def _over_examples(study: Study, method: str) -> list[Point]:
    points = along(study, method, "examples", "text_bits")
    return points if len(points) > 1 and fits.log(series_of(points)) else []


def spared(study: Study, method: str) -> Verdict:
    """More examples do not make a method less diverse."""
    stays = functools.partial(does_not_fall, allowed=margin(study))
    return trend(_over_examples(study, method), stays, f"Text entropy, {table.label(method)}", "bits", "examples")
