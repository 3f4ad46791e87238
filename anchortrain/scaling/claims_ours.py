"""What this project claims beyond the paper: the KL anchor, replay and rehearsal, each with its bar."""

from anchortrain.evaluate import table
from anchortrain.scaling import fits
from anchortrain.scaling.claims import (
    Verdict,
    at_every_size,
    json_by_size,
    listed,
    means,
    missing,
    not_measured,
    percent,
    shown,
)
from anchortrain.scaling.claims_paper import QUALITY_POINTS
from anchortrain.scaling.curves import at, by_size, gated, paired, series
from anchortrain.scaling.fits import Estimate, mean
from anchortrain.scaling.results import BASE, SFT, Study

DRIFTED = 0.5  # nats: less is no drift to speak of
PREDICTED = (BASE, SFT, "masked", "kl", "rehearsal")


def masked_drifts(study: Study) -> Verdict:
    found = means(by_size(study, "masked", "drift"))
    if not found:
        return not_measured("masked")
    said = f"KL(R_ref‖R) of masked SFT, nats: {listed(study, found, shown)}."
    return Verdict(at_every_size(study, found, lambda one: one.value >= DRIFTED), said, {"drift": json_by_size(found)})


def anchor_holds(study: Study) -> Verdict:
    """The ratio of means over seeds is held to the bar: ratios within a seed weigh small drifts too much."""
    drifts = {method: means(by_size(study, method, "drift")) for method in ("masked", "kl", "replay", "kl_replay")}
    both = {
        size: one.value / drifts["masked"][size].value for size, one in drifts["kl"].items() if size in drifts["masked"]
    }
    if not both:
        return not_measured(*(missing(study, "masked", "kl") or ("kl",)))
    said = f"KL(R_ref‖R) of the KL anchor, nats: {listed(study, drifts['kl'], shown)}; "
    said += f"as a share of masked SFT's: {listed(study, both, lambda one: f'{100 * one:.0f} %')}."
    figures = {method: json_by_size(found) for method, found in drifts.items() if found}
    return Verdict(at_every_size(study, both, lambda one: one <= 0.5), said, figures)


def anchor_beats_replay(study: Study) -> Verdict:
    found = _differences(study, "kl", "replay", "drift")
    if not found:
        return not_measured(*(missing(study, "kl", "replay") or ("replay",)))
    said = f"Drift of the KL anchor minus that of replay, nats: {listed(study, found, shown)}."
    gaps = {
        method: json_by_size(means(by_size(study, method, "gap_closed"))) for method in ("kl", "replay", "kl_replay")
    }
    holds = at_every_size(study, found, lambda one: one.value < 0, study.planned("replay"))
    return Verdict(holds, said, {"difference": json_by_size(found), "gap_closed": gaps})


def _differences(study: Study, method: str, other: str, quantity: str) -> dict[str, Estimate]:
    pairs = {size: paired(at(study, method, size, quantity), at(study, other, size, quantity)) for size in study.sizes}
    return {size: one for size, one in pairs.items() if one is not None}


def rehearsal(study: Study, quantity: str, least: float, what: str) -> Verdict:
    """A least share for rehearsal at every size that passes the base gate; the model before it stands beside it."""
    passed = gated(study)
    if not passed:
        return Verdict(None, "No base passes the gate.")
    every = means(by_size(study, "rehearsal", quantity))
    found = {size: one for size, one in every.items() if size in passed}
    if not found:
        return not_measured("rehearsal")
    before = means(by_size(study, "kl", quantity))
    said = f"{what}: {listed(study, found, percent)}"
    said += f"; without rehearsal {listed(study, before, percent)}." if before else "."
    if failed := [size for size in study.sizes if size not in passed]:
        said += f" The base does not pass its gate at {', '.join(failed)}."
    figures = {"rehearsal": json_by_size(every), "kl": json_by_size(before), "gated_sizes": passed}
    return Verdict(at_every_size(study, found, lambda one: one.value >= least, passed), said, figures)


def rehearsal_form(study: Study) -> Verdict:
    passed = gated(study)
    found = _differences(study, "rehearsal", "sft_compute", "wellformed")
    judged = {size: one for size, one in found.items() if size in passed}
    if not judged:
        return not_measured(*(missing(study, "rehearsal", "sft_compute") or ("rehearsal",)))
    before = _differences(study, "kl", SFT, "wellformed")
    form = means(by_size(study, "rehearsal", "wellformed"))
    said = (
        f"Well-formed share against standard SFT of the same compute, points: {listed(study, judged, _points)}; itself "
    )
    said += f"{listed(study, form, percent)}."
    said += f" Without rehearsal, against standard SFT: {listed(study, before, _points)}." if before else ""
    figures = {
        "difference": json_by_size(found),
        "wellformed": json_by_size(form),
        "kl_difference": json_by_size(before),
    }
    holds = at_every_size(study, judged, lambda one: one.value >= -QUALITY_POINTS, passed)
    return Verdict(holds, said, figures | {"gated_sizes": passed})


def _points(one: Estimate) -> str:
    return shown(one, 1, 100)


def unanchored(study: Study) -> Verdict:
    if absent := missing(study, "rehearsal", "rehearsal_no_anchor"):
        return not_measured(*absent)
    bits = _differences(study, "rehearsal_no_anchor", "rehearsal", "text_bits")
    form = _differences(study, "rehearsal_no_anchor", "rehearsal", "wellformed")
    said = f"Rehearsal without the anchor against with it, text bits: {listed(study, bits, shown)}"
    said += f"; well-formed share in points: {listed(study, form, _points)}."
    holds = at_every_size(study, bits, lambda one: one.value < 0, study.planned("rehearsal_no_anchor"))
    return Verdict(holds, said, {"text_bits": json_by_size(bits), "wellformed": json_by_size(form)})


def compute(study: Study) -> Verdict:
    found = means(by_size(study, "sft_compute", "gap_closed"))
    if not found:
        return not_measured("sft_compute")
    said = f"Share of the gap that standard SFT closes with rehearsal's compute: {listed(study, found, percent)}."
    holds = at_every_size(study, found, lambda one: one.value <= 0.1, study.planned("sft_compute"))
    return Verdict(holds, said, {"gap_closed": json_by_size(found)})


def replay_agreement(study: Study) -> Verdict:
    """Within a seed, the gain in agreement averaged over sizes; its interval must lie above zero."""
    pairs = [("replay", "masked"), ("kl_replay", "kl")]
    found, said = {}, []
    for method, without in pairs:
        gains: dict[int, list[float]] = {}
        for size in study.sizes:
            ours, theirs = (at(study, one, size, "agreement") for one in (method, without))
            for seed in ours.keys() & theirs.keys():
                gains.setdefault(seed, []).append(ours[seed] - theirs[seed])
        gain = mean([sum(one) / len(one) for _, one in sorted(gains.items())])
        if gain is not None:
            found[method] = gain
            said.append(f"{table.label(method)} over {table.label(without)} {_points(gain)}")
    if not found:
        return not_measured("replay", "kl_replay")
    if len(found) < len(pairs) or any(gain.low is None for gain in found.values()):
        holds = None
    else:
        holds = all(gain.low > 0 for gain in found.values() if gain.low is not None)
    return Verdict(holds, f"Agreement gained by replay, points: {'; '.join(said)}.", {"gain": json_by_size(found)})


def predictions(study: Study) -> dict[str, dict]:
    """Method -> text entropy of the largest size as the others predict it, and of the next."""
    found = {method: fits.next_size(series(by_size(study, method, "text_bits")), fits.log) for method in PREDICTED}
    return {method: one for method, one in found.items() if one is not None}


def prediction(study: Study) -> Verdict:
    found = predictions(study)
    if not found:
        return Verdict(None, "Too few sizes or seeds to predict one from the others.")
    said = []
    for method, one in found.items():
        low, high = one["predicted"]["interval"]
        inside = "inside" if one["inside"] else "outside"
        said.append(f"{table.label(method)} {one['measured']:.2f}, {inside} [{low:.2f}, {high:.2f}]")
    holds = all(one["inside"] for one in found.values())
    return Verdict(holds, f"Text entropy at the largest size measured: {'; '.join(said)}.", found)
