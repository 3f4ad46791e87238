"""Deletes what outlived its time, whoever forgot it: machines with our labels whose `ttl` has passed."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

from anchortrain.errors import UserError
from tpu_scripts.gcloud import Gcloud
from tpu_scripts.journal import Journal
from tpu_scripts.queued_resources import APP, QueuedResources


@dataclasses.dataclass(frozen=True)
class Leftover:
    """A queued resource, or nodes without one."""

    project: str
    zone: str
    name: str
    owner: str
    run: str
    state: str
    ttl: float | None  # seconds since the epoch; None where the label is damaged
    is_due: bool
    created: str  # time, as Google writes it; "" for nodes

    @property
    def labels(self) -> dict[str, str]:
        return {"app": APP, "owner": self.owner, "run": self.run}


class Survey(NamedTuple):
    """What was found, and what kept it from looking everywhere."""

    found: list[Leftover]
    failed: list[UserError]


def survey(
    gcloud: Gcloud, journal: Journal, places: Sequence[tuple[str, str]], owners: Collection[str], *, everything: bool
) -> Survey:
    """What the owners have in (project, zone)s. All places are tried, whatever happens in one.

    Args:
      everything: also what has time left counts as due.
    """
    found, failed = [], []
    for project, zone in places:
        try:
            found += _in_place(QueuedResources(gcloud, journal, project), zone, owners, gcloud.clock.time(), everything)
        except UserError as error:
            failed.append(error)
    return Survey(found, failed)


def _in_place(
    machines: QueuedResources, zone: str, owners: Collection[str], now: float, everything: bool
) -> list[Leftover]:
    seen = {}
    for one in machines.every(zone):
        if one.labels["owner"] in owners:
            seen[one.name] = (one.labels, one.state, one.ttl, one.created)
    for node in machines.nodes(zone, {"app": APP}):
        if node.labels.get("run") and node.labels.get("owner") in owners:
            ttl = node.labels.get("ttl", "")
            name = f"{node.labels['owner']}-{node.labels['run']}"
            seen.setdefault(name, (node.labels, node.state, float(ttl) if ttl.isdecimal() else None, ""))
    found = []
    for name, (labels, state, ttl, created) in seen.items():
        # A machine of ours without a readable time was tampered with: it is shown, but deleted only on demand.
        is_due = everything or (ttl is not None and ttl <= now)
        run = labels["owner"], labels["run"]
        found.append(Leftover(machines.project, zone, name, *run, state, ttl, is_due, created))
    return found


def reap(gcloud: Gcloud, journal: Journal, found: Sequence[Leftover]) -> int:
    """Deletes what is due, each until it is gone; returns how many. All are tried; then the first error is raised.

    What was made anew since it was listed stays. A queued resource cannot be given another `ttl`, so that it is the
    one that was listed says, too, that it is due.
    """
    failed, count = None, 0
    for one in found:
        if not one.is_due:
            continue
        try:
            machines = QueuedResources(gcloud, journal, one.project)
            count += machines.delete(one.name, one.zone, one.labels, created=one.created)
        except UserError as error:
            failed = failed or error
    if failed:
        raise failed
    return count
