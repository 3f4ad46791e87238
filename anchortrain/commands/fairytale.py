"""`anchortrain fairytale`: FairytaleQA as annotated documents and instructions."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help="directory with corpus/ and sft/ of FairytaleQA")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write the JSONL files to")


def run(args: argparse.Namespace) -> int:
    from anchortrain.data.fairytale import write_fairytale

    for name, records in write_fairytale(args.data, args.out).items():
        print(f"{args.out}/{name}: {records} records")
    return 0
