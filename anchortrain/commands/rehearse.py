"""`anchortrain rehearse`: post-training, then rounds of harvest and training, as gin files say.

The same command continues a rehearsal that was stopped. docs/rehearsal.md has it all.
"""

import argparse

from anchortrain.commands.train import add_gin_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_gin_arguments(parser)
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="directory of the rehearsal; the same one continues"
    )
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR|off",
        help="where compiled programs are kept, also gs:// (default $ANCHORTRAIN_CACHE or ~/.cache/anchortrain/xla)",
    )


def run(args: argparse.Namespace) -> int:
    import signal
    from pathlib import Path

    from anchortrain import compilation_cache
    from anchortrain.errors import UserError
    from anchortrain.memory import keep_freed_memory
    from anchortrain.rehearsal import config

    if not args.gin_file and not args.gin_bindings:
        raise UserError("nothing says what to rehearse", mend="give --gin_file, see docs/rehearsal.md")
    settings = config.load(args.gin_file, args.gin_bindings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # heard between trainings, too
    keep_freed_memory()
    compilation_cache.enable(args.compilation_cache)
    from anchortrain.rehearsal.rounds import lines, rehearse

    for line in lines(rehearse(settings, Path(args.out))):
        print(line)
    return 0
