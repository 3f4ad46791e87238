"""`anchortrain sample`: samples annotation, then response, from the last checkpoint of a run."""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchortrain.errors import UserError
from anchortrain.progress import Progress
from anchortrain.rows_file import RowsFile

if TYPE_CHECKING:
    from anchortrain.checkpoint import LoadedRun
    from anchortrain.decode.job import SampleJob
    from anchortrain.decode.settings import SamplingConfig

_BASELINES = ("brainstorm", "list", "verbalized")  # of `decode.baselines`
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
    again: dict[str, Any] = {"action": "append", "default": []}
    help = "may be given several times"
    parser.add_argument("--prompt", **again, type=_text, metavar="TEXT", help=help)
    help = "JSONL with a field 'prompt'; - for standard input"
    parser.add_argument("--prompts", **again, metavar="FILE", help=help)
    help = "samples in all, or plans with --responses; prompts take turns (default %(default)s)"
    parser.add_argument("-n", type=int, default=64, help=help)
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
    mode.add_argument(
        "--baseline", choices=_BASELINES, help="ask for many answers in one context instead; no annotation"
    )
    plan = parser.add_argument_group("plans", "the rest of a plan is drawn by the model")
    several = "may be given several times"
    help = f"a tag that every plan has; {several}"
    plan.add_argument("--set", **again, type=_text, metavar="KEY=VALUE", help=help)
    help = f"a tag that no plan has; {several}"
    plan.add_argument("--forbid", **again, type=_text, metavar="KEY=VALUE", help=help)
    help = f"a key that every plan has; {several}"
    plan.add_argument("--require", **again, type=_text, metavar="KEY", help=help)
    help = "how plans begin, as 'hero: fox; place: mi'; the last word may go on, unless ';' comes after it"
    plan.add_argument("--prefix", type=_text, default="", metavar="TEXT", help=help)
    help = "the whole plan, as 'hero: fox; place: mill', in the order of the training data"
    plan.add_argument("--plan", type=_text, metavar="TEXT", help=help)
    plan.add_argument("--distinct", action="store_true", help="no plan twice: drawn without replacement")
    help = "to each of the -n plans (default %(default)s)"
    plan.add_argument("--responses", type=int, default=1, metavar="M", help=help)
    for name in ("max_annotation_tokens", "max_response_tokens", "batch_size"):
        help = "(default %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), metavar="N", help=help)
    help = "do it all at each of these temperatures, of both stages"
    parser.add_argument("--temperatures", type=_numbers, default=None, metavar="T,T,…", help=help)
    help = "JSON lines instead of a table; as they come, or into FILE, which can be interrupted and taken up again"
    parser.add_argument("--jsonl", nargs="?", const="-", metavar="FILE", help=help)


def run(args: argparse.Namespace) -> int:
    from anchortrain.decode.job import SampleJob
    from anchortrain.decode.settings import SamplingConfig
    from anchortrain.decode.steering import Steering, parse_plan, parse_tags

    mode = "document" if args.document else "single_stage" if args.single_stage or args.baseline else "two_stage"
    names = [field.name for field in dataclasses.fields(SamplingConfig) if field.name != "mode"]
    config = SamplingConfig(mode=mode, **{name: getattr(args, name) for name in names})
    _check_settings(args, config)
    job = SampleJob(
        tuple(_prompts(args)),
        config,
        seed=args.seed,
        steering=Steering(
            fixed=parse_tags(args.set, where="--set"),
            forbidden=parse_tags(args.forbid, where="--forbid"),
            required=tuple(args.require),
            prefix=args.prefix,
            plan=None if args.plan is None else parse_plan(args.plan, where="--plan"),
        ),
        responses=args.responses,
        distinct=args.distinct,
        baseline=args.baseline,
        temperatures=args.temperatures,
    )
    from anchortrain import checkpoint, compilation_cache

    compilation_cache.enable()
    if args.jsonl in (None, "-"):
        with _within_memory():
            return _show(job, checkpoint.load_run(args.run), as_json=args.jsonl == "-")
    for path in args.prompts:
        if os.path.exists(path) and os.path.exists(args.jsonl) and os.path.samefile(path, args.jsonl):
            raise UserError("the prompts would be lost", where=f"--jsonl {args.jsonl}", mend="name another file")
    run_dir = checkpoint.last_round(Path(args.run))
    # What cannot be written is said before the weights are read.
    with RowsFile(args.jsonl, job.identity | {"run": checkpoint.fingerprint(run_dir)}) as file, _within_memory():
        return _write(job, checkpoint.load_run(args.run), file, args.jsonl)


@contextlib.contextmanager
def _within_memory() -> Iterator[None]:
    """Raises UserError where memory is not enough: it grows with prompts, limits and the size of a batch."""
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        raise UserError("out of memory", mend="shorten the prompts, or lower --batch_size or the limits") from None


def _show(job: "SampleJob", loaded: "LoadedRun", *, as_json: bool) -> int:
    """Prints rows in their order, as they come."""
    from anchortrain.decode.job import in_order
    from anchortrain.decode.table import Table

    _warn(job, loaded)
    columns = shutil.get_terminal_size((100, 24)).columns
    table = Table(columns, plans=job.config.mode != "single_stage", number_width=len(str(job.count)))
    rows: list[dict[str, Any]] = []
    refusals: list[str] = []
    with Progress(job.count, unit="samples", label="sample") as progress:
        for part in in_order(job.parts(loaded, progress=progress.update, refused=refusals.append)):
            rows += part
            for row in part:
                print(json.dumps(row, ensure_ascii=False) if as_json else "\n".join(table.lines(row)), flush=True)
    print(_summary(job, rows, refusals), file=sys.stderr)
    return 0


def _write(job: "SampleJob", loaded: "LoadedRun", file: RowsFile, name: str) -> int:
    """Writes rows into a file, going on with what is there."""
    _warn(job, loaded)
    refusals: list[str] = []
    try:
        with Progress(job.count, unit="samples", label="sample") as progress:
            progress.skip(len(file.rows))
            for number, part in job.parts(
                loaded, done=set(file.parts), progress=progress.update, refused=refusals.append
            ):
                if part:  # what has no rows is drawn again when the command goes on, so that it can say why
                    file.add(number, part)
    except KeyboardInterrupt:
        kept = f"; {len(file.rows)} of {job.count} samples are kept, the same command goes on from there"
        raise KeyboardInterrupt(f"interrupted{kept if file.rows else ''}") from None
    summary = _summary(job, file.rows, refusals)  # before anything is replaced: all may have been refused
    file.finish()
    print(f"{name}: {summary}", file=sys.stderr)
    return 0


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8 text") from None
    return text


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from None


def _check_settings(args: argparse.Namespace, config: "SamplingConfig") -> None:
    """Raises UserError for settings that another option replaces; warns of those that change nothing."""
    from anchortrain.decode.settings import SamplingConfig

    defaults = SamplingConfig()
    given = [name for name in vars(defaults) if getattr(config, name) != getattr(defaults, name)]
    for name in given:
        if args.temperatures is not None and name.endswith("_temperature"):
            raise UserError("--temperatures replaces it", where=f"--{name}", mend="give one of the two")
    unused = [f"--{name}" for name in given if name == "constrain" or name.startswith("annotation_")]
    if unused and config.mode == "single_stage":
        print(f"warning: no annotation is drawn: {', '.join(unused)} changes nothing", file=sys.stderr)


def _prompts(args: argparse.Namespace) -> list[str]:
    """One prompt a sample."""
    from anchortrain.data.records import read_prompts

    if args.n < 1:
        raise UserError(f"-n must be at least 1, got {args.n}")
    if not all(map(str.strip, args.prompt)):
        raise UserError("the prompt is empty", where="--prompt", mend="say something, or sample a --document")
    given = list(args.prompt)
    if args.prompts:
        for record in read_prompts(["/dev/stdin" if path == "-" else path for path in args.prompts]):
            if not record.prompt.strip():
                raise UserError("the prompt is empty", where=record.where, mend="leave the record out")
            given.append(record.prompt)
    if args.document:
        if given:
            raise UserError("documents are sampled without a prompt", mend="leave out --document or the prompts")
        return [""] * args.n
    if not given:
        raise UserError("there is no prompt", mend="give --prompt, --prompts or --document")
    if args.n < len(given):
        print(
            f"warning: -n {args.n} is less than the {len(given)} prompts: the last ones get no sample", file=sys.stderr
        )
    return [given[i % len(given)] for i in range(args.n)]


def _warn(job: "SampleJob", loaded: "LoadedRun") -> None:
    """Says what will hardly be wanted."""
    from anchortrain.decode.steering import unusual

    keys, length = loaded.info.annotation_keys, loaded.info.length
    if keys and (what := unusual(job.steering, keys)):
        print(f"warning: {what}; responses may not follow this plan", file=sys.stderr)
    longest = max(set(job.prompts), key=len)
    if (tokens := len(loaded.vocabulary.encode(longest))) > length:
        what = f"a prompt has {tokens} tokens, more than the {length} of a row in training"
        print(f"warning: {what}; what follows it is guesswork", file=sys.stderr)


def _summary(job: "SampleJob", rows: list[dict[str, Any]], refusals: list[str]) -> str:
    """One line. Raises UserError when all samples were refused."""
    if refusals and not rows:
        raise UserError(refusals[0])
    counts = f"{len(rows)} sample{'s' * (len(rows) != 1)}, {sum(row['finished'] for row in rows)} finished"
    if job.config.mode != "single_stage":
        counts += f", {sum(row['annotation_wellformed'] for row in rows)} with well-formed annotations"
    if len(rows) == job.count:
        return counts
    if job.baseline:
        why = "answers that hold no list count nothing"
    elif job.distinct:
        why = "there are no more plans, with these settings"
    elif job.responses > 1:
        why = "plans that do not close have one row and no response"
    else:
        why = refusals[0]
    return f"{counts}; {job.count} were asked for: {why}"
