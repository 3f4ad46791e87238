"""What a reader should look at before training: keys and annotations that look wrong, and what to do about it."""

from collections.abc import Iterator
from typing import Any

NEAR_CONSTANT = 0.95  # share of a key's tags with its most frequent value
NEAR_UNIQUE = 0.9  # different values for each occurrence
MIN_OCCURRENCES = 30  # of a key, before it is judged by its values
RARE = 0.02  # share of the chunks with annotations
MANY_KEYS = 50
MANY_FAILED = 0.01
LOW_COVERAGE = 0.3
_ERRORS = 2.0  # standard errors above the control that count as something

Figures = dict[str, Any]


def calls(figures: Figures) -> list[Figures]:
    """Each with `kind`, `keys` (empty: it is about the whole), `what` and `do`, in one sentence each."""
    found = list(_of_corpus(figures))
    by_kind: dict[str, Figures] = {}
    for kind, key, what, do in _of_keys(figures):
        one = by_kind.setdefault(kind, {"kind": kind, "keys": [], "what": what, "do": do})
        one["keys"].append(key)
    return found + list(by_kind.values())


def _call(kind: str, what: str, do: str) -> Figures:
    return {"kind": kind, "keys": [], "what": what, "do": do}


def _of_corpus(figures: Figures) -> Iterator[Figures]:
    corpus = figures["corpus"]
    if not corpus["annotated"]:
        yield _call("unannotated", "No chunk has a tag.", "Run `anchortrain annotate` on the corpus first.")
        return
    if corpus["coverage"] < LOW_COVERAGE:
        yield _call(
            "low coverage",
            f"Only {100 * corpus['coverage']:.1f} % of the chunks have tags.",
            "Look at the failures below, and whether the schema suits this sort of text.",
        )
    if corpus["failed"] > MANY_FAILED * corpus["chunks"]:
        yield _call(
            "failures",
            f"{100 * corpus['failed'] / corpus['chunks']:.1f} % of the chunks failed.",
            "Read the reasons, mend their cause, and run `anchortrain annotate` again: it takes up what is missing.",
        )
    if corpus["different_keys"] > MANY_KEYS:
        yield _call(
            "many keys",
            f"There are {corpus['different_keys']:,} different keys.",
            "Use a schema with few keys and put what varies into values: a model has to learn every key.",
        )


def _of_keys(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    """(kind, key, what, do)."""
    for row in figures["keys"]:
        key, enough = row["key"], row["occurrences"] >= MIN_OCCURRENCES
        if row["share_of_annotated"] < RARE:
            yield (
                "rarely present",
                key,
                f"In less than {100 * RARE:.0f} % of the annotated chunks.",
                "Drop the key, or let its extractor find more: so rare a key is hardly learnt.",
            )
        if enough and row["top_share"] >= NEAR_CONSTANT:
            yield (
                "near-constant",
                key,
                f"One value makes up {100 * NEAR_CONSTANT:.0f} % or more of its tags.",
                "Drop the key, or split that value into finer ones: it costs tokens and decides nothing.",
            )
        if enough and row["distinct"] >= NEAR_UNIQUE * row["occurrences"]:
            yield (
                "near-unique",
                key,
                "Almost every tag has a value of its own.",
                "Use coarser or closed values: a value that never comes again cannot be learnt or sampled.",
            )
        if tells_nothing(figures, key):
            yield (
                "tells nothing about the text",
                key,
                "Neither view finds more information than with annotations of other documents.",
                "Look at examples of it, and drop it unless you know why it should matter.",
            )


def tells_nothing(figures: Figures, key: str) -> bool:
    """Whether both views measured the key and neither stands out from its control."""
    information = figures["information"]
    if not information["measured"]:
        return False
    recovered = information["recovery"].get(key)
    saved = ((information["saving"]["all"] or {}).get("keys") or {}).get(key)
    if recovered is None and saved is None:
        return False
    found = []
    if recovered is not None:
        error = max(recovered["error"], recovered["control_error"])
        found.append(recovered["bits"] > max(recovered["control_bits"], 0.0) + _ERRORS * error)
    if saved is not None:
        error = max(saved["bits_per_word_error"], saved["control_bits_per_word_error"])
        found.append(saved["bits_per_word"] > max(saved["control_bits_per_word"], 0.0) + _ERRORS * error)
    return not any(found)
