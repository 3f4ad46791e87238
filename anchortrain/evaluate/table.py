"""The table of methods: names, columns and how figures are written, shared by terminal, page and picture."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# Display names in the order of the table; other names follow as they are.
METHODS = {
    "base": "base",
    "sft": "standard SFT",
    "sft_compute": "standard SFT with rehearsal's compute",
    "unmasked": "annotations not masked",
    "masked": "masked SFT",
    "replay": "masked SFT + replay",
    "kl": "KL anchor",
    "kl_js": "Jensen-Shannon anchor",
    "kl_reverse": "reverse KL anchor",
    "kl_adaptive": "adaptive KL anchor",
    "kl_data": "KL anchor on the data's annotations",
    "kl_replay": "KL anchor + replay",
    "no_annotated_pretraining": "no annotated pretraining",
    "plans_from_instructions": "plans learned from instructions only",
    "no_annotation_decoding": "no annotation at decoding",
    "rehearsal_no_anchor": "rehearsal without anchor",
    "rehearsal": "rehearsal",
}

# Kind of entropy -> legend; the order of bars and of the CSS classes.
KINDS = {"text": "response", "annotation": "annotation", "wellformed": "well-formed responses only"}

COLUMNS = (
    "method",
    "text bits",
    "annotation bits",
    "well-formed bits",
    "well-formed",
    "agreement",
    "gap closed",
    "less collapse",
)
# Each column's heading over two lines, for the terminal.
_HEADINGS = (
    ("", "method"),
    ("text", "bits"),
    ("annot.", "bits"),
    ("well-f.", "bits"),
    ("well-", "formed"),
    ("agree-", "ment"),
    ("gap closed", "[95 %]"),
    ("less", "collapse"),
)

MISSING = "n/a"
CAP_MARK = "*"
CAP_NOTE = "* what collapse is left is below its standard error; the ratio divides by the standard error"


def ordered(methods: Mapping[str, Any]) -> list[str]:
    """Names in the order of `METHODS`, then the others."""
    return [name for name in METHODS if name in methods] + [name for name in methods if name not in METHODS]


def label(name: str) -> str:
    """A method's display name, on one line and of a sensible length."""
    clean = "".join(c if c.isprintable() else "?" for c in METHODS.get(name, name))
    return clean if len(clean) <= 40 else clean[:39] + "…"


def base_row(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the base model; empty when it is not there. `summary["base"]` may name it."""
    return summary["methods"].get(summary.get("base", "base"), {})


def sft_row(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of standard SFT, likewise."""
    return summary["methods"].get(summary.get("sft", "sft"), {})


def number(value: float | None, digits: int = 2) -> str:
    """`3.63`, or n/a."""
    # Adding 0 after rounding turns -0.0 into 0.0.
    return MISSING if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as `85 %`, or n/a."""
    return MISSING if value is None else f"{round(100 * value) + 0} %"


def interval(ends: Sequence[float] | None) -> str:
    """`[80, 90]` in percent, or nothing."""
    return "" if ends is None else f"[{round(100 * ends[0])}, {round(100 * ends[1])}]"


def times(row: Mapping[str, Any]) -> str:
    """The collapse ratio as `6.7×`, marked when its denominator is too small to measure, or n/a."""
    value = row.get("collapse_ratio")
    if value is None:
        return MISSING
    return f"{value:.{0 if value >= 20 else 1}f}×{CAP_MARK if row.get('collapse_ratio_capped') else ''}"


def cells(summary: Mapping[str, Any], name: str) -> list[str]:
    """A row of the table, one string for each of `COLUMNS`."""
    row = summary["methods"][name]
    gap = f"{percent(row.get('gap_closed'))} {interval(row.get('gap_closed_interval'))}".strip()
    return [
        label(name),
        number(row.get("text_bits")),
        number(row.get("annotation_bits")),
        number(row.get("wellformed_bits")),
        percent(row.get("wellformed")),
        percent(row.get("agreement")),
        # Standard SFT is the zero of the scale: an interval would say nothing.
        percent(row.get("gap_closed")) if row is sft_row(summary) else gap,
        times(row),
    ]


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What must be known to read the table."""
    rows = summary["methods"].values()
    sizes = sorted({row["n"] for row in rows if row.get("n")})
    found = [f"Semantic entropy in bits, mean over attributes, Chao-Wang-Jost; N = {', '.join(map(str, sizes))}."]
    if any(row.get("collapse_ratio_capped") for row in rows):
        found.append(CAP_NOTE)
    if any(row.get("low_coverage") for row in rows):
        names = ", ".join(label(name) for name, row in summary["methods"].items() if row.get("low_coverage"))
        found.append(f"Coverage below 0.9, more samples are needed: {names}.")
    return found


def scale_end(summary: Mapping[str, Any]) -> float:
    """The end of the axis of entropies: a whole number of bits above everything shown."""
    shown = [row.get(f"{kind}_bits") for row in summary["methods"].values() for kind in KINDS]
    shown += [summary.get("sft_data_bits"), base_row(summary).get("text_bits")]
    return max(1.0, math.floor(max((value for value in shown if value is not None), default=0.0) + 1e-9) + 1.0)


def attribute_bits(row: Mapping[str, Any], attribute: str) -> float | None:
    return row.get("attributes", {}).get(attribute, {}).get("text", {}).get("bits")


def full_bits(summary: Mapping[str, Any], attribute: str) -> float:
    """What counts as full in a column: the base's entropy, or the largest when there is no base."""
    largest = max((attribute_bits(row, attribute) or 0.0 for row in summary["methods"].values()), default=0.0)
    return attribute_bits(base_row(summary), attribute) or largest or 1.0


def format_table(summary: Mapping[str, Any]) -> str:
    """The table as plain text, about 100 columns wide, with its notes. Missing methods are left out."""
    methods = summary["methods"]
    lines = [[heading[row] for heading in _HEADINGS] for row in range(2)]
    lines += [cells(summary, name) for name in ordered(methods)]
    text = aligned(lines, rule_after=2) + notes(summary)
    if surface := statistics(summary):
        text += ["", *aligned(surface, rule_after=1), SURFACE_NOTE]
    return "\n".join(text) + "\n"


# Field of `text_statistics` -> heading and how it is written.
_STATISTICS = {
    "distinct_1": ("distinct-1", lambda value: number(value, 3)),
    "distinct_2": ("distinct-2", lambda value: number(value, 3)),
    "distinct_3": ("distinct-3", lambda value: number(value, 3)),
    "mean_words": ("words", lambda value: number(value, 1)),
    "exact_repeats": ("repeats", percent),
    "empty": ("empty", percent),
}

SURFACE_NOTE = "Surface statistics of words, not of meaning; they fall with the number and length of texts."


def statistics(summary: Mapping[str, Any]) -> list[list[str]]:
    """Text statistics as a table with a heading; empty unless a method has them (real text)."""
    methods = summary["methods"]
    found = [name for name in ordered(methods) if methods[name].get("text_statistics")]
    if not found:
        return []
    return [["responses", *(heading for heading, _ in _STATISTICS.values())]] + [
        [
            label(name),
            *(write(methods[name]["text_statistics"].get(field)) for field, (_, write) in _STATISTICS.items()),
        ]
        for name in found
    ]


def aligned(lines: Sequence[Sequence[str]], rule_after: int) -> list[str]:
    """Columns under each other, the first to the left, with a rule under the heading."""
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    drawn = [
        "  ".join(_pad(cell, width, i > 0) for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]
    return [*drawn[:rule_after], "─" * (sum(widths) + 2 * (len(widths) - 1)), *drawn[rule_after:]]


def _width(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text if not unicodedata.combining(c))


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
