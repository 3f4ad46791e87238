"""`anchortrain scaling`: sizes x methods x seeds as a resumable set of runs, then the curves.

`anchortrain scaling report` draws the curves alone.
"""

import argparse
import os
import time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="the study; may be repeated")
    parser.add_argument(
        "--gin_bindings", action="append", default=[], metavar="BINDING", help="such as StudyConfig.seeds=1"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the study; continued where it exists")
    parser.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="processes that take tasks (default: one a core). Several use one CPU core each; a single one uses all "
        "devices that JAX finds. More commands on the same --out, also on other machines, share the work",
    )
    parser.add_argument("--list", action="store_true", help="print every task, its state and its command; run nothing")
    parser.add_argument("--task", metavar="NAME", help="run this task only")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from anchortrain.errors import UserError
    from anchortrain.scaling import study

    if not args.gin_file:
        raise UserError("there is no study", mend="give --gin_file, such as gin_configs/scaling/laptop.gin")
    workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    if workers < 1:
        raise UserError(f"must be at least 1, got {workers}", where="--workers")
    layout = study.open_study(args.gin_file, args.gin_bindings, args.out, new=not (args.list or args.worker))
    if args.list:
        study.print_tasks(layout)
        return 0
    if args.worker or args.task is not None:
        return study.work(layout, args.task)
    started = time.monotonic()

    def say(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        print(f"[{minutes // 60}:{minutes % 60:02d}:{seconds:02d}] {line}", flush=True)

    study.supervise(layout, args.gin_file, args.gin_bindings, workers, say)
    return 0
