"""`anchortrain inspect`: prints packed rows with roles and loss weights, and statistics."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="*", metavar="DIR[=weight]", help="prepared directories, as in a run's mixture"
    )
    parser.add_argument("--rows", type=int, default=2, help="rows to print (default 2)")
    parser.add_argument("--length", type=int, help="tokens in a row (default 128, or the longest example if longer)")
    parser.add_argument("--objective", choices=("masked", "unmasked"), help="of instructions (default masked)")
    parser.add_argument("--seed", type=int, help="of the shuffle (default 0)")
    parser.add_argument("--gin_file", action="append", default=[], help="take data and objective from a run's gin file")
    parser.add_argument("--gin_bindings", action="append", default=[], metavar="'Class.field = value'")
    parser.add_argument("--no-color", action="store_true", help="columns of text, as without a terminal")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    import os

    from anchortrain.data.inspection import inspect_sources, print_report
    from anchortrain.errors import UserError

    if args.rows < 0 or (args.length is not None and args.length < 1):
        raise UserError("--rows must not be negative and --length must be positive")
    report = inspect_sources(**_settings(args))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        colour = sys.stdout.isatty() and not args.no_color and "NO_COLOR" not in os.environ
        print_report(report, colour=colour)
    return 0


def _settings(args: argparse.Namespace) -> dict:
    """Arguments of `inspect_sources`: what the command line says, else the gin files, else defaults."""
    from anchortrain.config import DataConfig, LossConfig
    from anchortrain.data.prepared import PreparedDataset
    from anchortrain.errors import UserError

    data, loss = DataConfig(), LossConfig()
    given = bool(args.gin_file or args.gin_bindings)
    if given:
        from anchortrain.experiment import load

        experiment = load(args.gin_file, args.gin_bindings)
        data, loss = experiment.data, experiment.loss
    parsed = [_parse_source(source) for source in args.sources]
    sources = dict(parsed) or data.train
    if len(parsed) > len(dict(parsed)):
        raise UserError(
            "a directory is named twice", where=" ".join(args.sources), mend="name it once, with its weight"
        )
    if not sources:
        raise UserError("nothing to inspect", mend="name a prepared directory, or a --gin_file with DataConfig.train")
    length = args.length or (data.length if given else None)
    if length is None:
        longest = max(int(PreparedDataset(path).lengths.max()) for path in sources)
        length = max(data.length, longest)
    return {
        "sources": sources,
        "rows": args.rows,
        "length": length,
        "objective": args.objective or loss.objective,
        "syntax_share": loss.syntax_share,
        "seed": data.seed if args.seed is None else args.seed,
    }


def _parse_source(text: str) -> tuple[str, float]:
    """`DIR` or `DIR=weight`; a directory whose name holds '=' is taken by its name."""
    import os

    from anchortrain.errors import UserError

    path, equals, weight = text.rpartition("=")
    if not equals or os.path.isdir(text):
        return text, 1.0
    try:
        return path, float(weight)
    except ValueError:
        raise UserError(f"weight must be a number, got {weight!r}", where=path, mend="write DIR=0.5") from None
