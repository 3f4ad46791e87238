"""Attempts of a run, as its bucket knows them: when each began, on which machine, and how it ended.

attempts/N.json        written before attempt N is launched
attempts/N.end.json    how it ended, and the last checkpoint then
attempts/N.retry.json  the user has said since (`--retry`) that the cause of all failures until then was mended
logs/attempt-N/slice-S/worker-W.log, worker-W.exit-CODE
"""

import dataclasses
import datetime
import json
import re
import secrets
from collections.abc import Mapping

from tpu_scripts.context import Context

CRASHES = 3  # in a row, without a new checkpoint between them: a loop
UNREACHABLES = 3  # machines in a row that ssh did not reach: it is not the machines

# How an attempt ended. Only crashes count towards a loop of crashes. "unreachable": its machine was given up because
# ssh did not reach all workers.
FINISHED, CRASHED, PREEMPTED, STOPPED, UNREACHABLE = "finished", "crashed", "preempted", "stopped", "unreachable"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of the training on all workers."""

    number: int
    machine: str  # time at which the machine was created: tells it from others of its name
    step: int  # last checkpoint at the start
    time: float  # of the start, seconds since the epoch
    outcome: str = ""  # "" while it lasts
    end_step: int = 0
    is_mended: bool = False  # whether the user has said since that what made attempts fail was mended


def read(context: Context) -> list[Attempt]:
    """All attempts, in order."""
    names = {one.url.rpartition("/")[2] for one in context.storage.objects(context.url("attempts/*"))}
    found = []
    for number in sorted(int(match[1]) for name in names if (match := re.fullmatch(r"(\d+)\.json", name))):
        one = context.ended.get(number) or _read(context, number, f"{number}.end.json" in names)
        if one.outcome:
            context.ended[number] = one
        found.append(dataclasses.replace(one, is_mended=f"{number}.retry.json" in names))
    return found


def _read(context: Context, number: int, has_ended: bool) -> Attempt:
    storage, url = context.storage, context.url(f"attempts/{number}")
    entry = storage.read_record(f"{url}.json", machine=str, step=int, time=(int, float)) or {}
    end = (storage.read_record(f"{url}.end.json", outcome=str, step=int) or {}) if has_ended else {}
    return Attempt(
        number,
        entry.get("machine", ""),
        entry.get("step", 0),
        entry.get("time", 0.0),
        end.get("outcome", ""),
        end.get("step", 0),
    )


def begin(context: Context, number: int, machine: str) -> Attempt | None:
    """Records an attempt; None when somebody else has taken its number."""
    entry = {"machine": machine, "step": context.step(), "time": context.clock.time(), "token": secrets.token_hex(8)}
    if not context.storage.create(context.url(f"attempts/{number}.json"), json.dumps(entry)):
        return None
    return Attempt(number, machine, entry["step"], entry["time"])


def end(context: Context, attempt: Attempt, outcome: str) -> Attempt:
    """Records how an attempt ended; the first to say so is believed."""
    entry = {"outcome": outcome, "step": context.step(), "time": context.clock.time()}
    context.storage.create(context.url(f"attempts/{attempt.number}.end.json"), json.dumps(entry))
    return dataclasses.replace(attempt, outcome=outcome, end_step=entry["step"])


def forgive(context: Context) -> None:
    """Records that what made attempts fail was mended: those that have ended are not held against the run any more,
    whichever command goes on."""
    ended = [one for one in read(context) if one.outcome]
    if ended:
        entry = {"time": context.clock.time()}
        context.storage.create(context.url(f"attempts/{ended[-1].number}.retry.json"), json.dumps(entry))


def held_against(attempts: list[Attempt]) -> list[Attempt]:
    """Those since the user last said that the cause of failures was mended."""
    last = max((i for i, one in enumerate(attempts) if one.is_mended), default=-1)
    return attempts[last + 1 :]


def is_out_of_reach(attempts: list[Attempt]) -> bool:
    """Whether no machine can be reached by ssh."""
    last = attempts[-UNREACHABLES:]
    return len(last) == UNREACHABLES and all(one.outcome == UNREACHABLE for one in last)


def is_loop(attempts: list[Attempt]) -> bool:
    """Whether the last crashes were in vain. What became of machines in between is not held against a run."""
    crashes = [one for one in attempts if one.outcome == CRASHED][-CRASHES:]
    if len(crashes) < CRASHES:
        return False
    later = [one for one in attempts if one.number >= crashes[0].number]
    return max(one.end_step for one in later if one.outcome) <= crashes[0].step


@dataclasses.dataclass(frozen=True)
class Reports:
    """What the workers of an attempt have left in the bucket."""

    exits: Mapping[tuple[int, int], int]  # (slice, worker) -> exit code
    heard: Mapping[tuple[int, int], float]  # (slice, worker) -> last upload of its log, seconds since the epoch


def reports(context: Context, number: int) -> Reports:
    """Of attempt `number`; one listing, however many workers there are."""
    exits, heard = {}, {}
    for one in context.storage.objects(context.url(f"logs/attempt-{number}/**")):
        match = re.search(r"/slice-(\d+)/worker-(\d+)\.(log|exit-(\d+))$", one.url)
        if not match:
            continue
        at = int(match[1]), int(match[2])
        if match[4] is not None:
            exits[at] = int(match[4])
        else:
            heard[at] = datetime.datetime.fromisoformat(one.updated).timestamp()
    return Reports(exits, heard)
