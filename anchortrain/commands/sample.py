"""`anchortrain sample`: samples annotation, then response, from the last checkpoint of a run."""

import argparse
import dataclasses
import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchortrain.checkpoint import LoadedRun
    from anchortrain.decode.settings import SamplingConfig
    from anchortrain.decode.steering import Steering

_BASELINES = ("brainstorm", "list", "verbalized")  # of `decode.baselines`
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
    mode.add_argument(
        "--baseline", choices=_BASELINES, help="ask for many answers in one context instead; no annotation"
    )
    plan = parser.add_argument_group("plans", "the rest of a plan is drawn by the model")
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a tag that every plan has")
    plan.add_argument("--forbid", action="append", default=[], metavar="KEY=VALUE", help="a tag that no plan has")
    plan.add_argument("--require", action="append", default=[], metavar="KEY", help="a key that every plan has")
    plan.add_argument("--prefix", default="", metavar="TEXT", help="how plans begin, as 'topic: fox; pla'")
    plan.add_argument("--plan", metavar="TEXT", help="the whole plan, as 'topic: fox; place: mill'")
    plan.add_argument("--distinct", action="store_true", help="no plan twice: drawn without replacement")
    help = "to each of the -n plans (default %(default)s)"
    plan.add_argument("--responses", type=int, default=1, metavar="M", help=help)
    for name in ("max_annotation_tokens", "max_response_tokens", "batch_size"):
        help = "(default %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name), metavar="N", help=help)
    help = "do it all at each of these temperatures, of both stages"
    parser.add_argument("--temperatures", type=_numbers, default=None, metavar="T,T,…", help=help)
    help = "JSON lines instead of a table; into FILE, or as they come where no FILE is named"
    parser.add_argument("--jsonl", nargs="?", const="-", metavar="FILE", help=help)


def run(args: argparse.Namespace) -> int:
    from anchortrain.decode.settings import SamplingConfig
    from anchortrain.decode.steering import Steering, parse_plan, parse_tags

    prompts = _prompts(args)
    config = SamplingConfig(
        mode="document" if args.document else "single_stage" if args.single_stage or args.baseline else "two_stage",
        **{
            field.name: getattr(args, field.name)
            for field in dataclasses.fields(SamplingConfig)
            if field.name != "mode"
        },
    )
    steering = Steering(
        fixed=parse_tags(args.set, where="--set"),
        forbidden=parse_tags(args.forbid, where="--forbid"),
        required=tuple(args.require),
        prefix=args.prefix,
        plan=None if args.plan is None else parse_plan(args.plan, where="--plan"),
    )
    request = _Request(prompts, steering, args.seed, args.responses, args.distinct, args.baseline)
    request.check(config)

    from anchortrain import compilation_cache
    from anchortrain.checkpoint import load_run
    from anchortrain.files import write_jsonl_atomic
    from anchortrain.progress import Progress

    compilation_cache.enable()
    loaded = load_run(args.run)
    plans = config.mode != "single_stage"
    columns = shutil.get_terminal_size((100, 24)).columns
    width = len(str(len(prompts) * args.responses))
    rows: list[dict[str, Any]] = []
    configs = [config] if args.temperatures is None else [_at(config, one) for one in args.temperatures]
    with Progress(request.count * len(configs), unit="samples", label="sample") as progress:
        for one in configs:
            extra = {} if args.temperatures is None else {"temperature": one.response_temperature}
            for row in request.rows(loaded, one, progress.update):
                rows.append(row | extra)
                if args.jsonl == "-":
                    print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
                elif args.jsonl is None:
                    for line in _table([rows[-1]], columns, plans=plans, number_width=width):
                        print(line, flush=True)
    in_file = args.jsonl not in (None, "-")
    if in_file:
        write_jsonl_atomic(args.jsonl, rows)
    print(f"{args.jsonl + ': ' if in_file else ''}{_summary(rows, plans=plans)}", file=sys.stderr)
    if args.baseline and len(rows) < request.count * len(configs):
        print(
            f"{request.count * len(configs)} were asked for; answers that hold no list count nothing", file=sys.stderr
        )
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from None


def _at(config: "SamplingConfig", temperature: float) -> "SamplingConfig":
    return dataclasses.replace(config, annotation_temperature=temperature, response_temperature=temperature)


@dataclasses.dataclass(frozen=True)
class _Request:
    """What is asked for, at one temperature."""

    prompts: list[str]  # one for each plan
    steering: "Steering"
    seed: int
    responses: int
    distinct: bool
    baseline: str | None

    def check(self, config: "SamplingConfig") -> None:
        """Raises UserError for what does not go together."""
        from anchortrain.errors import UserError

        if self.responses < 1:
            raise UserError(f"must be at least 1, got {self.responses}", where="--responses")
        if (self.steering or self.in_sets) and config.mode != "two_stage":
            what = "plans are steered, drawn without replacement or answered several times in two stages only"
            raise UserError(what, mend="leave out --single_stage, --document or --baseline")

    @property
    def in_sets(self) -> bool:
        return self.distinct or self.responses > 1

    @property
    def count(self) -> int:
        return len(self.prompts) * self.responses

    def rows(
        self, loaded: "LoadedRun", config: "SamplingConfig", progress: Callable[[int], None]
    ) -> Iterator[dict[str, Any]]:
        """Rows in the order of the prompts, each as soon as those before it are there."""
        from anchortrain.decode.sampler import sample, stream
        from anchortrain.decode.sets import sample_set

        model, vocabulary, keys = loaded.model, loaded.vocabulary, loaded.info.annotation_keys
        if self.baseline:
            from anchortrain.decode.baselines import BASELINES

            def generate(asked: Sequence[str], first: int) -> list[dict[str, Any]]:
                nonlocal used
                indices = range(begun + first, begun + first + len(asked))
                used = max(used, indices.stop)
                return sample(model, vocabulary, asked, config, keys=keys, seed=self.seed, indices=indices)

            begun = used = number = 0
            for prompt, count in Counter(self.prompts).items():
                begun = used  # another prompt, other random numbers
                for row in BASELINES[self.baseline](prompt, count, generate):
                    progress(1)
                    yield row | {"index": number}
                    number += 1
        elif self.in_sets:
            first = 0
            for prompt, count in Counter(self.prompts).items():
                options = {
                    "keys": keys,
                    "seed": self.seed,
                    "first": first,
                    "steering": self.steering,
                    "distinct": self.distinct,
                }
                options |= {"plans": count, "responses": self.responses, "progress": progress}
                yield from sample_set(model, vocabulary, prompt, config, **options)
                first += count * self.responses
        else:
            options = {"keys": keys, "seed": self.seed, "steering": self.steering}
            waiting: dict[int, dict[str, Any]] = {}
            following = 0
            for place, row in stream(model, vocabulary, self.prompts, config, **options):
                progress(1)
                waiting[place] = row
                while following in waiting:
                    yield waiting.pop(following)
                    following += 1


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
    wellformed = sum(row.get("annotation_wellformed", False) for row in rows)
    counts = f"{len(rows)} samples, {sum(row['finished'] for row in rows)} finished"
    return counts + (f", {wellformed} with well-formed annotations" if plans else "")


def _table(rows: list[dict[str, Any]], columns: int, *, plans: bool, number_width: int) -> Iterator[str]:
    """Lines of text: the plan of each sample beside its response."""
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
