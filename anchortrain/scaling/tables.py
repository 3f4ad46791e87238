"""The tables of a study, as plain strings; the page and `tables.md` show the same ones."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anchortrain.evaluate import table
from anchortrain.scaling import fits
from anchortrain.scaling.claims import shown
from anchortrain.scaling.claims_ours import predictions
from anchortrain.scaling.curves import along, at, base_agreement, by_size, ratio, series
from anchortrain.scaling.figures_training import pretrain_ends
from anchortrain.scaling.fits import Estimate
from anchortrain.scaling.results import BASE, SFT, Study
from anchortrain.scaling.style import short


class Table(NamedTuple):
    title: str
    lines: Sequence[Sequence[str]]  # the first is the head
    notes: Sequence[str] = ()


def tables(study: Study) -> list[Table]:
    """All tables that have rows."""
    found = [_bases(study), _learning_rates(study)]
    found += [_methods(study, size) for size in study.sizes]
    found += [_sweep(study, axis, label) for axis, label in _SWEPT.items()]
    found += [_fits(study), _predictions(study)]
    return [one for one in found if len(one.lines) > 1]


def methods_of(study: Study) -> list[str]:
    """Methods with rows or expected to have them, in the order of all tables."""
    return table.ordered(dict.fromkeys((BASE, *study.methods, *(row.method for row in study.rows))))


def _mean(study: Study, method: str, size: str, quantity: str, **axes: float) -> Estimate | None:
    return fits.mean(list(at(study, method, size, quantity, **axes).values()))


def _cell(one: Estimate | None, write: Callable[[Estimate], str]) -> str:
    return table.MISSING if one is None else write(one)


def _bits(one: Estimate) -> str:
    return shown(one, 2)


def _percents(one: Estimate) -> str:
    return shown(one, 1, 100)


def _large(one: Estimate) -> str:
    return f"{one.value:.2e}"


_COLUMNS: tuple[tuple[str, str, Callable[[Estimate], str]], ...] = (
    ("text bits", "text_bits", _bits),
    ("well-formed bits", "wellformed_bits", _bits),
    ("annotation bits", "annotation_bits", _bits),
    ("well-formed, %", "wellformed", _percents),
    ("agreement, %", "agreement", _percents),
    ("drift, nats", "drift", _bits),
    ("loss, nats", "sft_nll", lambda one: shown(one, 3)),
    ("gap closed, %", "gap_closed", _percents),
)


def _methods(study: Study, size: str) -> Table:
    head = ["method", "seeds", *(name for name, _, _ in _COLUMNS), "less collapse", "operations"]
    lines, capped = [head], False
    for method in methods_of(study):
        rows = study.at(method, size)
        if not rows:
            continue
        cells = [_cell(_mean(study, method, size, quantity), write) for _, quantity, write in _COLUMNS]
        found = None if method == SFT else ratio(study, method, size)
        if method == SFT:  # the zero of the scale: an interval would say nothing
            cells[-1] = "0"
        capped |= found is not None and found.capped
        cells += [table.MISSING if found is None else str(found), _cell(_mean(study, method, size, "flops"), _large)]
        lines.append([table.label(method), str(len(rows)), *cells])
    notes = ["Means over seeds with 95 % t-intervals. Loss: held-out post-training data, per text token."]
    notes += [table.CAP_NOTE] if capped else []
    return Table(f"Size {size}: {study.sizes[size]:,.0f} non-embedding parameters", lines, notes)


def _bases(study: Study) -> Table:
    lines = [
        ["size", "parameters", "seeds", "text bits", "prior bits", "loss, nats", "agreement, %", "gate", "operations"]
    ]
    prior = fits.mean(list(study.prior_bits.values()))
    for size, parameters in study.sizes.items():
        agreements = base_agreement(study, size)
        agreement = fits.mean(list(agreements.values()))
        lines.append(
            [
                size,
                f"{parameters:,.0f}",
                str(len(study.at(BASE, size))),
                _cell(_mean(study, BASE, size, "text_bits"), _bits),
                _cell(prior, _bits),
                _cell(_mean(study, BASE, size, "document_nll"), lambda one: shown(one, 3)),
                _cell(agreement, _percents),
                _gate(study, agreements),
                _cell(_mean(study, BASE, size, "flops"), _large),
            ]
        )
    notes = (
        []
        if study.base_gate is None
        else [f"Gate: agreement of at least {100 * study.base_gate:g} %, mean over seeds."]
    )
    return Table("Bases", lines, notes)


def _learning_rates(study: Study) -> Table:
    """Whether the rule for the learning rate is near the best."""
    lines = [["size", "learning rate", "held-out loss of documents, nats"]]
    lines += [[size, f"{factor:g} × the rule's", f"{loss:.4f}"] for size, factor, loss in study.learning_rates]
    return Table("Learning rates of pretraining", lines, ["One seed."])


def _gate(study: Study, agreements: dict[int, float]) -> str:
    if study.base_gate is None or not agreements:
        return table.MISSING
    passed = sum(one >= study.base_gate for one in agreements.values())
    verdict = "passes" if float(np.mean(list(agreements.values()))) >= study.base_gate else "fails"
    return f"{verdict} ({passed} of {len(agreements)} seeds)"


_SWEPT = {
    "tokens": "post-training tokens",
    "examples": "examples",
    "narrowness": "narrowness of the data",
    "temperature": "temperature",
}


def _sweep(study: Study, axis: str, label: str) -> Table:
    """Text bits (well-formed share) by method along an axis."""
    size = study.sweep_size
    values: set[float] = set()
    swept = []
    for method in methods_of(study):
        own = study.values_of(axis, method, size)
        if len(own) > 1 and (method != BASE or axis == "temperature"):
            swept.append(method)
            values |= set(own)
    lines = [["method", *map(short, sorted(values))]] if swept else []
    for method in swept:
        bits = {point.x: point.mean for point in along(study, method, axis, "text_bits")}
        form = {point.x: point.mean for point in along(study, method, axis, "wellformed")}
        cells = [_swept_cell(bits.get(one), form.get(one)) for one in sorted(values)]
        lines.append([table.label(method), *cells])
    return Table(f"Text bits over {label}, size {size}", lines, ["After the slash: well-formed share in percent."])


def _swept_cell(bits: Estimate | None, form: Estimate | None) -> str:
    said = _cell(bits, _bits)
    return said if form is None else f"{said} / {100 * form.value:.0f}"


def _fits(study: Study) -> Table:
    """How each quantity goes with size."""
    lines = [["quantity", "method", "law", "a", "b", "c", "points"]]
    laws = [("text bits", "text_bits", fits.log), ("share lost", "lost_share", fits.log)]
    laws += [("loss on post-training data", "sft_nll", fits.power), ("loss on documents", "document_nll", fits.offset)]
    for name, quantity, law in laws:
        for method in methods_of(study):
            points = by_size(study, method, quantity)
            fit = law(series(points)) if len(points) > 1 else None
            if fit is not None and not (method == BASE and quantity == "lost_share"):
                lines.append(_fit_line(name, method, fit, "N"))
    ends = pretrain_ends(study)
    if len(ends.x) > 3 and (fit := fits.offset(ends)) is not None:
        lines.append(_fit_line("pretraining loss", BASE, fit, "C"))
    notes = ["N: non-embedding parameters, C: floating-point operations. Intervals are 95 %, from Student's t."]
    return Table("Fits", lines, notes)


def _fit_line(name: str, method: str, fit: fits.Fit, x: str) -> list[str]:
    cells = [_term(fit.terms[one]) if one in fit.terms else "" for one in ("a", "b", "c")]
    return [name, table.label(method), fit.formula.replace("x", x), *cells, str(fit.points)]


def _term(one: Estimate) -> str:
    """Four significant digits: coefficients are of any size."""
    small = one.value != 0 and not 1e-3 <= abs(one.value) < 1e4
    text = f"{one.value:.3g}" if small else f"{one.value:.{max(0, 3 - math.floor(math.log10(abs(one.value) or 1)))}f}"
    return text if one.low is None else f"{text} [{one.low:.3g}, {one.high:.3g}]"


def _predictions(study: Study) -> Table:
    """The largest size as the smaller ones predict it, and the next as all do."""
    lines = [["method", "law", "predicted", "measured", "inside", "next size", "predicted there"]]
    for method, one in predictions(study).items():
        low, high = one["predicted"]["interval"]
        further = one["next"]
        ends = further["interval"] or (math.nan, math.nan)
        lines.append(
            [
                table.label(method),
                one["formula"],
                f"{one['predicted']['value']:.2f} [{low:.2f}, {high:.2f}]",
                f"{one['measured']:.2f}",
                "yes" if one["inside"] else "no",
                f"{one['next_x']:,.0f}",
                f"{further['value']:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]",
            ]
        )
    return Table("Text bits at the largest size, predicted from the others", lines, ["95 % prediction intervals."])
