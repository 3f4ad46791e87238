"""Queued resources and their nodes: what there is, how it is created, and how it is deleted until it is gone.

A queued resource is Cloud TPU's request for one slice or several; each slice is a node, with one VM or many. Labels lie
on nodes and on the node that a queued resource describes. Whatever does not carry a run's labels is never touched.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from anchortrain.errors import UserError
from tpu_scripts.accelerators import accelerator_type, hosts_each, names
from tpu_scripts.gcloud import Gcloud, GcloudError, Kind
from tpu_scripts.journal import Journal
from tpu_scripts.spec import RunSpec

APP = "anchortrain"
WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
_TPUS = ("compute", "tpus")
_GONE = ("PREEMPTED", "TERMINATED")  # of a node: its queued resource may go on saying ACTIVE
_DELETE_SECONDS = 3600.0  # that a deletion may take; it is asked for again all the while
_SETTLE_SECONDS = 10.0
_OUTAGE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Machine:
    """A queued resource as it was described."""

    name: str
    project: str
    zone: str
    state: str
    labels: Mapping[str, str]
    created: str  # time, as Google writes it; tells one machine from another of the same name
    error: str = ""

    @property
    def ttl(self) -> float | None:
        """When it is to be deleted, seconds since the epoch."""
        text = self.labels.get("ttl", "")
        return float(text) if text.isdecimal() else None

    @property
    def is_ours(self) -> bool:
        """Whether these scripts made it, for whomever."""
        return self.labels.get("app") == APP and "run" in self.labels and "owner" in self.labels


@dataclasses.dataclass(frozen=True)
class Node:
    """One slice."""

    name: str
    zone: str
    state: str
    health: str
    endpoints: int  # VMs that have an address
    labels: Mapping[str, str]

    @property
    def is_gone(self) -> bool:
        return self.state in _GONE


def labels(spec: RunSpec, deadline: float) -> dict[str, str]:
    """What everything that is created for a run carries. `deadline`: seconds since the epoch."""
    return {
        "app": APP,
        "owner": spec.owner,
        "run": spec.tpu.run,
        "spec": spec.machine_hash,
        "ttl": str(int(deadline)),
    }


def runtime_version(spec: RunSpec) -> str:
    """Raises UserError where the API does not have the generation."""
    runtime = spec.tpu.runtime_version or names(spec.where).runtime
    if not runtime:
        what = f"the Cloud TPU API has no {spec.where.generation.name}"
        raise UserError(what, mend="use `render-jobset` and GKE, or bind TpuConfig.runtime_version")
    return runtime


def create_arguments(spec: RunSpec, zone: str, deadline: float, now: float) -> list[str]:
    """Of `gcloud`, to ask for the machine of a run in a zone. Times: seconds since the epoch."""
    tpu = spec.tpu
    runtime = runtime_version(spec)
    several = [f"--node-count={tpu.slices}", f"--node-prefix={spec.name}"]
    optional = {"service-account": tpu.service_account, "network": tpu.network, "subnetwork": tpu.subnetwork}
    return [
        *_TPUS,
        "queued-resources",
        "create",
        spec.name,
        f"--project={tpu.project}",
        f"--zone={zone}",
        *(several if tpu.slices > 1 else [f"--node-id={spec.name}"]),
        f"--accelerator-type={accelerator_type(spec.where)}",
        f"--runtime-version={runtime}",
        *{"spot": ["--spot"], "reserved": ["--reserved"], "on_demand": []}[tpu.capacity],
        f"--valid-until-duration={max(int(deadline - now), 60)}s",  # bounds the waiting only
        "--labels=" + ",".join(f"{key}={value}" for key, value in labels(spec, deadline).items()),
        *(f"--{flag}={value}" for flag, value in optional.items() if value),
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        *(["--internal-ips"] if tpu.internal_ips else []),
        "--async",
    ]


class QueuedResources:
    """Those of one project. Methods raise GcloudError, or UserError where something is not ours."""

    def __init__(self, gcloud: Gcloud, journal: Journal, project: str) -> None:
        self._gcloud, self._journal, self.project = gcloud, journal, project

    def _args(self, kind: str, verb: str, zone: str, *more: str) -> list[str]:
        return [*_TPUS, kind, verb, *more, f"--project={self.project}", f"--zone={zone}"]

    def describe(self, name: str, zone: str) -> Machine | None:
        """None when there is none of this name."""
        found = self._gcloud.find(self._args("queued-resources", "describe", zone, name))
        return self._machine(found, zone) if found else None

    def every(self, zone: str) -> list[Machine]:
        """All that these scripts made, whoever's."""
        found = self._gcloud.json(self._args("queued-resources", "list", zone)) or []
        return [one for one in (self._machine(entry, zone) for entry in found) if one.is_ours]

    def nodes(self, zone: str, wanted: Mapping[str, str]) -> list[Node]:
        """Those with all of the labels, by name as the slices are numbered."""
        found = self._gcloud.json(self._args("tpu-vm", "list", zone)) or []
        nodes = [_node(entry, zone) for entry in found]
        nodes = [one for one in nodes if wanted.items() <= one.labels.items()]
        return sorted(nodes, key=lambda one: (len(one.name), one.name))

    def look(
        self, name: str, zone: str, wanted: Mapping[str, str], end: float | None = None
    ) -> tuple[Machine | None, list[Node]]:
        """What is to be deleted. It is paid for until it is gone, so an outage is waited out until `end`."""
        clock = self._gcloud.clock
        end = clock.time() + _DELETE_SECONDS if end is None else end
        while True:
            try:
                nodes = self.nodes(zone, wanted)
                return self.describe(name, zone), nodes  # last: what it says is deleted next
            except GcloudError as error:
                if error.kind is not Kind.TRANSIENT or clock.time() > end:
                    raise
                clock.sleep(_OUTAGE_SECONDS)

    def create(self, spec: RunSpec, zone: str, deadline: float) -> None:
        """Asks for the machine; that it is there already is no error. The journal knows of it before Google does."""
        now = self._gcloud.clock.time()
        args = create_arguments(spec, zone, deadline, now)
        if not self._gcloud.dry_run:
            # Where a kill comes between this line and the command, `reap` looks for what may not be there: no harm.
            fields = {"name": spec.name, "run": spec.tpu.run, "owner": spec.owner, "ttl": int(deadline)}
            self._journal.write("create", time=now, project=self.project, zone=zone, **fields)
        try:
            self._gcloud.run(args, changes=True)
        except GcloudError as error:
            if error.kind in (Kind.CAPACITY, Kind.PERMANENT) and not self._gcloud.dry_run:  # refused: none will come
                self._journal.write("deleted", time=now, project=self.project, zone=zone, name=spec.name)
            if error.kind is not Kind.EXISTS:
                raise

    def delete(
        self,
        name: str,
        zone: str,
        wanted: Mapping[str, str],
        *,
        created: str | None = None,
        seconds: float = _DELETE_SECONDS,
    ) -> bool:
        """Deletes a queued resource and its nodes, and returns when Google no longer knows them; False when another one
        has the name instead, which stays.

        Args:
          wanted: labels that it must have; else nothing is done, and UserError says so.
          created: `Machine.created` of the one that is meant, "" for nodes without one; default the one that is there.
          seconds: after which it gives up, with GcloudError; the machine then still counts as there.
        """
        clock = self._gcloud.clock
        end, pause = clock.time() + seconds, 2.0
        while True:
            machine, nodes = self.look(name, zone, wanted, end)
            if machine is not None:
                created = machine.created if created is None else created
                if machine.created != created:
                    return False  # gone, and somebody has asked for another of this name
            if machine is not None and not wanted.items() <= machine.labels.items():
                # Its description may lack labels of nodes that are being deleted; those of others it does not lack.
                raise UserError(f"{name} in {zone} has other labels", mend="it is not this run's, so it stays")
            if machine is None and not nodes:
                break
            try:
                if machine is not None:
                    if machine.state != "DELETING":
                        self._ask(self._args("queued-resources", "delete", zone, name, "--force", "--async"))
                else:  # nodes whose queued resource went without them
                    for node in nodes:
                        if node.state != "DELETING":
                            self._ask(self._args("tpu-vm", "delete", zone, node.name, "--async"))
            except GcloudError as error:
                if error.kind in (Kind.PERMANENT, Kind.CAPACITY) or clock.time() > end:
                    raise
            if self._gcloud.dry_run:
                return True
            if clock.time() > end:
                raise UserError(
                    f"{name} in {zone} is still there after {seconds / 60:.0f} minutes of deleting",
                    mend="`python -m tpu_scripts reap --delete` tries again",
                )
            clock.sleep(pause)
            pause = min(pause * 1.5, _SETTLE_SECONDS)
        if not self._gcloud.dry_run:
            self._journal.write("deleted", time=clock.time(), project=self.project, zone=zone, name=name)
        return True

    def _ask(self, args: list[str]) -> None:
        """A deletion that is under way, or done, is as good as one that is accepted."""
        try:
            self._gcloud.run(args, changes=True, tries=3)
        except GcloudError as error:
            if error.kind not in (Kind.NOT_FOUND, Kind.TRANSIENT):
                raise

    def _machine(self, entry: Mapping[str, Any], zone: str) -> Machine:
        specs = entry.get("tpu", {}).get("nodeSpec") or [{}]
        state = entry.get("state", {})
        failed = next((value for key, value in state.items() if key.endswith("Data") and "error" in value), {})
        return Machine(
            name=entry.get("name", "").rpartition("/")[2],
            project=self.project,
            zone=zone,
            state=state.get("state", "UNKNOWN"),
            labels=specs[0].get("node", {}).get("labels", {}),
            created=entry.get("createTime", ""),
            error=failed.get("error", {}).get("message", ""),
        )


def _node(entry: Mapping[str, Any], zone: str) -> Node:
    return Node(
        name=entry.get("name", "").rpartition("/")[2],
        zone=zone,
        state=entry.get("state", "UNKNOWN"),
        health=entry.get("health", ""),
        endpoints=sum(1 for one in entry.get("networkEndpoints", []) if one.get("ipAddress")),
        labels=entry.get("labels", {}),
    )


def not_ready(spec: RunSpec, nodes: Iterable[Node]) -> str:
    """What an ACTIVE machine still lacks; "" when it can be used. ACTIVE alone does not say that workers answer."""
    nodes = list(nodes)
    if len(nodes) < spec.tpu.slices:
        return f"{len(nodes)} of {spec.tpu.slices} slices"
    for node in nodes:
        if node.state != "READY":
            return f"{node.name} is {node.state}"
        if node.health not in ("HEALTHY", "UNHEALTHY_MAINTENANCE"):
            return f"{node.name} is {node.health or 'of unknown health'}"
        if node.endpoints != hosts_each(spec.where):
            return f"{node.name} has {node.endpoints} of {hosts_each(spec.where)} workers"
    return ""


def when(seconds: float) -> str:
    """A time for people."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")
