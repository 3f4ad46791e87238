"""Deletes what outlived its time, whoever forgot it: machines with our labels whose `ttl` has passed."""

import dataclasses
from collections.abc import Sequence

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

    @property
    def labels(self) -> dict[str, str]:
        return {"app": APP, "owner": self.owner, "run": self.run}


def survey(
    gcloud: Gcloud, journal: Journal, places: Sequence[tuple[str, str]], owner: str, *, everything: bool
) -> list[Leftover]:
    """What an owner has in (project, zone)s.

    Args:
      everything: also what has time left counts as due.
    """
    now, found = gcloud.clock.time(), []
    for project, zone in places:
        machines = QueuedResources(gcloud, journal, project)
        seen = {}
        for one in machines.every(zone):
            if one.labels["owner"] == owner:
                seen[one.name] = (one.labels, one.state, one.ttl)
        for node in machines.nodes(zone, {"app": APP, "owner": owner}):
            name = f"{owner}-{node.labels.get('run', '')}"
            if node.labels.get("run"):
                ttl = node.labels.get("ttl", "")
                seen.setdefault(name, (node.labels, node.state, float(ttl) if ttl.isdecimal() else None))
        for name, (labels, state, ttl) in seen.items():
            # A machine of ours without a readable time was tampered with: it is shown, but deleted only on demand.
            is_due = everything or (ttl is not None and ttl <= now)
            found.append(Leftover(project, zone, name, owner, labels["run"], state, ttl, is_due))
    return found


def reap(gcloud: Gcloud, journal: Journal, found: Sequence[Leftover]) -> int:
    """Deletes what is due, each until it is gone; returns how many. All are tried; then the first error is raised."""
    failed, count = None, 0
    for one in found:
        if not one.is_due:
            continue
        try:
            QueuedResources(gcloud, journal, one.project).delete(one.name, one.zone, one.labels)
            count += 1
        except UserError as error:
            failed = failed or error
    if failed:
        raise failed
    return count
