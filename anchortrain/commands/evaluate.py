"""`anchortrain evaluate`: measures samples, prints the table, writes summary and report."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "samples", nargs="+", metavar="[NAME=]FILE", help="JSON lines of samples; without NAME the file's name is used"
    )
    reader = parser.add_mutually_exclusive_group()
    reader.add_argument("--world", metavar="FILE", help="world.json of a story world, whose parser reads responses")
    reader.add_argument(
        "--annotate_job",
        metavar="DIR",
        help="directory of an `anchortrain annotate` job, whose offline annotator reads responses; with neither, "
        "only annotations are read",
    )
    parser.add_argument(
        "--form",
        choices=("document", "assistant"),
        default="assistant",
        help="form that counts as well-formed (default %(default)s; the base always writes documents)",
    )
    parser.add_argument("--base", metavar="NAME", help="samples of the base model (default: those named base)")
    parser.add_argument("--sft", metavar="NAME", help="samples of standard SFT (default: those named sft)")
    parser.add_argument("--out", metavar="DIR", help="write summary.json, report.html and report.png here")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from anchortrain.errors import UserError
    from anchortrain.evaluate.annotated_text import AnnotatedText
    from anchortrain.evaluate.collapse import compare
    from anchortrain.evaluate.report import write_report
    from anchortrain.evaluate.samples import read_samples
    from anchortrain.evaluate.table import format_table
    from anchortrain.files import write_json_atomic
    from anchortrain.storyworld.world import World

    paths = _named(args.samples)
    for option, name in (("--base", args.base), ("--sft", args.sft)):
        if name is not None and name not in paths:
            raise UserError(f"{option} {name}: no samples of that name", mend=f"there are {', '.join(paths)}")
    world = World.load(args.world) if args.world else None
    reader = AnnotatedText(args.annotate_job) if args.annotate_job else world
    samples = {name: read_samples(path) for name, path in paths.items()}
    base, sft = args.base or "base", args.sft or "sft"
    summary = {
        "world": args.world,
        "prior_bits": world.prior_bits if world else None,
        "files": {name: str(path) for name, path in paths.items()},
        "base": base,
        "sft": sft,
        "methods": compare(samples, reader, base=base, sft=sft, expected_form=None if args.annotate_job else args.form),
    }
    print(format_table(summary), end="")
    if args.out:
        write_json_atomic(Path(args.out) / "summary.json", summary)
        page, picture = write_report(args.out, summary, samples)
        print(f"{page}, {picture.name}")
    return 0


def _named(arguments: list[str]) -> dict[str, str]:
    """NAME -> path. A bare path takes its file's name up to the first dot, or its directory's for samples.jsonl."""
    from pathlib import Path

    from anchortrain.errors import UserError

    paths: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists():
            path = Path(argument)
            stem = path.name.split(".")[0]
            name = path.absolute().parent.name if stem == "samples" else stem
        if not name or name in paths:
            raise UserError(
                f"two files would be called {name!r}" if name else "a name is empty", mend="write NAME=FILE"
            )
        paths[name] = str(path)
    return paths
