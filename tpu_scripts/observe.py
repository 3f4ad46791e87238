"""What a run is doing, and what its workers said; all of it from the bucket, also when the machines are gone."""

import heapq
import re
from collections.abc import Iterator, Sequence

from anchortrain.errors import UserError
from anchortrain.progress import duration
from tpu_scripts import attempts, provision
from tpu_scripts.context import RECORD, Context
from tpu_scripts.queued_resources import not_ready, when


def state(context: Context) -> str:
    """One word or two: finished, running, waiting, failed, over, not submitted."""
    if context.is_finished():
        return "finished"
    if context.storage.read(context.url(RECORD)) is None:
        return "not submitted"
    machines = provision.find(context)
    known = attempts.read(context)
    if context.deadline() <= context.clock.time():
        return "hours are over"
    if not machines:
        return known[-1].outcome if known and known[-1].outcome else "no machine"
    if machines[0].state != "ACTIVE":
        return machines[0].state.lower().replace("_", " ")
    return "running" if known and not known[-1].outcome else "starting"


def status(context: Context) -> list[str]:
    """Lines for people."""
    spec, now = context.spec, context.clock.time()
    lines = [f"{spec.tpu.run}: {state(context)}, checkpoint {context.step()}, {spec.url}"]
    machines = provision.find(context)
    for machine in machines:
        nodes = context.machines.nodes(machine.zone, context.own_labels)
        lacking = not_ready(spec, nodes) if machine.state == "ACTIVE" else machine.error
        left = f", {duration(max(machine.ttl - now, 0))} left" if machine.ttl else ""
        lines.append(f"  machine {machine.name} in {machine.zone}: {machine.state} {lacking}".rstrip() + left)
        for node in nodes:
            lines.append(f"    {node.name}: {node.state} {node.health}, {node.endpoints} workers")
    if not machines:
        lines.append("  no machine: nothing is paid for")
    known = attempts.read(context)
    lasts = any(machine.state == "ACTIVE" for machine in machines) and context.deadline() > now
    for one in known[-5:]:
        steps = f"{one.step} to {one.end_step}" if one.outcome else f"from {one.step}"
        ended = one.outcome or ("going on" if lasts else "cut off")
        lines.append(f"  attempt {one.number}: {ended}, steps {steps}, began {when(one.time)}")
    if known:
        seen = attempts.reports(context, known[-1].number)
        for s, w in sorted({*seen.heard, *seen.exits}):
            said = f"exit code {seen.exits[s, w]}" if (s, w) in seen.exits else "running" if lasts else "cut off"
            heard = seen.heard.get((s, w))
            ago = f", heard {duration(max(now - heard, 0))} ago" if heard else ""
            lines.append(f"    worker {s}/{w}: {said}{ago}")
    return lines


def log_lines(context: Context, number: int | None, workers: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Lines of all attempts, or of one, of all workers or some, by time.

    Raises UserError when there is nothing yet.
    """
    found, there = {}, set()
    for one in context.storage.objects(context.url("logs/attempt-*/**")):
        match = re.search(r"/attempt-(\d+)/slice-(\d+)/worker-(\d+)\.log$", one.url)
        if not match:
            continue
        attempt, *at = map(int, match.groups())
        there.add((attempt, *at))
        if number in (None, attempt) and (not workers or tuple(at) in workers):
            found[one.url] = f"{attempt} {at[0]}/{at[1]}"
    if not found and number in (None, *(one[0] for one in there)) and there and workers:
        raise UserError("no such worker", where="--worker", mend=f"there are {_few({f'{s}/{w}' for _, s, w in there})}")
    if not found and there:
        mend = f"there are {_few({str(one[0]) for one in there})}"
        raise UserError(f"attempt {number} left no logs", where="--attempt", mend=mend)
    if not found:
        raise UserError("there are no logs", where=context.spec.url, mend="they come a minute after the launch")
    streams = [_stamped(context.storage.read(url) or "", who) for url, who in sorted(found.items())]
    for time, who, line in heapq.merge(*streams):
        yield f"{time} {who} {line}"


def _few(names: set[str]) -> str:
    ordered = sorted(names, key=lambda name: [int(part) for part in name.split("/")])
    return ", ".join(ordered if len(ordered) <= 8 else [*ordered[:4], "...", ordered[-1]])


def _stamped(text: str, who: str) -> list[tuple[str, str, str]]:
    """(time, who, line); a line without a time has that of the one before."""
    found, time = [], ""
    for line in text.splitlines():
        first, _, rest = line.partition(" ")
        if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", first):
            time, line = first, rest
        found.append((time, who, line))
    return sorted(found, key=lambda entry: entry[0])
