"""`anchortrain tokenizer`: trains a byte-level BPE tokenizer on documents and instructions."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", nargs="+", required=True, metavar="FILE", help="files or folders of records")
    parser.add_argument("--vocab_size", type=int, default=1024, help="number of ids, 7 controls and 256 bytes included")
    parser.add_argument("--out", required=True, metavar="tokenizer.json", help="file to write")


def run(args: argparse.Namespace) -> int:
    from anchortrain.data.sources import check_apart
    from anchortrain.data.tokenizer_training import train_tokenizer

    check_apart(args.out, args.inputs)
    size = train_tokenizer(args.inputs, vocab_size=args.vocab_size, out=args.out)
    if size < args.vocab_size:
        print(f"warning: the corpus has no more to merge: {size} ids instead of {args.vocab_size}", file=sys.stderr)
    print(f"{args.out}: {size} ids")
    return 0
