"""Keeps a run alive until it is finished: machine, attempt, watch, and again.

All that it knows lies in the bucket and with Google, so it can be killed at any point and started again, here or on
another machine.
"""

from collections.abc import Mapping

from anchortrain.errors import UserError
from anchortrain.peers import EXIT_PEER_LOST
from anchortrain.progress import duration
from tpu_scripts import attempts, packages, provision
from tpu_scripts.attempts import Attempt, Reports
from tpu_scripts.context import Context
from tpu_scripts.gcloud import GcloudError, Kind
from tpu_scripts.provision import Ready
from tpu_scripts.queued_resources import when
from tpu_scripts.workers import UnreachableError, Workers, WorkersError

_SILENT_SECONDS = 900.0  # after which a worker whose log is not uploaded any more is taken for lost
_STRAGGLE_SECONDS = 300.0  # that workers may go on after one has failed: jax needs minutes to give up a frozen host
_SAY_SECONDS = 600.0
_OUTAGE_SECONDS = 60.0  # until the next look, after several tries have failed
_SSH_SECONDS = 10.0  # until workers that ssh did not reach are asked again; grows to the former
_USER_ERROR, _INTERRUPTED, _NO_SECRET = 2, 130, 78
_KILLED, _TERMINATED = 137, 143  # the latter: stopped before it could handle that


class Supervisor:
    """One run, from wherever it is to its end."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def run(self, deadline: float) -> None:
        """Returns when the run is finished. Raises UserError when going on makes no sense or the time is over."""
        context = self.context
        context.say(f"machines of {context.spec.name} are deleted at {when(deadline)} at the latest")
        while True:
            try:
                if context.is_finished():
                    self._close()
                    break
                if context.clock.time() >= deadline:
                    raise UserError(
                        f"the {context.spec.tpu.max_hours:g} hours of the run are over at step {context.step()}",
                        mend="raise TpuConfig.max_hours and submit again: it continues",
                    )
                self.refuse_loop()
                ready = provision.ensure(context, deadline)
                attempt = self.launch(ready, deadline)
                if attempt is not None:
                    self._watch(ready, attempt, deadline)
            except GcloudError as error:
                # An outage ends nothing: machine and training go on without us, and all that is known lies with them.
                if error.kind is not Kind.TRANSIENT or context.clock.time() >= deadline:
                    raise
                context.say(f"{error.reason}; looking again in {duration(_OUTAGE_SECONDS)}")
                context.clock.sleep(_OUTAGE_SECONDS)
        context.say(f"finished: {context.spec.url}/train")

    def refuse_loop(self) -> None:
        """Raises UserError when the run crashes again and again: before a machine is paid for, where one would be."""
        known = attempts.read(self.context)
        if not known or not known[-1].outcome:
            return
        recent = attempts.held_against(known)
        if attempts.is_loop(recent):
            what = f"{attempts.CRASHES} attempts in a row have crashed at step {known[-1].end_step}"
            mend = f"{self._log_command()}; once it is mended, submit with --retry"
            raise UserError(what, where=self.context.url(f"logs/attempt-{known[-1].number}"), mend=mend)
        if attempts.is_out_of_reach(recent):
            what = f"ssh did not reach the workers of {attempts.UNREACHABLES} machines in a row"
            mend = "see to the network's firewall and your roles; once it is mended, submit with --retry"
            raise UserError(what, mend=mend)

    def launch(self, ready: Ready, deadline: float) -> Attempt | None:
        """Starts the training where it does not run; None when the machine was lost, or is no good and was deleted, or
        at the deadline."""
        context, clock = self.context, self.context.clock
        package, constraints = packages.resolve(context)
        attempt = self._attempt(ready)
        workers = Workers(context, ready, attempt.number, package, constraints)
        end, pause = deadline, _SSH_SECONDS
        while clock.time() < deadline:
            try:
                workers.start()
                return attempt
            except WorkersError as error:
                context.say(str(error))
                outcome = attempts.UNREACHABLE if isinstance(error, UnreachableError) else attempts.CRASHED
            if lost := self._lost(ready):  # which is why, and says nothing of the training
                context.say(f"attempt {attempt.number}: {lost}")
                attempts.end(context, attempt, attempts.PREEMPTED)
                return None
            # Google says that the machine is well: it is the way there that is broken, for a while.
            end = min(end, clock.time() + 60 * context.spec.tpu.ssh_minutes)
            if outcome == attempts.CRASHED or clock.time() >= end:
                attempts.end(context, attempt, outcome)
                # Whatever it is that this machine has, the next one may not have it.
                machine = ready.machine
                context.machines.delete(machine.name, machine.zone, context.own_labels, created=machine.created)
                return None
            context.say(f"asking again in {duration(pause)}; the machine is given up at {when(end)}")
            clock.sleep(min(pause, max(end - clock.time(), 0)))
            pause = min(2 * pause, _OUTAGE_SECONDS)
        return None

    def _attempt(self, ready: Ready) -> Attempt:
        """The attempt that this machine is on, or the next."""
        context = self.context
        known = attempts.read(context)
        if known and not known[-1].outcome:
            if known[-1].machine == ready.machine.created:
                return known[-1]
            known[-1] = attempts.end(context, known[-1], attempts.PREEMPTED)
        self.refuse_loop()
        number = known[-1].number + 1 if known else 0
        if number >= context.spec.tpu.max_attempts:
            raise UserError(f"{number} attempts were made", mend="raise TpuConfig.max_attempts to go on")
        attempt = attempts.begin(context, number, ready.machine.created)
        if attempt is None:
            raise UserError(f"attempt {number} was begun by another command", mend="let one supervise a run")
        return attempt

    def _watch(self, ready: Ready, attempt: Attempt, deadline: float) -> None:
        """Returns when the attempt has ended, one way or another, and says so in the bucket."""
        context, clock = self.context, self.context.clock
        started, first_exit, said, silent_from = clock.time(), None, 0.0, clock.time()
        count = context.spec.tpu.slices * (ready.nodes[0].endpoints if ready.nodes else 1)
        while clock.time() < deadline:
            seen = attempts.reports(context, attempt.number)
            if len(seen.exits) == count:
                self._judge(attempt, seen.exits)
                return
            if lost := self._lost(ready):
                # A last word may have come just before: markers of a finished run are worth more than a lost machine.
                context.say(f"attempt {attempt.number}: {lost}")
                attempts.end(context, attempt, attempts.PREEMPTED)
                return
            now = clock.time()
            if seen.exits and first_exit is None:
                first_exit = now
            if first_exit is not None and now - first_exit > _STRAGGLE_SECONDS and any(seen.exits.values()):
                context.say(f"attempt {attempt.number}: {len(seen.exits)} of {count} workers ended, the others hang")
                self._judge(attempt, seen.exits)
                return
            silent = self._silent(seen, count, silent_from, now)
            if silent:
                context.say(f"attempt {attempt.number}: nothing was heard of {silent}")
                attempts.end(context, attempt, attempts.CRASHED)
                return
            if now - said >= _SAY_SECONDS:
                said = now
                context.say(f"attempt {attempt.number}: checkpoint {context.step()}, {duration(now - started)}")
            clock.sleep(min(context.spec.tpu.poll_seconds, max(deadline - now, 0.1)))

    def _lost(self, ready: Ready) -> str:
        """Why the machine is no longer the one that was launched on; "" while it is."""
        context = self.context
        machine = context.machines.describe(context.spec.name, ready.machine.zone)
        if machine is None:
            return "the machine is gone"
        if machine.created != ready.machine.created:
            return "the machine was replaced"
        if machine.state != "ACTIVE":
            return f"the machine is {machine.state}"
        nodes = context.machines.nodes(ready.machine.zone, context.own_labels)
        gone = [f"{node.name} is {node.state}" for node in nodes if node.is_gone]
        if len(nodes) < context.spec.tpu.slices:
            gone.append(f"{len(nodes)} of {context.spec.tpu.slices} slices are left")
        return gone[0] if gone else ""

    def _silent(self, seen: Reports, count: int, since: float, now: float) -> str:
        """Workers that neither ended nor uploaded anything for long."""
        limit = max(_SILENT_SECONDS, 5 * self.context.spec.tpu.upload_seconds)
        if now - since <= limit:
            return ""
        hosts = count // self.context.spec.tpu.slices
        every = [(i // hosts, i % hosts) for i in range(count)]
        silent = [at for at in every if at not in seen.exits and now - seen.heard.get(at, since) > limit]
        return "workers " + ", ".join(f"{s}/{w}" for s, w in silent[:8]) if silent else ""

    def _judge(self, attempt: Attempt, exits: Mapping[tuple[int, int], int]) -> None:
        """What exit codes mean. Raises UserError for a mistake that another attempt would make again."""
        context, codes = self.context, set(exits.values())
        names = ", ".join(str(code) for code in sorted(codes))
        if codes == {0}:
            attempts.end(context, attempt, attempts.FINISHED)
            if not context.is_finished():
                what = "all workers ended well but the run is not finished"
                raise UserError(what, where=context.url("train"), mend=self._log_command())
            return
        for wrong in (_USER_ERROR, _NO_SECRET):
            if wrong in codes:
                attempts.end(context, attempt, attempts.CRASHED)
                at = next(at for at, code in exits.items() if code == wrong)
                raise UserError(f"training refused to go on: {self._last_line(attempt, at)}", mend=self._log_command())
        # Stopped with a checkpoint, as before maintenance; a neighbour may have noticed only that its peer is gone.
        stopped = codes <= {_INTERRUPTED, EXIT_PEER_LOST, _KILLED, _TERMINATED} and bool(
            codes & {_INTERRUPTED, _TERMINATED}
        )
        outcome = attempts.STOPPED if stopped else attempts.CRASHED
        attempts.end(context, attempt, outcome)
        context.say(f"attempt {attempt.number} {outcome} at step {context.step()} (exit codes {names})")

    def _close(self) -> None:
        """The last attempt of a finished run may have lost its machine before its last word."""
        known = attempts.read(self.context)
        if known and not known[-1].outcome:
            attempts.end(self.context, known[-1], attempts.FINISHED)

    def _last_line(self, attempt: Attempt, at: tuple[int, int]) -> str:
        url = self.context.url(f"logs/attempt-{attempt.number}/slice-{at[0]}/worker-{at[1]}.log")
        lines = [line for line in (self.context.storage.read(url) or "").splitlines() if line.strip()]
        return lines[-1].partition(" ")[2].removeprefix("anchortrain: error: ") if lines else "it left no log"

    def _log_command(self) -> str:
        return f"see `python -m tpu_scripts logs {self.context.files}`"
