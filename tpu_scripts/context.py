"""What the commands of one run share."""

import dataclasses
import json
import secrets
from collections.abc import Callable
from typing import Any

from anchortrain.errors import UserError
from tpu_scripts.gcloud import Clock, Gcloud
from tpu_scripts.journal import Journal
from tpu_scripts.queued_resources import APP, QueuedResources
from tpu_scripts.spec import RunSpec, differences
from tpu_scripts.storage import Storage

EXPERIMENT, RECORD, FINISHED = "experiment.gin", "run.json", "train/finished.json"


@dataclasses.dataclass(frozen=True)
class Context:
    """A run, and the ways to reach what it consists of."""

    spec: RunSpec
    gcloud: Gcloud
    journal: Journal
    say: Callable[[str], None]
    files: str = "RUN.gin"  # as they are named on the command line, for hints
    # Attempts that have ended, by number, which change no more: each costs two commands, while a machine waits.
    ended: dict[int, Any] = dataclasses.field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return self.gcloud.clock

    @property
    def storage(self) -> Storage:
        return Storage(self.gcloud)

    @property
    def machines(self) -> QueuedResources:
        return self.machines_of(self.spec.tpu.project)

    def machines_of(self, project: str) -> QueuedResources:
        return QueuedResources(self.gcloud, self.journal, project)

    @property
    def own_labels(self) -> dict[str, str]:
        """What tells this run's machines from all others."""
        return {"app": APP, "owner": self.spec.owner, "run": self.spec.tpu.run}

    def url(self, name: str) -> str:
        """Of an object of the run."""
        return f"{self.spec.url}/{name}"

    # -- the record of the run, in the bucket ----------------------------------------------------

    def deadline(self) -> float:
        """When the run's machines are to be gone, seconds since the epoch; counted from its first submission."""
        record = self._record()
        return self._deadline(record) if record else self.clock.time() + 3600 * self.spec.tpu.max_hours

    def _deadline(self, record: dict[str, Any]) -> float:
        # Another machine's clock may have been wrong; nothing was created in the future.
        return min(record["created"], self.clock.time()) + 3600 * self.spec.tpu.max_hours

    def places(self) -> list[tuple[str, str]]:
        """(project, zone)s that the run was ever submitted with, as its record says."""
        return [(project, zone) for project, zone in (self._record() or {}).get("places", [])]

    def _record(self) -> dict[str, Any] | None:
        record = self.storage.read_record(self.url(RECORD), created=(int, float), owner=str)
        places = (record or {}).get("places", [])
        if not isinstance(places, list) or not all(isinstance(p, list) and len(p) == 2 for p in places):
            what = "is damaged: places must be pairs of project and zone"
            raise UserError(what, where=self.url(RECORD), mend="remove the object, or mend it by hand")
        return record

    def check_experiment(self) -> None:
        """Raises UserError when the run in the bucket is another experiment than the one that is named now."""
        before = self.storage.read(self.url(EXPERIMENT))
        differ = differences(before, self.spec.experiment) if before is not None else []
        if differ:
            what = f"was started with another experiment: {'; '.join(differ[:4])}"
            raise UserError(what, where=self.spec.url, mend="choose another TpuConfig.run, or set it back")

    def register(self) -> float:
        """Writes the run's record and its experiment, once; returns the deadline.

        Raises UserError when the bucket has another run of this name, or the time is over.
        """
        now = self.clock.time()
        places = [[self.spec.tpu.project, zone] for zone in self.spec.tpu.zones]
        record: dict[str, Any] = {"created": now, "owner": self.spec.owner, "token": secrets.token_hex(8)}
        record["places"] = places
        if not self.storage.create(self.url(RECORD), json.dumps(record)):
            record = self._record() or record
            if record["owner"] != self.spec.owner:
                what = f"belongs to {record['owner']}, not to {self.spec.owner}"
                raise UserError(what, where=self.spec.url, mend="choose another TpuConfig.run")
            self.check_experiment()
            if more := [place for place in places if place not in record.get("places", [])]:
                record["places"] = [*record.get("places", []), *more]
                self.storage.write(self.url(RECORD), json.dumps(record))
        deadline = self._deadline(record)
        if deadline <= now:
            what = f"its {self.spec.tpu.max_hours:g} hours are over"
            mend = "raise TpuConfig.max_hours to go on; `down` deletes what may be left"
            raise UserError(what, where=self.spec.url, mend=mend)
        self.storage.write(self.url(EXPERIMENT), self.spec.experiment)
        return deadline

    def is_finished(self) -> bool:
        return self.storage.read(self.url(FINISHED)) is not None

    def step(self) -> int:
        """The last checkpoint; 0 when there is none."""
        names = self.storage.folders(self.url("train/checkpoints/"))
        return max((int(name) for name in names if name.isdecimal()), default=0)
