"""`anchortrain scaling report`: figures, tables and verdicts on every claim from a study's rows."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIR", help="with study.json, results.jsonl and curves.jsonl of `anchortrain scaling`"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="for figures/, tables.md, claims.json, report.html")


def run(args: argparse.Namespace) -> int:
    from anchortrain.scaling.report import write_report

    for path in write_report(args.directory, args.out):
        print(path)
    return 0
