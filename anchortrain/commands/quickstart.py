"""`anchortrain quickstart`: mode collapse and its prevention on the story world, in minutes on a laptop."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="quickstart_out", metavar="DIR", help="(default %(default)s); resumes there")
    parser.add_argument("--seed", type=int, default=0, help="of the world and everything else (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    from anchortrain.errors import UserError
    from anchortrain.quickstart.study import Study

    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with SIGINT ignored
        signal.signal(number, interrupt)
    try:
        Study(Path(args.out), args.seed).run()
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        raise
    return 0
