"""From a specification to a machine that can be used: create, wait, give up on a zone, try the next; and tear down."""

import dataclasses
from collections.abc import Sequence

from anchortrain.errors import UserError
from anchortrain.progress import duration
from tpu_scripts.context import Context
from tpu_scripts.gcloud import GcloudError, Kind
from tpu_scripts.queued_resources import WAITING, Machine, Node, not_ready

_READY_SECONDS = 1800.0  # from ACTIVE to every worker's address
_ROUND_SECONDS = 300.0  # after no zone had capacity
_ARRIVAL_SECONDS = 30.0  # from asking for a machine until Google knows it, at most


@dataclasses.dataclass(frozen=True)
class Ready:
    """A machine whose workers answer."""

    machine: Machine
    nodes: Sequence[Node]


def find(context: Context) -> list[Machine]:
    """The run's machines in all of its zones: at most one, unless a command was killed between two zones.

    Raises UserError where the name is taken by something else.
    """
    found = []
    for zone in context.spec.tpu.zones:
        machine = context.machines.describe(context.spec.name, zone)
        if machine is None:
            continue
        if not context.own_labels.items() <= machine.labels.items():
            what = f"{machine.name} in {zone} is not this run's: its labels are {dict(machine.labels)}"
            raise UserError(what, mend="choose another TpuConfig.run")
        found.append(machine)
    return found


def check(context: Context) -> None:
    """Raises UserError where the run has a machine that is not as the specification says. Changes nothing."""
    for machine in find(context):
        _check_settings(context, machine)
    tpu, name = context.spec.tpu, context.spec.name
    elsewhere = [(project, zone) for project, zone, one in context.journal.open() if one == name]
    for project, zone in dict.fromkeys([*elsewhere, *context.places()]):
        if project == tpu.project and zone in tpu.zones:
            continue
        machine = context.machines_of(project).describe(name, zone)
        if machine is not None and context.own_labels.items() <= machine.labels.items():
            what = f"{name} is in {zone} of {project}, which TpuConfig does not name any more"
            raise UserError(what, mend="name zone and project again, or `down` there first")


def _check_settings(context: Context, machine: Machine) -> None:
    if machine.labels.get("spec") != context.spec.machine_hash:
        what = f"{machine.name} in {machine.zone} was created with other settings"
        raise UserError(what, mend="`down` first, or set them back")


def create(context: Context, deadline: float) -> Machine:
    """The run's machine, asked for if there is none, in the first zone that takes the request."""
    machines = find(context)
    for extra in machines[1:]:
        _delete(context, extra.zone, "a second machine of this run")
    if machines:
        _check_settings(context, machines[0])
        return machines[0]
    return _create(context, deadline, context.spec.tpu.zones)


def _create(context: Context, deadline: float, zones: Sequence[str]) -> Machine:
    refused: GcloudError | None = None
    for zone in zones:
        context.say(f"asking for {context.spec.where.name} ({context.spec.tpu.capacity}) in {zone}")
        try:
            context.machines.create(context.spec, zone, deadline)
        except GcloudError as error:
            if error.kind is not Kind.CAPACITY:
                raise
            context.say(f"{zone}: {error.reason}")
            refused = error
            continue
        for _ in range(10):  # an accepted request may take a moment to be seen
            machine = context.machines.describe(context.spec.name, zone)
            if machine is not None:
                return machine
            if context.gcloud.dry_run:
                return Machine(context.spec.name, context.spec.tpu.project, zone, "ACCEPTED", {}, "")
            context.clock.sleep(3.0)
        raise UserError(f"{context.spec.name} was created in {zone} but is not there", mend="run the command again")
    assert refused is not None
    raise refused


def ensure(context: Context, deadline: float) -> Ready:
    """Returns when the machine can be used. What is suspended, failed or preempted is deleted and made anew.

    Raises UserError at the deadline, and for whatever waiting does not mend.
    """
    zones = list(context.spec.tpu.zones)
    clock, poll = context.clock, context.spec.tpu.poll_seconds
    machine: Machine | None = None
    since, active_since, said = clock.time(), None, ""
    while True:
        if clock.time() >= deadline:
            raise UserError("the run's hours are over while it waits for a machine", mend="raise TpuConfig.max_hours")
        if machine is None:
            try:
                machines = find(context)
                machine = create(context, deadline) if machines else _create(context, deadline, zones)
            except GcloudError as error:
                if error.kind is not Kind.CAPACITY:
                    raise
                context.say(f"no zone has capacity; next round in {duration(_ROUND_SECONDS)}")
                clock.sleep(min(_ROUND_SECONDS, max(deadline - clock.time(), 0)))
                continue
            since, active_since = clock.time(), None
        zone = machine.zone
        fresh = context.machines.describe(context.spec.name, zone)
        if fresh is None:
            machine = None
            clock.sleep(poll)
            continue
        machine, waited = fresh, clock.time() - since
        give_up, full = "", False
        if machine.state == "ACTIVE":
            nodes = context.machines.nodes(zone, context.own_labels)
            lacking = not_ready(context.spec, nodes)
            if not lacking:
                return Ready(machine, nodes)
            active_since = active_since if active_since is not None else clock.time()
            gone = next((node for node in nodes if node.is_gone), None)
            if gone or clock.time() - active_since > _READY_SECONDS:
                give_up = f"{gone.name} is {gone.state}" if gone else f"not ready in time: {lacking}"
        elif machine.state in WAITING:
            lacking = machine.state
            if len(zones) > 1 and waited > 60 * context.spec.tpu.wait_minutes:
                give_up, full = f"no capacity in {duration(waited)}", True
        else:  # SUSPENDING, SUSPENDED, FAILED, DELETING, and what a later API may add
            lacking = machine.state
            give_up = f"{machine.state} {machine.error}".strip()
            full = machine.state == "FAILED"
        if give_up:
            _delete(context, zone, give_up)
            if full:  # this zone is asked last
                zones = [*(one for one in zones if one != zone), zone]
            machine = None
            clock.sleep(poll)
            continue
        if lacking != said:
            context.say(f"waiting for {machine.name} in {zone}: {lacking} ({duration(waited)})")
            said = lacking
        clock.sleep(min(poll, max(deadline - clock.time(), 0.1)))


def _delete(context: Context, zone: str, why: str, project: str = "") -> None:
    context.say(f"deleting {context.spec.name} in {zone}: {why}")
    context.machines_of(project or context.spec.tpu.project).delete(context.spec.name, zone, context.own_labels)


def tear_down(context: Context) -> int:
    """Deletes the run's machines in every zone where there can be one; returns how many there were.

    Every zone is tried, whatever happens in another; then the first error is raised.
    """
    opened = context.journal.open().items()
    journalled = {(project, zone): time for (project, zone, name), time in opened if name == context.spec.name}
    named = [(context.spec.tpu.project, zone) for zone in context.spec.tpu.zones]
    count, failed = 0, None
    for project, zone in dict.fromkeys([*named, *sorted(journalled)]):
        machines = context.machines_of(project)
        try:
            machine, nodes = machines.look(context.spec.name, zone, context.own_labels)
            # A request that was cut off may arrive yet.
            arrived = journalled.get((project, zone), 0.0) + _ARRIVAL_SECONDS
            while machine is None and not nodes and context.clock.time() < arrived:
                context.clock.sleep(_ARRIVAL_SECONDS / 6)
                machine, nodes = machines.look(context.spec.name, zone, context.own_labels)
            if machine is None and not nodes:
                if (project, zone) in journalled and not context.gcloud.dry_run:
                    time, name = context.clock.time(), context.spec.name
                    context.journal.write("deleted", time=time, project=project, zone=zone, name=name)
                continue
            if machine is not None and not context.own_labels.items() <= machine.labels.items() and not nodes:
                continue  # somebody else's of the same name
            count += 1
            _delete(context, zone, "tearing down", project)
        except UserError as error:
            context.say(f"{zone}: {error}")
            failed = failed or error
    if failed:
        raise failed
    return count
