"""`anchortrain plan`: compiles a run for TPU slices on any machine; does it fit, and how fast could it be?

Exit code: 0 when it fits every slice, 1 when it does not fit one or does not compile for it, 2 for mistakes.
"""

import argparse
import json
import signal
from typing import Any

from anchortrain.commands.train import add_gin_arguments

_DOES_NOT_FIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_gin_arguments(parser)
    parser.add_argument(
        "--slice", required=True, metavar="NAMES", help="slices such as v5p-64,v6e-256,2xv5e-256, by commas"
    )
    parser.add_argument("--search", action="store_true", help="compile every sensible mesh and rank them")
    parser.add_argument("--json", action="store_true", help="print JSON: a list with an object for each slice")
    parser.add_argument("--no_sampler", action="store_true", help="leave out the sampler")
    parser.add_argument(
        "--max_compiles",
        type=int,
        default=12,
        metavar="N",
        help="most meshes of a search, or changes tried where a run does not fit (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from anchortrain import experiment as experiments
    from anchortrain.errors import UserError
    from anchortrain.plan import planner
    from anchortrain.plan.jobs import Compiler, check_libtpu
    from anchortrain.plan.slices import parse_slices
    from anchortrain.progress import Progress

    if not args.gin_file and not args.gin_bindings:
        raise UserError("there is nothing to plan", where="--gin_file", mend="name a gin file")
    if args.max_compiles < 0:
        raise UserError(f"must be 0 or more, got {args.max_compiles}", where="--max_compiles")
    slices = parse_slices(args.slice)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with SIGINT ignored
    experiment = experiments.load(args.gin_file, args.gin_bindings)
    planner.check(experiment, slices)
    check_libtpu()
    with Progress(0, unit="programs", label="plan") as progress:
        compiler = Compiler(progress)
        compiler.expect(len(slices) * (1 if args.no_sampler else 2))
        records = [_plan(args, experiment, where, compiler) for where in slices]
    if args.json:
        print(json.dumps(records, indent=2))
    else:
        from rich.console import Console

        from anchortrain.plan.report import show

        show(records, Console())
    return 0 if all(_all_fits(record) for record in records) else _DOES_NOT_FIT


def _plan(args: argparse.Namespace, experiment: Any, where: Any, compiler: Any) -> dict[str, Any]:
    """The record of one slice, with "search" or "remedy" where there is one."""
    from anchortrain.plan import planner, trials

    found = trials.search(experiment, where, compiler, args.max_compiles) if args.search else None
    tried = [one for one in found["ranked"] + found["others"] if one["mesh"]] if found else []
    if tried:
        experiment = trials.apply(experiment, tried[0])
    record = planner.plan(experiment, where, compiler, sampler=not args.no_sampler)
    if record["fits"] is False and not args.search:
        record["remedy"] = trials.remedy(experiment, where, record, compiler, args.max_compiles)
    return record | ({"search": found} if found else {})


def _all_fits(record: dict[str, Any]) -> bool:
    return bool(record["fits"]) and (record["sampler"] is None or bool(record["sampler"]["fits"]))
