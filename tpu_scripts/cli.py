"""`python -m tpu_scripts COMMAND`: the commands, and how their errors end.

Exit code: 0, 1 when something that was asked about is not well (doctor, status of a failed run), 2 for mistakes and for
runs that cannot go on, 130 when interrupted.
"""

import argparse
import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from anchortrain.errors import UserError
from tpu_scripts import attempts, doctor, jobset, observe, planning, provision, study
from tpu_scripts import spec as specs
from tpu_scripts.context import RECORD, Context
from tpu_scripts.gcloud import Gcloud, Interrupted, cut_off
from tpu_scripts.journal import Journal, default_directory
from tpu_scripts.queued_resources import runtime_version, when
from tpu_scripts.reaping import reap, survey
from tpu_scripts.supervisor import Supervisor
from tpu_scripts.terminal import deaf, handling, interruptible, say, tell

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None, *, gcloud: Gcloud | None = None, journal: Journal | None = None) -> int:
    """Runs one command; returns the exit code. `gcloud` and `journal` are given by tests."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    gcloud = gcloud or Gcloud(say=say, dry_run=getattr(args, "dry_run", False))
    journal = journal or Journal(default_directory())
    try:
        with interruptible():
            return _COMMANDS[args.command][0](args, gcloud, journal)
    except UserError as error:
        tell(f"tpu_scripts: error: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        tell("tpu_scripts: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # of what reads our results
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # of this machine: a full disk, a folder that is not ours
        tell(f"tpu_scripts: error: {error}")
        return EXIT_USER_ERROR


# -- the commands -----------------------------------------------------------------------------------


def _context(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> Context:
    files = shlex.join(map(str, args.gin_file)) or "RUN.gin"
    return Context(specs.load(args.gin_file, args.gin_bindings), gcloud, journal, say, files)


@contextlib.contextmanager
def _kept_or_deleted(context: Context, keep: bool) -> Iterator[None]:
    """Whatever ends the body, the machine does not stay; unless the user wants it to."""
    try:
        yield
    except BaseException as error:
        if keep and not isinstance(error, UserError):
            context.say(f"{context.spec.name} is kept; `supervise` goes on, `down` deletes it")
        else:
            try:
                with deaf(context.spec.name):
                    provision.tear_down(context)
            except UserError as second:  # what ended the run must be heard, too
                context.say(f"NOT DELETED, `down` or `reap` must do it: {second}")
        raise
    with deaf(context.spec.name):
        provision.tear_down(context)


def _prepare(context: Context, no_plan: bool) -> float:
    """What comes before anything is paid for; returns the deadline."""
    runtime_version(context.spec)
    record = None if no_plan else planning.plan(context.spec, context.journal.directory, context.say)
    context.say(planning.describe(context.spec, record))
    doctor.region_of_bucket(context)
    doctor.data_in_bucket(context)
    provision.check(context)
    return context.register()


def _refuse_ended(context: Context) -> None:
    if context.is_finished():
        what = "the run is finished already"
        raise UserError(what, where=f"{context.spec.url}/train", mend="choose another TpuConfig.run to train again")
    Supervisor(context).refuse_loop()


def _refuse_unknown(context: Context) -> None:
    """What comes after `create` makes no first machine: nobody has planned it."""
    if context.storage.read_json(context.url(RECORD)) is None:
        raise UserError("the run was not submitted yet", where=context.spec.url, mend="`create` or `submit` it first")


def submit(context: Context, *, no_plan: bool = False, keep: bool = False, retry: bool = False) -> None:
    """Everything, from the plan to the end of the run; the machine is gone afterwards."""
    if context.is_finished():
        context.check_experiment()
        context.say(f"finished already: {context.spec.url}/train")
        provision.tear_down(context)
        return
    deadline = _prepare(context, no_plan)
    if retry:
        attempts.forgive(context)
    supervisor = Supervisor(context)
    supervisor.refuse_loop()
    with _kept_or_deleted(context, keep):
        supervisor.run(deadline)


def _submit(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    with journal.lock(context.spec.name):
        submit(context, no_plan=args.no_plan, keep=args.keep, retry=args.retry)
    return 0


def _create(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    with journal.lock(context.spec.name):
        _refuse_ended(context)
        deadline = _prepare(context, args.no_plan)
        machine = provision.create(context, deadline)
        if context.gcloud.dry_run:
            return 0
        ends = when(machine.ttl or deadline)  # one that was there already keeps its time
        print(f"{machine.name} in {machine.zone}: {machine.state}, deleted by {ends} at the latest")
    return 0


def _wait(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    with journal.lock(context.spec.name):
        _refuse_ended(context)
        _refuse_unknown(context)
        provision.check(context)
        ready = provision.ensure(context, context.deadline())
        print(f"{ready.machine.name} in {ready.machine.zone}: ready, {sum(n.endpoints for n in ready.nodes)} workers")
    return 0


def _launch(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    with journal.lock(context.spec.name):
        _refuse_ended(context)
        _refuse_unknown(context)
        provision.check(context)
        deadline = context.register()
        ready = provision.ensure(context, deadline)
        attempt = Supervisor(context).launch(ready, deadline)
    if attempt is None:
        raise UserError("the machine was lost, or was no good and was deleted", mend="run the command again")
    print(f"attempt {attempt.number} runs on {ready.machine.name}")
    return 0


def _supervise(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    with journal.lock(context.spec.name):
        if not context.is_finished():
            _refuse_unknown(context)
            provision.check(context)
            context.register()
        deadline = context.deadline()
        if args.retry:
            attempts.forgive(context)
        supervisor = Supervisor(context)
        supervisor.refuse_loop()
        with _kept_or_deleted(context, args.keep):
            supervisor.run(deadline)
    return 0


def _down(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    # A `submit` that is alive would ask for the machine again.
    with contextlib.nullcontext() if args.force else journal.lock(context.spec.name):
        count = provision.tear_down(context)
    print(f"{context.spec.name}: {count or 'no'} machine{'s' * (count != 1)} deleted; {context.spec.url} stays")
    return 0


def _status(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    print("\n".join(observe.status(_context(args, gcloud, journal))))
    return 0


def _logs(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    context = _context(args, gcloud, journal)
    try:
        workers = [(int(s), int(w)) for s, w in (one.split("/") for one in args.worker)]
    except ValueError:
        raise UserError(f"must be SLICE/WORKER, got {args.worker}", where="--worker") from None
    number = args.attempt
    if number is None and not args.all:
        known = attempts.read(context)
        number = known[-1].number if known else None
    for line in observe.log_lines(context, number, workers):
        print(line)
    return 0


def _reap(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    places, owner = journal.places(), args.owner
    if args.gin_file or args.gin_bindings:
        spec = specs.load(args.gin_file, args.gin_bindings)
        places = [(spec.tpu.project, zone) for zone in spec.tpu.zones] + places
        owner = owner or spec.owner
    if args.zone and not args.project:
        raise UserError("needs --project", where="--zone")
    if args.project:
        places = [(args.project, zone) for zone in args.zone] + places
    owners = [owner] if owner else list(dict.fromkeys([specs.default_owner(), *journal.owners()]))
    places = list(dict.fromkeys(places))
    if not places:
        raise UserError("nothing was created from here", mend="name a gin file, or --project and --zone")
    found, failed = survey(gcloud, journal, places, owners, everything=args.all)
    for one in found:
        time_left = "no readable ttl" if one.ttl is None else f"until {when(one.ttl)}"
        print(f"{'delete' if one.is_due else 'keep':6}  {one.name}  {one.zone}  {one.state}  {time_left}")
    if not args.delete:
        print(f"{sum(one.is_due for one in found)} of {len(found)} would be deleted; --delete does it")
    else:
        try:
            print(f"{reap(gcloud, journal, found)} deleted")
        except UserError as error:
            failed = [error, *failed]
    for error in failed[1:]:
        say(str(error))
    if failed:
        raise failed[0]
    return 0


def _doctor(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    well = True
    for what, right, said in doctor.examine(_context(args, gcloud, journal)):
        print(f"{'ok  ' if right else 'FAIL'}  {what}: {said}", flush=True)
        well = well and right
    return 0 if well else 1


def _render_jobset(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    spec = specs.load(args.gin_file, args.gin_bindings)
    print(jobset.render(jobset.manifests(spec, gcloud.clock.time() + 3600 * spec.tpu.max_hours)), end="")
    return 0


def _study(args: argparse.Namespace, gcloud: Gcloud, journal: Journal) -> int:
    tpu, config, bound = specs.read(args.gin_file, args.gin_bindings)
    found = study.members(tpu, config, bound)
    stopping, interrupts = threading.Event(), 0

    def context(one: study.Member) -> Context:
        return Context(one.spec, gcloud, journal, say)

    if args.status:
        for one in found:
            at = context(one)
            print(f"{one.spec.tpu.run:40}  {observe.state(at):24} checkpoint {at.step()}")
        return 0
    print("\n".join(study.budget(found)), flush=True)
    if not args.yes:
        print("nothing was created; --yes submits")
        return 0

    def one_run(one: study.Member) -> None:
        stoppable = gcloud.with_clock(study.StoppingClock(stopping, Interrupted, gcloud.clock))
        at = Context(one.spec, stoppable, journal, lambda line: say(f"{one.spec.tpu.run}: {line}"))
        with journal.lock(one.spec.name):
            try:
                submit(at, no_plan=args.no_plan)
            except Interrupted:  # which also cut off the deletion: it is done with a clock that waits
                provision.tear_down(context(one))
                raise UserError("interrupted, its machine is deleted") from None

    def interrupt(number: int, _frame: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 3:
            raise Interrupted
        stopping.set()
        cut_off(lambda argv: "ssh" in argv)
        say("stopping: machines are being deleted; if this is cut off, `reap` must do it")

    with handling(interrupt):
        failed = study.run(found, config.concurrency, one_run, say, stopping)
    if stopping.is_set():
        raise Interrupted
    if failed:
        raise UserError(
            f"{len(failed)} of {len(found)} runs failed: {', '.join(failed)}", mend="the same command goes on"
        )
    return 0


_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace, Gcloud, Journal], int], str]] = {
    "submit": (_submit, "plan, create, wait, install, check, launch and supervise; deletes the machine at the end"),
    "create": (_create, "ask for the machine"),
    "wait": (_wait, "wait until every worker answers; what was preempted is made anew"),
    "launch": (_launch, "install, check and start the training, detached"),
    "supervise": (_supervise, "keep the run going until it is finished, then delete the machine"),
    "status": (_status, "machine, workers, attempts and the last checkpoint"),
    "logs": (_logs, "what all workers said, by time; also when the machine is gone"),
    "down": (_down, "delete the machine of the run, until it is gone; logs and checkpoints stay"),
    "reap": (_reap, "list your machines that outlived their time; --delete deletes them"),
    "doctor": (_doctor, "look for what would stop a run"),
    "render-jobset": (_render_jobset, "print a JobSet for GKE"),
    "study": (_study, "sizes x methods x seeds: what they may cost; --yes submits them; --status shows all"),
}
_PLANNED, _KEEPING, _DRY = ("submit", "create", "study"), ("submit", "supervise"), ("create", "down", "reap")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tpu_scripts", allow_abbrev=False, description="Runs on Cloud TPUs; docs/tpu.md has the way through."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in _COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.add_argument("gin_file", nargs="*", type=Path, metavar="FILE", help="gin file that binds TpuConfig")
        one.add_argument("--gin_bindings", action="append", default=[], metavar="BINDING", help="may be repeated")
        if name in _PLANNED:
            one.add_argument("--no_plan", action="store_true", help="do not compile the run beforehand")
        if name in _KEEPING:
            one.add_argument("--keep", action="store_true", help="when interrupted, leave the machine running")
            one.add_argument("--retry", action="store_true", help="go on after crashes whose cause was mended")
        if name in _DRY and name != "reap":
            one.add_argument("--dry_run", action="store_true", help="print what would be changed, change nothing")
        if name == "down":
            one.add_argument("--force", action="store_true", help="although another command works on the run")
        if name == "logs":
            one.add_argument("--attempt", type=int, metavar="N", help="default the last one")
            one.add_argument("--all", action="store_true", help="of all attempts")
            one.add_argument("--worker", action="append", default=[], metavar="SLICE/WORKER", help="may be repeated")
        if name == "reap":
            one.add_argument("--delete", action="store_true", help="delete what is due; else it is only listed")
            one.add_argument("--all", action="store_true", help="also what has time left")
            one.add_argument("--owner", default="", help="default you")
            one.add_argument("--project", default="", help="beside those that something was created in from here")
            one.add_argument("--zone", action="append", default=[], help="of --project; may be repeated")
        if name == "study":
            one.add_argument("--yes", action="store_true", help="submit the runs")
            one.add_argument("--status", action="store_true", help="show the state of every run")
    return parser
