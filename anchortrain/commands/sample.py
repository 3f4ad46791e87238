"""`anchortrain sample`: samples annotation, then response, from the last checkpoint of a run."""

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

_PLAN_WIDTH = 28
_FILTERS = {
    "top_k": "draw among the K likeliest tokens",
    "top_p": "draw among the likeliest tokens with probability P together",
    "min_p": "draw among tokens with at least P of the likeliest's probability",
    "repetition_penalty": "divide the logits of tokens that occurred by X",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from anchortrain.decode.settings import FILTERS, SamplingConfig

    defaults = SamplingConfig()
    parser.add_argument("run", metavar="RUN", help="run directory, as given to `anchortrain train --out`")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument("--prompts", action="append", default=[], metavar="FILE", help="JSONL with a field 'prompt'")
    parser.add_argument("-n", type=int, default=64, help="samples in all; prompts take turns (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    for name in ("annotation_temperature", "response_temperature"):
        help = "0 is greedy (default %(default)s)"
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name), metavar="T", help=help)
    for name in FILTERS:
        for stage in ("annotation", "response"):
            default = getattr(defaults, f"{stage}_{name}")
            letter = name[-1].upper() if name != "repetition_penalty" else "X"
            help = f"{_FILTERS[name]} (default %(default)s, which changes nothing)"
            parser.add_argument(f"--{stage}_{name}", type=type(default), default=default, metavar=letter, help=help)
    parser.add_argument("--constrain", action="store_true", help="only well-formed annotations that close in time")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--single_stage", action="store_true", help="no annotation: the ablation of the paper")
    mode.add_argument("--document", action="store_true", help="documents, as a base model writes them; no prompt")
    for name in ("max_annotation_tokens", "max_response_tokens", "batch_size"):
        help = "(default %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), metavar="N", help=help)
    parser.add_argument("--jsonl", metavar="FILE", help="write the samples there instead of printing them")


def run(args: argparse.Namespace) -> int:
    from anchortrain.decode.settings import SamplingConfig

    prompts = _prompts(args)
    config = SamplingConfig(
        mode="document" if args.document else "single_stage" if args.single_stage else "two_stage",
        **{
            field.name: getattr(args, field.name)
            for field in dataclasses.fields(SamplingConfig)
            if field.name != "mode"
        },
    )

    from anchortrain import compilation_cache
    from anchortrain.checkpoint import load_run
    from anchortrain.decode.sampler import sample
    from anchortrain.files import write_jsonl_atomic
    from anchortrain.progress import Progress

    compilation_cache.enable()
    loaded = load_run(args.run)
    keys = loaded.info.annotation_keys
    with Progress(len(prompts), unit="samples", label="sample") as progress:
        update = progress.update
        rows = sample(loaded.model, loaded.vocabulary, prompts, config, keys=keys, seed=args.seed, progress=update)
    if args.jsonl:
        write_jsonl_atomic(args.jsonl, rows)
    else:
        for line in _table(rows, shutil.get_terminal_size((100, 24)).columns, plans=not args.single_stage):
            print(line)
    print(f"{args.jsonl + ': ' if args.jsonl else ''}{_summary(rows, plans=not args.single_stage)}", file=sys.stderr)
    return 0


def _prompts(args: argparse.Namespace) -> list[str]:
    """One prompt a sample."""
    from anchortrain.data.records import read_prompts
    from anchortrain.errors import UserError

    if args.n < 1:
        raise UserError(f"-n must be at least 1, got {args.n}")
    if "" in args.prompt:
        raise UserError("the prompt is empty", where="--prompt", mend="say something, or sample a --document")
    given = args.prompt + ([record.prompt for record in read_prompts(args.prompts)] if args.prompts else [])
    if args.document:
        if given:
            raise UserError("documents are sampled without a prompt", mend="leave out --document or the prompts")
        return [""] * args.n
    if not given:
        raise UserError("there is no prompt", mend="give --prompt, --prompts or --document")
    return [given[i % len(given)] for i in range(args.n)]


def _summary(rows: list[dict[str, Any]], *, plans: bool) -> str:
    wellformed = sum(row["annotation_wellformed"] for row in rows)
    counts = f"{len(rows)} samples, {sum(row['finished'] for row in rows)} finished"
    return counts + (f", {wellformed} with well-formed annotations" if plans else "")


def _table(rows: list[dict[str, Any]], columns: int, *, plans: bool) -> Iterator[str]:
    """Lines of text: the plan of each sample beside its response."""
    number_width = len(str(len(rows)))
    left_width = _PLAN_WIDTH if plans else 0
    right_width = max(columns - number_width - left_width - 4, 20)
    for row in rows:
        left = _wrap(_plan(row), left_width) if plans else []
        right = _wrap(row["response"] or "(no response)", right_width)
        for i in range(max(len(left), len(right))):
            number = str(row["index"]) if i == 0 else ""
            plan, text = (cells[i] if i < len(cells) else "" for cells in (left, right))
            yield f"{number:>{number_width}}  {plan:{left_width}}  {text}".rstrip()
        yield ""


def _plan(row: dict[str, Any]) -> str:
    if row["annotation"] is None:
        return f"(malformed) {row['annotation_text']}"
    return "\n".join(f"{key}: {value}" for key, value in row["annotation"]) or "(empty)"


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters. What a terminal might obey is replaced."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text.strip())
    return [line for paragraph in shown.split("\n") for line in textwrap.wrap(paragraph, width) or [""]]
