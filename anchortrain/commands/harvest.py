"""`anchortrain harvest`: one round of rehearsal's harvest: plans drawn, responses written, checked and kept."""

import argparse

from anchortrain.commands.train import add_gin_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory to draw from, post-trained with annotations")
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--data", nargs="+", metavar="DIR", help="prepared instructions that give the prompts")
    prompts.add_argument("--prompts", nargs="+", metavar="FILE", help="JSONL with a field 'prompt'")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to make; the same one continues")
    parser.add_argument("--round", type=int, default=1, help="rounds draw differently (default %(default)s)")
    add_gin_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from anchortrain import compilation_cache
    from anchortrain.checkpoint import RunInfo
    from anchortrain.errors import UserError
    from anchortrain.rehearsal import config
    from anchortrain.rehearsal.harvest import harvest
    from anchortrain.rehearsal.prompts import from_data, from_files

    settings = config.load(args.gin_file, args.gin_bindings, training=False)
    if args.round < 1:
        raise UserError(f"must be 1 or more, got {args.round}", where="--round")
    compilation_cache.enable()
    if args.data:
        info = RunInfo.read(Path(args.run))
        pools = from_data(dict.fromkeys(args.data, 1.0), info.vocabulary_hash)
    else:
        pools = from_files(args.prompts)
    figures = harvest(
        args.run, pools, Path(args.out), settings, round=args.round, reference=settings.experiment.run.init_from
    )
    bits = [figures["entropy"][name]["bits"] for name in ("drawn", "written")]
    print(
        f"{args.out}: {figures['records']} records of {figures['drawn']} plans, {figures['acceptance']:.1%} confirmed "
        "at once; plans have {:.2f} bits as drawn, {:.2f} as written".format(*bits)
    )
    for reason, count in figures["left"].items():
        print(f"  left out {count}: {reason}")
    return 0
