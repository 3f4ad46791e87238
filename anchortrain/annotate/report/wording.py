"""What a report says, for terminal and page alike: the finding in sentences, tables, and what they mean."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from anchortrain.annotate.report.likelihood import WORDS_OF_CHUNK
from anchortrain.annotate.report.recovery import CLASSES
from anchortrain.evaluate.table import MISSING, number

Figures = Mapping[str, Any]

TABLE_KEYS = 30  # rows of a table
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def shown(text: str, *, keep: str = "", most: int = 0) -> str:
    """Text that no terminal or browser obeys: control and format characters as '?', cut to `most` characters."""
    cut = text if not most or len(text) <= most else text[: most - 1] + "…"
    return "".join("?" if unicodedata.category(c) in _HIDDEN and c not in keep else c for c in cut)


def share(value: float | None) -> str:
    """`12 %`; small ones with a digit more, so that little is not shown as nothing."""
    if value is None:
        return MISSING
    percent = 100 * value
    if 0 < percent < 0.1:
        return "<0.1 %"
    # Almost all is not all.
    digits = 1 if abs(percent) < 9.95 or 99 < percent < 100 else 0
    return f"{percent:.{digits}f} %".replace(".0 %", " %") if percent < 99.95 or value >= 1 else ">99.9 %"


def bound(bits: float | None) -> str:
    """A lower bound, which is never below 0; what was measured stands beside it when it is."""
    if bits is None:
        return MISSING
    return number(bits) if bits > -0.005 else f"0 ({number(bits)})"


def plural(n: int, one: str) -> str:
    return f"{n:,} {one}" + ("" if n == 1 else "s")


def finding(figures: Figures) -> list[str]:
    """The result in a few sentences."""
    corpus, tokens, information = figures["corpus"], figures["tokens"], figures["information"]
    if not corpus["annotated"]:
        return [f"None of {plural(corpus['chunks'], 'chunk')} in {plural(corpus['documents'], 'document')} has a tag."]
    said = [
        f"{corpus['annotated']:,} of {plural(corpus['chunks'], 'chunk')} ({share(corpus['coverage'])}) have tags, "
        f"{corpus['tags_per_annotation']:.1f} to an annotation; they take {share(tokens['share'])} of all tokens."
    ]
    if not information["measured"]:
        return [*said, f"What they tell about the text was not measured: {information['reason']}."]
    identified, pays = information["identification"], figures["pays"]
    if identified:
        said.append(
            f"Among {identified['candidates']} annotations a held-out text's own fits best in "
            f"{share(identified['first'])} of cases: at least {bound(identified['bits'])} bits."
        )
    if pays:
        less = pays["loss_saved_not_spelled"]
        said.append(
            f"A small language model given them loses {share(max(pays['loss_saved'], 0.0))} less on the text"
            + (f", {share(max(less, 0.0))} on words that they do not spell out." if less is not None else ".")
        )
    return said


def counted_over(figures: Figures) -> list[str]:
    """What is counted over what."""
    corpus, sample, tokens = figures["corpus"], figures["sample"], figures["tokens"]
    everything = f"{plural(corpus['chunks'], 'chunk')} of {plural(corpus['documents'], 'document')}"
    said = [f"Coverage, tags and values: all of {everything}."]
    whole = sample["chunks"] == corpus["chunks"]
    said.append(
        f"Tokens ({tokens['unit']}), information and examples: "
        + (
            "all of them."
            if whole
            else f"{plural(sample['chunks'], 'chunk')} of {plural(sample['documents'], 'document')}"
            " drawn by the hash of their ids."
        )  # fmt: skip
    )
    if any(row["values_over"] == "sample" for row in figures["keys"]):
        said.append(
            "*: too many different values to count them all; their number, entropy and rarest are those of the sample."
        )
    if sample["cut"]:
        said.append(
            f"Of {plural(sample['cut'], 'chunk')} only the first {sample['cut_at_characters']:,} characters were read."
        )
    return said


def corpus_table(figures: Figures) -> list[list[str]]:
    """What became of the chunks."""
    corpus, tokens = figures["corpus"], figures["tokens"]
    rows = [["chunks", "number", "share"]]
    for name, field in (
        ("with tags", "annotated"),
        ("empty annotation", "empty"),
        ("not suited (no annotation)", "unannotated"),
        ("failed", "failed"),
    ):
        rows.append([name, f"{corpus[field]:,}", share(corpus[field] / corpus["chunks"])])
    rows.append(["tokens of annotations", f"{tokens['annotation']:,}", share(tokens["share"])])
    return rows


def failures(figures: Figures) -> list[str]:
    return [f"{one['chunks']:,}× {shown(one['reason'])}" for one in figures["corpus"]["failures"]]


def key_table(figures: Figures) -> list[list[str]]:
    """Presence and values by key."""
    rows = [["key", "annotated chunks", "tags", "values", "entropy, bits", "effective values", "most frequent value"]]
    for row in figures["keys"][:TABLE_KEYS]:
        sampled = "*" if row["values_over"] == "sample" else ""
        least = "≥ " if row["at_least"] else ""
        bits, effective = row["entropy_bits"], row["effective"]
        top = row["top"][0]["value"] if row["top"] else MISSING
        rows.append(
            [
                shown(row["key"], most=40),
                share(row["share_of_annotated"]),
                f"{row['tags']:,}",
                f"{row['distinct']:,}{sampled}",
                MISSING if bits is None else f"{least}{number(bits)}{sampled}",
                MISSING if effective is None else f"{least}{_count(effective)}",
                f"{shown(top, most=28)} ({share(row['top_share'])})",
            ]
        )
    return rows


def _count(effective: float) -> str:
    return f"{effective:.1f}" if effective < 100 else f"{effective:,.0f}"


def key_notes(figures: Figures) -> list[str]:
    said = ["The effective number of values is that of equally frequent ones with the same entropy."]
    if any(row["at_least"] for row in figures["keys"]):
        said.append("≥: too many values occur once for their entropy to be estimated; it is at least this.")
    more = figures["corpus"]["different_keys"] - min(TABLE_KEYS, len(figures["keys"]))
    if more > 0:
        said.append(f"{plural(more, 'rarer key')} are not listed." if more > 1 else "One rarer key is not listed.")
    return said


def recovery_table(figures: Figures) -> list[list[str]]:
    """View one: the tag from the text; empty when nothing was measured."""
    found = figures["information"].get("recovery")
    if not found:
        return []
    rows = [["key", "bits", "of entropy", "share", "accuracy", "majority", "control, bits"]]
    for key, one in found.items():
        bits = f"{bound(one['bits'])} ± {number(one['error'])}"
        told = share(max(one["share"], 0.0))
        guessed = [share(one["accuracy"]), share(one["majority"])]
        rows.append([shown(key, most=40), bits, number(one["entropy"]), told, *guessed, number(one["control_bits"])])
    return rows


RECOVERY_NOTES = (
    "Bits of the tag that a linear classifier finds in the text: its entropy less the classifier's cross-entropy.",
    f"Classes are a key's {CLASSES} most frequent values, other, and absent; of several values the first counts.",
    "A lower bound of the mutual information: a better classifier could only find more. ±: standard error.",
    "Control: tags of other documents, which no text tells anything about.",
)


def saving_table(figures: Figures) -> list[list[str]]:
    """View two: the text from the tag; empty when nothing was measured."""
    saving = figures["information"].get("saving")
    if not saving or not saving["all"]:
        return []
    rest = saving["not_spelled"]
    rows = [["key", "bits a chunk", "bits a word", "not spelled out, bits a chunk", "control, bits a chunk"]]
    rows.append(["all keys", *_saved(saving["all"], rest)])
    for key, one in saving["all"]["keys"].items():
        rows.append([shown(key, most=40), *_saved(one, rest and rest["keys"].get(key))])
    return rows


def _saved(one: Figures, rest: Figures | None) -> list[str]:
    less = MISSING if rest is None else f"{number(rest['bits_per_chunk'])} ± {number(rest['bits_per_chunk_error'])}"
    return [
        f"{number(one['bits_per_chunk'])} ± {number(one['bits_per_chunk_error'])}",
        number(one["bits_per_word"], 3),
        less,
        number(one["control_bits_per_chunk"]),
    ]


def saving_notes(figures: Figures) -> list[str]:
    saving = figures["information"]["saving"]
    one, pays = saving["all"], figures["pays"]
    said = [
        f"Bits that a bigram model saves when told the tags; it needs {one['bits_per_word_without']:.2f} bits a word "
        f"without them, {one['bits_per_word_with']:.2f} with all ({one['chunks']:,} held-out chunks, the first "
        f"{WORDS_OF_CHUNK} words of each).",
        "This is no bound: a larger model guesses part of it from the text before. Not spelled out: words that stand "
        "in the annotation itself are left aside, so that copying does not count.",
        "Control: annotations of other documents, which should save nothing.",
    ]
    if pays:
        rest = pays["ratio_not_spelled"]
        said.append(
            f"Annotations add {share(pays['tokens_added'])} to the tokens of their texts and save "
            f"{share(pays['loss_saved'])} of the loss: a token of annotation saves {pays['ratio']:.2f} of what a token "
            f"of text costs{'' if rest is None else f', {rest:.2f} without words spelled out'}. "
            "From 1 on it would pay for itself."
        )
    return said


def identification_notes(figures: Figures) -> list[str]:
    one = figures["information"].get("identification")
    if not one:
        return []
    return [
        f"Which of {one['candidates']} annotations belongs to a held-out text? Its own fits best in "
        f"{share(one['first'])} of cases (chance {share(1 / one['candidates'])}, "
        f"control {share(one['control_first'])}).",
        f"That proves {bound(one['bits'])} ± {number(one['error'])} bits of mutual information between annotation and "
        f"text, of {number(one['most_bits'])} that {one['candidates']} candidates could prove "
        f"(control {number(one['control_bits'])}); copied words count here.",
    ]


def value_lines(row: Figures) -> tuple[str, str]:
    """The most frequent and the rarest values of a key."""
    return _listed(row["top"]), _listed(row["rarest"])


def _listed(values: Sequence[Figures]) -> str:
    return ", ".join(f"{shown(one['value'], most=40)} {one['count']:,}" for one in values)


def call_lines(figures: Figures) -> list[tuple[str, str]]:
    """What to look at and what to do: (title, sentences)."""
    found = []
    for call in figures["calls"]:
        keys = [shown(key, most=40) for key in call["keys"]]
        listed = ", ".join(keys[:8]) + (f" and {len(keys) - 8:,} more" if len(keys) > 8 else "")
        title = f"{call['kind'].capitalize()}: {listed}" if keys else call["kind"].capitalize()
        found.append((title, f"{call['what']} {call['do']}"))
    return found
