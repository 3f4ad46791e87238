"""`anchortrain storyworld`: write the embedded default corpus."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write; must not exist or be empty")
    parser.add_argument("--seed", type=int, default=0, help="of the world and of all draws (default %(default)s)")
    parser.add_argument("--documents", type=int, default=24_000, help="pretraining documents (default %(default)s)")
    parser.add_argument("--instructions", type=int, default=8_000, help="instructions (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts (default %(default)s)")
    parser.add_argument(
        "--narrowness",
        type=float,
        default=0.8,
        metavar="RHO",
        help="0: instructions as broad as the documents; 1: favourite values only (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from anchortrain.storyworld import corpus

    counts = corpus.Counts(args.documents, args.instructions, args.prompts, args.narrowness)
    world = corpus.write(args.out, args.seed, counts)
    data_bits = world.mean_instruction_bits(args.narrowness)
    print(
        f"{args.out}: {args.documents} documents ({world.mean_prior_bits:.2f} bits per attribute), "
        f"{args.instructions} instructions ({data_bits:.2f} bits), {args.prompts} held-out prompts"
    )
    return 0
