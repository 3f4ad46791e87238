"""What the trainer sees: packed rows with roles and loss weights, and statistics, as data and as text.

`inspect_sources` builds one JSON-able report by way of the real loader; `print_report` shows it. Everything that
stems from a corpus passes through `visible`, so that no text can move the cursor or forge markup.
"""

import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from anchortrain.data.loader import PackedIterator, Settings, objective_of, open_sources
from anchortrain.data.packing import Batch, Placed
from anchortrain.data.prepared import PreparedDataset
from anchortrain.roles import Role, loss_weights

# Statistics of packing are taken over this many rows.
SAMPLE_ROWS = 128

_COLOURS = {"PROMPT": "blue", "ANNOTATION_KEY": "magenta", "ANNOTATION_VALUE": "yellow", "TEXT": "green"}
_TRAINED, _UNTRAINED, _ANCHORED = "bold underline", "dim", "reverse"
_NAMED = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """`text` on one line with nothing hidden: control, format and bidirectional characters are spelled out."""

    def show(character: str) -> str:
        if unicodedata.category(character) not in _INVISIBLE:
            return character
        return _NAMED.get(character, f"\\u{{{ord(character):x}}}")

    return "".join(map(show, text))


def inspect_sources(
    sources: Mapping[str, float],
    *,
    rows: int,
    length: int,
    objective: str,
    syntax_share: float,
    seed: int,
) -> dict[str, Any]:
    """A report on what a run on `sources` reads: `settings`, `sources`, `packing` (statistics), `rows`.

    The rows are the first ones that `make_loader` gives with the same arguments. Raises UserError as it does.
    """
    datasets = open_sources(sources, length=length)
    sample = max(rows, SAMPLE_ROWS)
    settings = {"length": length, "objective": objective, "syntax_share": syntax_share, "seed": seed}
    loader = PackedIterator(datasets, list(sources.values()), Settings(batch_rows=sample, **settings))
    placed = loader.next_rows()
    batch = loader.pack(placed)
    total = sum(sources.values())
    return {
        "settings": settings,
        "sources": [
            {"path": path, "share": weight / total} | _source(dataset, objective_of(dataset, objective))
            for (path, weight), dataset in zip(sources.items(), datasets, strict=True)
        ],
        "packing": _packing(placed, batch, list(sources)),
        "rows": [_row(row, batch, i, datasets, list(sources)) for i, row in enumerate(placed[:rows])],
    }


def _source(dataset: PreparedDataset, objective: str) -> dict[str, Any]:
    manifest, lengths = dataset.manifest, dataset.lengths
    trained = sum(n for name, n in manifest.tokens_by_role.items() if loss_weights(np.array(Role[name]), objective))
    return {
        "kind": manifest.kind,
        "annotated": manifest.annotated,
        "objective": objective,
        "examples": manifest.examples,
        "tokens": manifest.tokens,
        "tokens_by_role": manifest.tokens_by_role,
        "trained_share": trained / manifest.tokens,
        "tokens_per_example": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "annotation_keys": manifest.annotation_keys,
        "vocabulary": {"hash": manifest.vocabulary_hash, "size": manifest.vocabulary_size},
        "made_of": manifest.sources,
        "notes": manifest.notes,
    }


def _packing(placed: Sequence[Sequence[Placed]], batch: Batch, paths: Sequence[str]) -> dict[str, Any]:
    tokens = int((batch["segment_ids"] > 0).sum())
    by_source = dict.fromkeys(paths, 0)
    for one in (one for row in placed for one in row):
        by_source[paths[one.source]] += len(one.example.tokens)
    return {
        "rows": len(placed),
        "fill": tokens / batch["targets"].size,
        "examples_per_row": sum(map(len, placed)) / len(placed),
        "tokens_by_role": {role.name: int((batch["target_roles"] == role).sum()) for role in Role if role != Role.PAD},
        "share_by_source": {path: n / tokens for path, n in by_source.items()},
        "trained_share": float(batch["loss_weights"].sum()) / tokens,
        "anchor_share": float(batch["anchor_positions"].sum()) / tokens,
        "syntax_examples": sum(one.syntax_example for row in placed for one in row),
    }


def _row(
    row: Sequence[Placed], batch: Batch, index: int, datasets: Sequence[PreparedDataset], paths: Sequence[str]
) -> dict[str, Any]:
    vocabulary = datasets[0].vocabulary
    segments = []
    for number, one in enumerate(row, 1):
        slots = np.flatnonzero(batch["segment_ids"][index] == number)
        tokens = batch["targets"][index, slots].tolist()
        segments.append(
            {
                "source": paths[one.source],
                "id": one.example.id,
                "objective": one.objective,
                "syntax_example": one.syntax_example,
                "start": int(slots[0]),
                "first_input": vocabulary.token_text(batch["inputs"][index, slots[0]]),
                "tokens": tokens,
                "text": [vocabulary.token_text(token) for token in tokens],
                "roles": [Role(role).name for role in batch["target_roles"][index, slots]],
                "loss_weights": batch["loss_weights"][index, slots].tolist(),
                "anchor": batch["anchor_positions"][index, slots].astype(int).tolist(),
            }
        )
    return {"segments": segments, "padding": int((batch["segment_ids"][index] == 0).sum())}


# -- showing it --------------------------------------------------------------------------------------


def print_report(report: Mapping[str, Any], *, colour: bool) -> None:
    """Prints rows and statistics; without `colour` roles, weights and anchor positions are columns of text."""
    from rich.console import Console
    from rich.text import Text

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    # A pipe gets whole lines, a terminal wrapped ones. Text objects: markup in the corpus stays text.
    console = Console(highlight=False, color_system="auto" if colour else None, soft_wrap=not colour)
    legend = _colour_legend() if colour else Text(_PLAIN_LEGEND)
    console.print(legend)
    for i, row in enumerate(report["rows"]):
        used = report["settings"]["length"] - row["padding"]
        console.print(Text(f"\nrow {i}: {used} tokens, {len(row['segments'])} examples, {row['padding']} padding"))
        for number, segment in enumerate(row["segments"], 1):
            console.print(Text(_segment_title(number, segment), style="bold"))
            console.print(_coloured(segment) if colour else Text("\n".join(_columns(segment))))
    console.print(Text("\n".join(["", *_statistics(report)])))


_PLAIN_LEGEND = (
    "Tokens as targets; neighbours that share role, weight and mark are on one line, cut by '|'.\n"
    "w: weight of the loss at them. A: the anchor compares the annotation distribution here."
)


def _colour_legend() -> Any:
    from rich.text import Text

    legend = Text("Tokens as targets: ")
    for name, style in _COLOURS.items():
        legend.append(name, style).append("  ")
    legend.append("trained on (w 1)", _TRAINED).append("  ")
    legend.append("not (w 0)", _UNTRAINED).append("  ")
    return legend.append("anchor position", _ANCHORED)


def _segment_title(number: int, segment: Mapping[str, Any]) -> str:
    rule = segment["objective"] + (", syntax example" if segment["syntax_example"] else "")
    last = segment["start"] + len(segment["tokens"]) - 1
    where = f"{visible(segment['source'])} {visible(segment['id']) or '(no id)'}"
    return f"-- segment {number}, slots {segment['start']}-{last}: {where} [{rule}] after {segment['first_input']}"


def _spans(segment: Mapping[str, Any]) -> Iterator[tuple[int, str, float, int, list[str]]]:
    """Runs of tokens alike in role, weight and anchor: (first slot, role, weight, anchor, visible texts)."""
    marks = list(zip(segment["roles"], segment["loss_weights"], segment["anchor"], strict=True))
    texts = [visible(text) for text in segment["text"]]
    start = 0
    for end in range(1, len(marks) + 1):
        if end == len(marks) or marks[end] != marks[start]:
            yield segment["start"] + start, *marks[start], texts[start:end]
            start = end


def _columns(segment: Mapping[str, Any]) -> Iterator[str]:
    for slot, role, weight, anchor, texts in _spans(segment):
        yield f"{slot:6d}  {role:<16}  w {weight:g}  {'A' if anchor else ' '}  {'|'.join(texts)}"


def _coloured(segment: Mapping[str, Any]) -> Any:
    from rich.text import Text

    shown = Text()
    for _, role, weight, anchor, texts in _spans(segment):
        style = f"{_COLOURS[role]} {_TRAINED if weight else _UNTRAINED} {_ANCHORED if anchor else ''}"
        shown.append("".join(texts), style.strip())
    return shown


def _by_role(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {n:,} ({n / total:.1%})" for name, n in counts.items())


def _statistics(report: Mapping[str, Any]) -> Iterator[str]:
    for source in report["sources"]:
        lengths, vocabulary = source["tokens_per_example"], source["vocabulary"]
        keys = ", ".join(f"{visible(key)} {n:,}" for key, n in Counter(source["annotation_keys"]).most_common())
        yield visible(source["path"])
        yield f"  {source['kind']}, {'annotated' if source['annotated'] else 'plain'}, objective {source['objective']}"
        yield f"  weight             {source['share']:.1%} of the training tokens"
        yield f"  examples           {source['examples']:,}"
        yield f"  tokens             {source['tokens']:,}: {_by_role(source['tokens_by_role'])}"
        yield f"  trained on         {source['trained_share']:.1%} of tokens, syntax examples aside"
        yield "  tokens per example " + ", ".join(f"{name} {n:g}" for name, n in lengths.items())
        yield f"  annotation keys    {keys or 'none'}"
        yield f"  vocabulary         {vocabulary['size']:,} ids, sha256 {visible(vocabulary['hash'][:12])}"
        for made_of in source["made_of"]:
            yield f"  made of            {visible(str(made_of.get('path')))}, {made_of.get('records')} records"
        for name, note in source["notes"].items():
            yield f"  {visible(name)}: {visible(str(note))}"
    packing = report["packing"]
    yield f"first {packing['rows']} rows of {report['settings']['length']}"
    yield f"  filled             {packing['fill']:.1%}, {packing['examples_per_row']:.1f} examples a row"
    yield f"  tokens             {_by_role(packing['tokens_by_role'])}"
    yield f"  trained on         {packing['trained_share']:.1%} of tokens, {packing['syntax_examples']} syntax examples"
    yield f"  anchor positions   {packing['anchor_share']:.1%} of tokens"
    for path, share in packing["share_by_source"].items():
        yield f"  from               {visible(path)}: {share:.1%}"
