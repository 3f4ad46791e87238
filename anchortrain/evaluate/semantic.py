"""How diverse samples are in meaning, and how good: entropy per attribute, form, agreement.

An attribute's value is read twice: from the annotation (what was planned) and, where a parser knows the world of
the text, from the response (what was written). Entropies in the results are in bits; paper, section 5.

Legend: N samples, A attributes, R bootstrap replicates.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from anchortrain.evaluate import entropy
from anchortrain.evaluate.samples import Sample, annotation_wellformed, canonical, tags
from anchortrain.evaluate.text_statistics import text_statistics

# Without a world, annotations may invent keys without end; the rarer ones are only counted.
MAX_KEYS = 20

Labels = Sequence[str | None]


class Story(Protocol):
    """What a world reads from a text: attribute -> value or None, and the form it is written in or None."""

    @property
    def attributes(self) -> Mapping[str, str | None]: ...
    @property
    def form(self) -> str | None: ...


class World(Protocol):
    """Anything that recovers attributes from a text.

    If it has `values`, a mapping from attribute to its possible values, annotations that name another value count
    as not recovered, as such words in a response do. Otherwise invented values would pass for diversity.
    If `several_values` is true, a text may have several of one attribute, sorted and joined by ' | '.
    """

    def parse(self, text: str) -> Story: ...


@dataclasses.dataclass(frozen=True)
class Readings:
    """Every sample read once. Each list of labels has one entry per sample; None: the attribute was not recovered."""

    n: int
    text: Mapping[str, Labels]  # attribute -> values in the responses; empty without a world
    wellformed: Sequence[bool]  # responses in the expected form; empty without a world
    annotation: Mapping[str, Labels]  # attribute or key -> values in the annotations
    annotated: Sequence[bool | None]  # whether each annotation is well-formed; None: there never was one
    agreements: Mapping[str, Sequence[bool | None]]  # attribute -> text says what the annotation says; None: not named
    other_keys: int  # keys left out, without a world


def read(samples: Sequence[Sample], world: World | None = None, expected_form: str | None = None) -> Readings:
    """Reads annotations, and responses if there is a world to read them with.

    Args:
      samples: rows with at least `response`; see `anchortrain.evaluate.samples`.
      world: recovers attributes from responses; None for real text.
      expected_form: the form that counts as well-formed; None: any form that the world knows.
    """
    plans = [_plan(sample) for sample in samples]
    annotated = [annotation_wellformed(sample) for sample in samples]
    if world is None:
        named = Counter(key for plan in plans for key in plan)
        # Tags may legitimately repeat a key here (two characters), so the class is the set of values.
        annotation = {key: [_set_label(plan.get(key)) for plan in plans] for key, _ in named.most_common(MAX_KEYS)}
        return Readings(len(samples), {}, [], annotation, annotated, {}, max(0, len(named) - MAX_KEYS))
    stories = [world.parse(sample["response"]) for sample in samples]
    attributes = list(dict.fromkeys(name for story in stories for name in story.attributes))
    known = {name: set(map(canonical, values)) for name, values in getattr(world, "values", {}).items()}
    several = getattr(world, "several_values", False)
    planned = {
        name: [_set_label(plan.get(name)) if several else _single(plan.get(name), known.get(name)) for plan in plans]
        for name in attributes
    }
    written = {name: [_value(story, name) for story in stories] for name in attributes}
    return Readings(
        n=len(samples),
        text=written,
        wellformed=[
            story.form is not None and expected_form in (None, story.form) and sample.get("finished", True) is True
            for sample, story in zip(samples, stories, strict=True)
        ],
        annotation=planned,
        annotated=annotated,
        agreements={
            name: [
                (said is not None and said == meant) if name in plan else None
                for plan, meant, said in zip(plans, planned[name], written[name], strict=True)
            ]
            for name in attributes
        },
        other_keys=0,
    )


def _plan(sample: Sample) -> dict[str, set[str]]:
    plan: dict[str, set[str]] = {}
    for tag in tags(sample) or ():
        plan.setdefault(tag.key, set()).add(canonical(tag.value))
    return plan


def _value(story: Story, name: str) -> str | None:
    value = story.attributes.get(name)
    return None if value is None else canonical(value)


def _single(values: set[str] | None, known: set[str] | None) -> str | None:
    """A story has one value per attribute: two different ones contradict each other."""
    if values is None or len(values) != 1:
        return None
    (value,) = values
    return value if known is None or value in known else None


def _set_label(values: set[str] | None) -> str | None:
    return " | ".join(sorted(values)) if values else None


def codes(columns: Mapping[str, Labels], kept: Sequence[bool] | None = None) -> np.ndarray:
    """Labels as integers [N, A]: a class number per attribute, -1 where not recovered or the sample is not kept."""
    coded = []
    for labels in columns.values():
        number = {label: i for i, label in enumerate(dict.fromkeys(label for label in labels if label is not None))}
        coded.append([number.get(label, -1) for label in labels])
    labels_NA = np.array(coded, dtype=np.int64).T
    if kept is not None:
        labels_NA[~np.asarray(kept)] = -1
    return labels_NA


def _estimates(labels_NA: np.ndarray, names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], np.ndarray]:
    """The entropy of each attribute, as reported, and its bootstrap replicates [R, A] in bits."""
    replicates_RA = entropy.bits(1) * entropy.resampled(labels_NA)
    blocks = {name: _estimate(labels_NA[:, a], replicates_RA[:, a]) for a, name in enumerate(names)}
    return blocks, replicates_RA


def _estimate(labels_N: np.ndarray, replicates_R: np.ndarray) -> dict[str, Any]:
    found = labels_N[labels_N >= 0]
    if not found.size:
        return {"n": 0, "bits": None}
    counts = entropy.counts_of(found.tolist())
    plug_in = entropy.bits(entropy.plug_in(counts))
    return {
        "n": int(found.size),
        "bits": entropy.bits(entropy.chao_wang_jost(counts)),
        "bits_se": entropy.standard_error(replicates_R),
        "plugin_bits": plug_in,
        # -1 becomes a class of its own: "invalid".
        "with_invalid_bits": entropy.bits(entropy.chao_wang_jost(entropy.counts_of(labels_N.tolist()))),
        "classes": len(counts),
        "singletons": int((counts == 1).sum()),
        "coverage": entropy.coverage(counts),
        "plugin_over_log_n": plug_in / entropy.bits(np.log(found.size)) if found.size > 1 else None,
    }


def _headline(
    prefix: str, columns: Mapping[str, Labels], *, kept: Sequence[bool] | None = None, by_use: bool = False
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Means over attributes, named with `prefix`, and the estimates behind them.

    Means weigh attributes equally, or with `by_use` by how many samples name them. An attribute that was never
    recovered leaves the mean undefined: one over fewer attributes would compare with nothing.
    """
    fields = ("bits", "plugin_bits", "with_invalid_bits")
    nothing = {f"{prefix}_{field}": None for field in (*fields, "bits_se", "bits_interval")}
    if not columns:
        return nothing, {}
    blocks, replicates_RA = _estimates(codes(columns, kept), list(columns))
    if not all(block["n"] for block in blocks.values()):
        return nothing, blocks
    weights = np.array([block["n"] if by_use else 1 for block in blocks.values()], dtype=np.float64)
    weights /= weights.sum()
    head = {
        f"{prefix}_{field}": float(np.dot(weights, [block[field] for block in blocks.values()])) for field in fields
    }
    error = entropy.standard_error(replicates_RA @ weights)
    middle = head[f"{prefix}_bits"]
    head[f"{prefix}_bits_se"] = error
    head[f"{prefix}_bits_interval"] = [middle - entropy.Z * error, middle + entropy.Z * error]
    return head, blocks


def summarise(
    samples: Sequence[Sample], world: World | None = None, expected_form: str | None = None
) -> dict[str, Any]:
    """Everything that one set of samples shows, JSON-able; entropies in bits, shares in 0..1, None: not applicable.

    `docs/evaluation.md` explains every field.
    """
    readings = read(samples, world, expected_form)
    real_text = world is None
    was_annotated = any(wellformed is not None for wellformed in readings.annotated)
    text, text_blocks = _headline("text", readings.text)
    plan, plan_blocks = _headline("annotation", readings.annotation if was_annotated else {}, by_use=real_text)
    good, good_blocks = _headline("wellformed", readings.text, kept=readings.wellformed)
    good.pop("wellformed_with_invalid_bits")
    for block in good_blocks.values():
        block.pop("with_invalid_bits", None)
    blocks = {"text": text_blocks, "annotation": plan_blocks, "wellformed": good_blocks}
    recovered = [label is not None for labels in readings.text.values() for label in labels]
    return {
        "n": readings.n,
        "expected_form": expected_form,
        **text,
        **plan,
        **good,
        "wellformed": _share(readings.wellformed),
        "wellformed_n": sum(readings.wellformed) if readings.wellformed else None,
        "invalid": None if real_text else _share([not one for one in recovered]),
        "finished": _share([sample.get("finished") for sample in samples]),
        "annotation_wellformed": _share(readings.annotated),
        "agreement": _share([one for named in readings.agreements.values() for one in named]),
        "agreement_all": _agreement_all(readings),
        "attributes": {
            name: {
                **{kind: block[name] for kind, block in blocks.items() if name in block},
                "agreement": _share(readings.agreements.get(name, ())),
            }
            for name in (readings.annotation if real_text else readings.text)
        },
        "other_keys": readings.other_keys,
        "low_coverage": _low_coverage(blocks),
        "text_statistics": text_statistics([sample["response"] for sample in samples]) if real_text else None,
    }


def _share(flags: Sequence[bool | None]) -> float | None:
    """The share of true among those that are not None; None when there are none."""
    known = [flag for flag in flags if flag is not None]
    return sum(known) / len(known) if known else None


def _agreement_all(readings: Readings) -> float | None:
    by_sample = zip(*readings.agreements.values(), strict=True)
    named = [[flag for flag in flags if flag is not None] for flags in by_sample]
    return _share([all(flags) for flags in named if flags])


def _low_coverage(blocks: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Figures to distrust, as `kind.attribute`: more than a tenth of the probability was never seen."""
    return [
        f"{kind}.{name}"
        for kind, by_name in blocks.items()
        for name, block in by_name.items()
        if block["n"] and block["coverage"] < entropy.LOW_COVERAGE
    ]
