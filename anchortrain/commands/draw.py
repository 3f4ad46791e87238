"""`anchortrain draw`: annotations from a reference, for the KL anchor."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory of the reference, pretrained with annotations")
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared instructions that give the prompts")
    parser.add_argument("--out", required=True, metavar="DIR", help="prepared directory to make")
    parser.add_argument("--draws", type=int, default=4096, help="number of annotations (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_annotation_tokens", type=int, default=64, help="(default %(default)s)")
    parser.add_argument(
        "--top_k",
        type=int,
        default=32,
        help="store the reference's distributions, so many of the most probable tokens each, for "
        "LossConfig.anchor_reference = 'stored'; 0 stores none (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from anchortrain import compilation_cache
    from anchortrain.draw import draw

    compilation_cache.enable()
    manifest = draw(
        args.run,
        args.data,
        args.out,
        count=args.draws,
        seed=args.seed,
        max_annotation_tokens=args.max_annotation_tokens,
        top_k=args.top_k,
    )
    notes = ", ".join(f"{manifest.notes[name]} {name}" for name in ("unclosed", "malformed"))
    if args.top_k:
        notes += (
            f", the {manifest.stored_top_k} stored tokens hold {manifest.notes['stored_mass']:.4f} of the probability"
        )
    print(f"{args.out}: {manifest.examples} annotations, {manifest.tokens} tokens, {notes}")
    return 0
