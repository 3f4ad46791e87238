"""`anchortrain train`: pretrain or post-train as gin files say."""

import argparse
import sys
from pathlib import Path


def add_gin_arguments(parser: argparse.ArgumentParser) -> None:
    """--gin_file and --gin_bindings, the same for every command that reads an experiment."""
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="gin file; may be repeated")
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help="one binding, such as 'ModelConfig.d_model = 64'; may be repeated",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_gin_arguments(parser)
    parser.add_argument("--config", metavar="JSON", help="config.json of an earlier run, to repeat it")
    parser.add_argument("--out", required=True, metavar="RUN", help="run directory; an unfinished run continues")


def run(args: argparse.Namespace) -> int:
    from anchortrain import experiment as experiments
    from anchortrain.errors import UserError
    from anchortrain.memory import keep_freed_memory

    if bool(args.config) == bool(args.gin_file or args.gin_bindings):
        raise UserError("give either --config or --gin_file and --gin_bindings", mend="see anchortrain train --help")
    experiment = (
        experiments.load_json(args.config) if args.config else experiments.load(args.gin_file, args.gin_bindings)
    )
    keep_freed_memory()

    from anchortrain.train import train

    for name, value in sorted(train(experiment, Path(args.out)).items()):
        print(f"{name} {value:.4f}")
    print(f"run: {args.out}", file=sys.stderr)
    return 0
