"""`anchortrain train`: pretrain or post-train as gin files say, with one process or many."""

import argparse
import sys
import time
from pathlib import Path

_TIMEOUT = 1800  # as `distributed.DEFAULT_TIMEOUT`, which --help does not import


def add_gin_arguments(parser: argparse.ArgumentParser) -> None:
    """--gin_file and --gin_bindings, the same for every command that reads an experiment."""
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="gin file; may be repeated")
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help="one binding, such as 'ModelConfig.d_model = 64'; may be repeated",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_gin_arguments(parser)
    parser.add_argument("--config", metavar="JSON", help="config.json of an earlier run, to repeat it")
    parser.add_argument("--out", required=True, metavar="RUN", help="run directory; an unfinished run continues")
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR|off",
        help="where compiled programs are kept, also gs:// (default $ANCHORTRAIN_CACHE or ~/.cache/anchortrain/xla)",
    )
    parser.add_argument("--profile_steps", metavar="FIRST:LAST", help="write a trace of these steps to RUN/profile")
    many = parser.add_argument_group("several processes", "the same command on every host; see docs/parallelism.md")
    many.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0 (or $JAX_COORDINATOR_ADDRESS)")
    many.add_argument("--processes", type=int, metavar="N", help="number of processes (or $JAX_NUM_PROCESSES)")
    many.add_argument("--process_id", type=int, metavar="I", help="of this one, 0 to N-1 (or $JAX_PROCESS_ID)")
    many.add_argument("--distributed", choices=("auto",), help="find these out: Cloud TPU pods, Slurm, Kubernetes")
    many.add_argument(
        "--timeout", type=float, default=_TIMEOUT, metavar="S", help="to wait for all processes (default %(default)s)"
    )
    many.add_argument(
        "--rendezvous_port", type=int, default=0, metavar="PORT", help="of the checks (default coordinator's + 1)"
    )


def run(args: argparse.Namespace) -> int:
    started = time.time()
    from anchortrain import compilation_cache, distributed
    from anchortrain import experiment as experiments
    from anchortrain.errors import UserError
    from anchortrain.memory import keep_freed_memory
    from anchortrain.training.profiling import parse_steps

    if bool(args.config) == bool(args.gin_file or args.gin_bindings):
        raise UserError("give either --config or --gin_file and --gin_bindings", mend="see anchortrain train --help")
    experiment = (
        experiments.load_json(args.config) if args.config else experiments.load(args.gin_file, args.gin_bindings)
    )
    profile_steps = parse_steps(args.profile_steps) if args.profile_steps else None
    processes = distributed.resolve(
        args.coordinator,
        args.processes,
        args.process_id,
        auto=args.distributed == "auto",
        timeout=args.timeout,
        rendezvous_port=args.rendezvous_port,
    )
    keep_freed_memory()
    compilation_cache.enable(args.compilation_cache)
    with distributed.session(processes, experiment):
        from anchortrain.train import train

        heldout = train(experiment, Path(args.out), profile_steps=profile_steps, started=started)
        if processes is None or processes.index == 0:
            for name, value in sorted(heldout.items()):
                print(f"{name} {value:.4f}")
            print(f"run: {args.out}", file=sys.stderr)
    return 0
