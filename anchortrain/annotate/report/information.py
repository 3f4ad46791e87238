"""Mutual information between annotations and texts, measured on held-out documents in two ways, each with a control."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from anchortrain.annotate.report import likelihood, recovery
from anchortrain.annotate.report.sample import SampledDocument, Split, split

KEYS = 12  # the most frequent ones are measured
MIN_DOCUMENTS = 10  # with annotations
MIN_CHUNKS = 60  # with annotations, and a third of them at least to learn from
_MIN_OF_KEY = 10

Figures = dict[str, Any]


def measure(documents: Sequence[SampledDocument], step: Callable[[str], None] = lambda _: None) -> Figures:
    """Both views.

    Args:
      documents: the sample.
      step: called with the name of each step before it begins.

    Returns:
      `measured` False with `reason` when there is too little to measure; else `split` (chunks in each part),
      `recovery` (by key), `saving` and `identification`, all in bits. Every figure is finite.
    """
    annotated = [document for document in documents if any(chunk.annotation for chunk in document.chunks)]
    chunks = sum(bool(chunk.annotation) for document in annotated for chunk in document.chunks)
    ids = len({document.id for document in annotated})
    if ids < MIN_DOCUMENTS or chunks < MIN_CHUNKS:
        return _too_little(f"it takes {MIN_DOCUMENTS} documents and {MIN_CHUNKS} chunks with annotations, "
                           f"there are {ids} and {chunks}")  # fmt: skip
    parts = split(documents)
    if min(_annotated(part) for part in parts) < 2:
        return _too_little("too few different texts are left to measure on")
    keys = keys_of(parts)
    step("read words")
    saving, identification = _saving(parts, keys, step)
    return {
        "measured": True,
        "split": {name: sum(len(one.chunks) for one in part) for name, part in zip(Split._fields, parts, strict=True)},
        "recovery": _recovery(parts, keys, step),
        "saving": saving,
        "identification": identification,
    }


def _too_little(reason: str) -> Figures:
    return {"measured": False, "reason": reason}


def _annotated(documents: Sequence[SampledDocument]) -> int:
    return sum(bool(chunk.annotation) for document in documents for chunk in document.chunks)


def keys_of(parts: Split) -> list[str]:
    """The keys that the most chunks learnt from have, frequent enough to learn anything."""
    counts = Counter(
        key
        for document in parts.train
        for chunk in document.chunks
        for key in dict.fromkeys(tag.key for tag in chunk.annotation or ())
    )
    return [key for key, n in counts.most_common(KEYS) if n >= _MIN_OF_KEY]


def _recovery(parts: Split, keys: Sequence[str], step: Callable[[str], None]) -> Figures:
    step("weigh words")
    vectors = recovery.vectorise(parts)
    found = {}
    for key in keys:
        step(key)
        own = recovery.recover(key, vectors)
        control = recovery.recover(key, vectors, shifted=True)
        if own is not None and control is not None:
            found[key] = own._asdict() | {
                "share": own.bits / own.entropy if own.entropy > 0 else 0.0,
                "control_bits": control.bits,
                "control_error": control.error,
            }
    return found


def _saving(parts: Split, keys: Sequence[str], step: Callable[[str], None]) -> tuple[Figures | None, Figures | None]:
    """What a small language model saves, all words and those that are not spelled out, each beside its control."""
    study, control = likelihood.fit(parts, keys)
    found: Figures = {"all": None, "not_spelled": None}
    for name, without in (("all", False), ("not_spelled", True)):
        step("language model")
        own, other = (likelihood.gains(one, without_spelled=without) for one in (study, control))
        if own is None or other is None:
            continue
        found[name] = _gain(own.all, other.all) | {
            "keys": {key: _gain(gain, other.keys[key]) for key, gain in own.keys.items() if key in other.keys}
        }
    step("identification")
    identified, chance = likelihood.identify(study), likelihood.identify(control)
    if identified is None or chance is None:
        return found, None
    return found, identified._asdict() | {
        "most_bits": math.log2(identified.candidates),
        "control_first": chance.first,
        "control_bits": chance.bits,
    }


def _gain(own: likelihood.Gain, control: likelihood.Gain) -> Figures:
    scale = own.words / own.chunks
    return {
        "chunks": own.chunks,
        "words": own.words,
        "bits_per_word_without": own.before,
        "bits_per_word_with": own.after,
        "bits_per_word": own.per_word,
        "bits_per_word_error": own.error,
        "bits_per_chunk": own.per_chunk,
        "bits_per_chunk_error": own.error * scale,
        "share": own.per_word / own.before if own.before > 0 else 0.0,
        "control_bits_per_word": control.per_word,
        "control_bits_per_word_error": control.error,
        "control_bits_per_chunk": control.per_chunk,
    }
