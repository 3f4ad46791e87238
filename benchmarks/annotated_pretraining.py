"""Does pretraining on annotated documents pay? The same model on the same budget of tokens, with and without them.

    python -m benchmarks.annotated_pretraining --inputs CORPUS.jsonl.gz --out DIR --annotate "--schema stories"

Annotates a corpus, holds out some documents, trains two models on equally many tokens, and measures the loss on the
text of all held-out documents: of the annotated model with their annotations, with those of other chunks, and without
any; of the plain model without. Every stage is a command of its own that is not done again: it can be stopped and
continued.
"""

import argparse
import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchortrain.checkpoint import FINISHED
from anchortrain.data.records import load_object
from anchortrain.data.sources import read_lines
from anchortrain.files import write_text_atomic
from anchortrain.quickstart.runner import Runner
from benchmarks.table import Column, add_arguments, show

LENGTH, VOCABULARY = 256, 4096
HELD_OUT_SHARE = 0.04  # of documents

COLUMNS = [
    Column("model", "pretrained on", "{}"),
    Column("heldout", "held-out text, given", "{}"),
    Column("loss", "nats a token", "{:.4f}"),
    Column("tokens", "text tokens", "{:,}"),
    Column("seed", "seed", "{}"),
]

# Name of a held-out set -> what is told of it.
HELD_OUT = {"annotated": "its annotations", "shuffled": "those of other chunks", "plain": "nothing"}


def write_splits(annotated: Path, out: Path) -> None:
    """`train.jsonl`, `heldout.jsonl`, and `shuffled.jsonl`: the held-out documents with each other's annotations."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "heldout": []}
    for line in read_lines([annotated]):
        record = load_object(line)
        draw = int.from_bytes(hashlib.blake2b(record["id"].encode(), digest_size=8).digest()) / 2**64
        splits["heldout" if draw < HELD_OUT_SHARE else "train"].append(record)
    splits["shuffled"] = list(shuffled(splits["heldout"]))
    out.mkdir(exist_ok=True)
    for name in ("train", "shuffled", "heldout"):  # the last one tells that all are there
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in splits[name])
        write_text_atomic(out / f"{name}.jsonl", "".join(lines))


def shuffled(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same documents with their annotations permuted among all chunks that have one."""
    places = [chunk for record in records for chunk in record["chunks"] if chunk["annotation"] is not None]
    order = iter(np.random.default_rng(0).permutation(len(places)).tolist())
    for record in records:
        chunks = [
            chunk if chunk["annotation"] is None else chunk | {"annotation": places[next(order)]["annotation"]}
            for chunk in record["chunks"]
        ]
        yield record | {"chunks": chunks}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs all stages; returns the rows of the table."""
    out: Path = args.out
    seeds = range(args.seeds)
    costs = {"annotate": 60.0, "tokenizer": 10.0} | {
        f"prepare_{name}": 10.0 for name in (*HELD_OUT, "train", "train_plain")
    }
    costs |= {f"{model}_{seed}": args.tokens / 5000 for model in ("annotated", "plain") for seed in seeds}
    runner = Runner(out, costs, print)
    annotated, records, tokenizer = out / "annotated", out / "records", out / "tokenizer.json"
    inputs = ["annotate", "--inputs", *map(str, args.inputs), "--out", str(annotated), *shlex.split(args.annotate)]
    runner.command("annotate", inputs, annotated / "manifest.json")
    if not (records / "heldout.jsonl").exists():
        write_splits(annotated, records)
    train, heldout = str(records / "train.jsonl"), str(records / "heldout.jsonl")
    made = ["tokenizer", "--inputs", train, "--vocab_size", str(VOCABULARY), "--out", str(tokenizer)]
    runner.command("tokenizer", made, tokenizer)
    shuffled_file = str(records / "shuffled.jsonl")
    sources = {"train": [train], "train_plain": [train, "--plain"], "annotated": [heldout]}
    sources |= {"shuffled": [shuffled_file], "plain": [heldout, "--plain"]}
    for name, source in sources.items():
        made = ["prepare", "--kind", "documents", "--tokenizer", str(tokenizer), "--length", str(LENGTH)]
        prepared = out / "prepared" / name
        runner.command(f"prepare_{name}", [*made, "--out", str(prepared), "--inputs", *source], prepared)

    def track(model: str) -> None:
        for seed in seeds:
            runner.command(f"{model}_{seed}", _training(args, model, seed), out / f"{model}_{seed}" / FINISHED)

    runner.run_tracks([lambda: track("annotated"), lambda: track("plain")], lambda: None)
    return [row for model in ("annotated", "plain") for seed in seeds for row in _rows(out, model, seed)]


def _steps(tokens: int) -> int:
    return -(-tokens // (LENGTH * 8))


def _training(args: argparse.Namespace, model: str, seed: int) -> list[str]:
    prepared = args.out / "prepared"
    held_out = HELD_OUT if model == "annotated" else ("plain",)
    source = str(prepared / ("train" if model == "annotated" else "train_plain"))
    bindings = {
        "DataConfig.train": {source: 1.0},
        "DataConfig.heldout": {name: str(prepared / name) for name in held_out},
        "DataConfig.length": LENGTH,
        "DataConfig.seed": seed,
        "RunConfig.seed": seed,
        "RunConfig.tokens": args.tokens,
        "EvaluateConfig.batches": 100_000,  # all there are
        "EvaluateConfig.every_steps": _steps(args.tokens),
    }
    arguments = ["train", "--gin_file", args.gin_file, "--out", str(args.out / f"{model}_{seed}")]
    for name, value in bindings.items():
        arguments += ["--gin_bindings", f"{name} = {value!r}"]
    return arguments


def _rows(out: Path, model: str, seed: int) -> Iterator[dict[str, Any]]:
    last = json.loads((out / f"{model}_{seed}" / FINISHED).read_text(encoding="utf-8"))["heldout"]
    for name, given in HELD_OUT.items():
        loss = last.get(f"heldout/{name}/loss/text")
        if loss is not None:
            manifest = json.loads((out / "prepared" / name / "manifest.json").read_text(encoding="utf-8"))
            tokens = manifest["tokens_by_role"]["TEXT"]
            yield {"model": model, "heldout": given, "loss": loss, "tokens": tokens, "seed": seed}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", nargs="+", type=Path, required=True, help="documents")
    parser.add_argument("--out", type=Path, required=True, help="directory for everything; the same one continues")
    parser.add_argument("--annotate", default="", help="options of `anchortrain annotate`, quoted")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="that each model is trained on")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gin_file", default="gin_configs/fairytale/pretrain.gin", help="model and optimizer")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    show("Annotated pretraining", COLUMNS, measure(args), args.json)


if __name__ == "__main__":
    main()
