"""`anchortrain annotate report`: are the annotations any good? Prints figures, writes a page."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="DIR_OR_FILE", help="what `anchortrain annotate` made, or any annotated records"
    )
    parser.add_argument("--out", metavar="FILE", help="write the page here, such as report.html")
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    parser.add_argument("--tokenizer", metavar="FILE", help="count its tokens (default: words and punctuation marks)")
    parser.add_argument(
        "--sample",
        type=int,
        default=20_000,
        metavar="CHUNKS",
        help="chunks that information, tokens and examples are taken from (default %(default)s)",
    )
    parser.add_argument("--examples", type=int, default=8, metavar="N", help="chunks shown (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    import sys

    from anchortrain.annotate.report.statistics import make_report
    from anchortrain.annotate.report.text import format_text
    from anchortrain.data.sources import check_apart
    from anchortrain.errors import UserError
    from anchortrain.files import write_json_atomic, write_text_atomic

    for path in filter(None, (args.out, args.json)):
        check_apart(path, args.sources)
    if args.out and args.out == args.json:
        raise UserError("--out and --json name the same file", mend="give each its own")
    if args.sample < 1 or args.examples < 0:
        raise UserError("--sample must be positive and --examples must not be negative")
    report = make_report(args.sources, tokenizer=args.tokenizer, sample=args.sample, examples=args.examples)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a corpus may hold what the terminal has no letter for
    print(format_text(report), end="")
    if args.json:
        write_json_atomic(args.json, report.figures)
        print(args.json)
    if args.out:
        from anchortrain.annotate.report.page import page

        write_text_atomic(args.out, page(report))
        print(args.out)
    return 0
