"""A few samples of each method for the page: the annotation as chips, their words marked in the response."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from anchortrain.evaluate import table
from anchortrain.evaluate.samples import Sample, tags

SHOWN = 4
_MAX_CHARACTERS = 1200
COLOURS = 8  # .k0 … .k7 in report.css


def samples_html(samples: Mapping[str, Sequence[Sample]]) -> str:
    """The section of samples; empty when there are none."""
    keys: dict[str, int] = {}  # key -> colour, the same for every method
    blocks = []
    for i, (name, rows) in enumerate(samples.items()):
        shown = "".join(_sample(row, keys) for row in rows[:SHOWN])
        blocks.append(
            f"<details{' open' if i == 0 else ''}><summary>{escape(table.label(name))}</summary>{shown}</details>"
        )
    if not blocks:
        return ""
    lead = "The annotation is the model's plan: sampled first, never shown to a user. Its words are marked in the text."
    return f'<section><h2>Samples</h2><p class="lead">{lead}</p>{"".join(blocks)}</section>'


def _sample(row: Sample, keys: dict[str, int]) -> str:
    plan = {tag.value: tag.key for tag in tags(row) or ()}
    colours = {value: keys.setdefault(key, len(keys) % COLOURS) for value, key in plan.items()}
    chips = "".join(
        f'<span class="chip k{colours[value]}"><small>{escape(key)}</small> {escape(value)}</span>'
        for value, key in plan.items()
    )
    if not chips:
        text = row.get("annotation_text")
        chips = f'<span class="dim">{escape(_cut(text)) + " (malformed)" if text else "no annotation"}</span>'
    prompt = row.get("prompt")
    asked = f'<p class="prompt">{escape(_cut(str(prompt)))}</p>' if prompt else ""
    return (
        f'<article><div class="plan">{chips}</div>'
        f'<div class="said">{asked}<p>{marked(_cut(row["response"]), colours)}</p></div></article>'
    )


def marked(text: str, colours: Mapping[str, int]) -> str:
    """Escaped text in which values stand out in their key's colour."""
    if not colours:
        return escape(text)
    longest_first = sorted(colours, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    written, end = [], 0
    for found in pattern.finditer(text):
        written.append(escape(text[end : found.start()]))
        written.append(f'<mark class="k{colours[found.group()]}">{escape(found.group())}</mark>')
        end = found.end()
    return "".join(written) + escape(text[end:])


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " …"
