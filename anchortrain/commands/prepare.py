"""`anchortrain prepare`: records to tokens with roles, on disk, ready to train on."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", required=True, choices=("documents", "instructions"))
    parser.add_argument("--inputs", nargs="+", required=True, metavar="FILE", help="files or folders of records")
    parser.add_argument("--tokenizer", required=True, metavar="FILE", help="tokenizer.json or SentencePiece *.model")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--plain", action="store_true", help="leave all annotations out")
    parser.add_argument("--length", type=int, default=128, help="most tokens of an example (default %(default)s)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=int, help="write exactly so many tokens")
    budget.add_argument("--match", metavar="DIR", help="write exactly as many tokens as this prepared directory has")
    parser.add_argument("--shards", type=int, default=1, help="number of files (default %(default)s)")
    parser.add_argument(
        "--unannotated_share", type=float, default=0.0, help="share of instructions whose annotation is left out"
    )
    parser.add_argument(
        "--long",
        choices=("split", "error", "drop"),
        help="what becomes of longer records (default: documents are split, an instruction is an error)",
    )


def run(args: argparse.Namespace) -> int:
    from anchortrain.data.prepare import prepare

    manifest = prepare(
        args.kind,
        args.inputs,
        args.tokenizer,
        args.out,
        annotated=not args.plain,
        length=args.length,
        tokens=args.tokens,
        match=args.match,
        shards=args.shards,
        unannotated_share=args.unannotated_share,
        long=args.long,
    )
    roles = ", ".join(f"{role} {count}" for role, count in manifest.tokens_by_role.items() if count)
    notes = "".join(f", {name} {count}" for name, count in manifest.notes.items() if count)
    print(f"{args.out}: {manifest.examples} examples, {manifest.tokens} tokens ({roles}){notes}")
    return 0
