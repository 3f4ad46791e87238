"""Every VM of a machine: installs on it, checks it, starts the training on it, and counts who has answered.

Each worker is spoken to by a gcloud command of its own, so that none is forgotten: one command for many goes on after
failures, and gives up the rest of a batch. gcloud repeats a command when ssh breaks, so each may be run many times.
"""

import base64
import gzip
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from anchortrain.errors import UserError
from tpu_scripts.accelerators import chips_each_host, hosts_each
from tpu_scripts.context import EXPERIMENT, Context
from tpu_scripts.gcloud import GcloudError, Kind, cut_off, results
from tpu_scripts.provision import Ready
from tpu_scripts.spec import RunSpec

SCRIPT = Path(__file__).parent / "remote" / "worker.sh"
COORDINATOR_PORT = 8476  # jax's default, 8482, is not open between hosts everywhere; the next one is for `rendezvous`
_SSH_AT_ONCE = 16
_SECONDS = {"bootstrap": 1800.0, "preflight": 300.0, "launch": 300.0}
_ACK = "ANCHORTRAIN-ACK"


class WorkersError(UserError):
    """Some workers did not do what they were asked to; another machine may."""


class UnreachableError(WorkersError):
    """Some workers could not be asked: no ssh, no answer. That says nothing of what they would do."""


class _Answer(NamedTuple):
    """Of a worker to one command."""

    ok: bool
    said: str
    reached: bool = True  # whether it was the worker that answered


def train_arguments(spec: RunSpec) -> list[str]:
    """Of `anchortrain`, the same on every worker; paths are relative to the mounted bucket."""
    config = f"{spec.folder}/{EXPERIMENT}"
    return ["train", "--gin_file", config, "--out", spec.train_dir, "--distributed", "auto"]


def parameters(
    spec: RunSpec, attempt: int, slice_index: int, worker: int, package: str, constraints: str, zone: str, ttl: float
) -> str:
    """What `worker.sh` is told: bash assignments in base64, one word without a special character."""
    tpu = spec.tpu
    delete = ["compute", "tpus", "queued-resources", "delete", spec.name, f"--project={tpu.project}", f"--zone={zone}"]
    environment = {"JAX_COORDINATOR_PORT": str(COORDINATOR_PORT), "PYTHONUNBUFFERED": "1", **tpu.env}
    environment.setdefault("ANCHORTRAIN_CACHE", f"{tpu.mount}/{spec.bucket}/{spec.folder}/xla_cache")
    values: dict[str, str | Sequence[str]] = {
        "RUN": tpu.run,
        "ATTEMPT": str(attempt),
        "SLICE": str(slice_index),
        "WORKER": str(worker),
        "PROJECT": tpu.project,
        "BUCKET": spec.bucket,
        "FOLDER": spec.folder,
        "MOUNT": tpu.mount,
        "LOGS": f"{spec.url}/logs/attempt-{attempt}",
        "PACKAGE": package,
        "PACKAGE_HASH": hashlib.sha256(f"{package} {constraints}".encode()).hexdigest()[:12],
        "CONSTRAINTS": constraints,
        "UPLOAD_SECONDS": f"{tpu.upload_seconds:g}",
        "DELETE_AT": str(int(ttl)),
        "DELETE": [*delete, "--force", "--async"],
        "TRAIN": train_arguments(spec),
        "ENVIRONMENT": [f"{name}={value}" for name, value in environment.items()],
        "SECRETS": [f"{name}={secret}" for name, secret in tpu.secrets.items()],
    }
    text = "".join(
        f"{name}={shlex.quote(value)}\n" if isinstance(value, str) else f"{name}=({shlex.join(value)})\n"
        for name, value in values.items()
    )
    return base64.b64encode(text.encode()).decode()


def remote_command(verb: str, words: str) -> str:
    """Puts the script where it is not, whole or not at all, and runs it."""
    script = SCRIPT.read_bytes()
    packed = base64.b64encode(gzip.compress(script, mtime=0)).decode()
    path = f".anchortrain/worker-{hashlib.sha256(script).hexdigest()[:12]}.sh"
    return (
        f"mkdir -p .anchortrain && (echo {packed} | base64 -d | gzip -d > {path}.$$) && mv {path}.$$ {path}"
        f" && exec bash $HOME/{path} {verb} {words}"
    )


def ssh_arguments(spec: RunSpec, zone: str, slice_index: int, worker: int, command: str) -> list[str]:
    """Of `gcloud`, to run a command on one worker."""
    return [
        *("compute", "tpus", "queued-resources", "ssh", spec.name),
        f"--project={spec.tpu.project}",
        f"--zone={zone}",
        f"--node={slice_index}",
        f"--worker={worker}",
        *(["--tunnel-through-iap"] if spec.tpu.tunnel_through_iap else []),
        f"--command={command}",
    ]


def _own_words(stderr: str, slice_index: int, worker: int) -> str:
    """What `worker.sh` itself says was wrong, with the error before it; "" when it did not get that far."""
    before, mark, after = stderr.rpartition(f"worker {slice_index}/{worker}: ")
    if not mark:
        return ""
    causes = [line.strip() for line in before.splitlines() if re.search("error|fail|denied", line, re.IGNORECASE)]
    return after.partition("\n")[0] + (f" ({causes[-1][:200]})" if causes else "")


class Workers:
    """All VMs of a machine that is ready, for one attempt."""

    def __init__(self, context: Context, ready: Ready, attempt: int, package: str, constraints: str) -> None:
        self._context, self._ready, self._attempt = context, ready, attempt
        self._package, self._constraints = package, constraints
        spec = context.spec
        self.all = [(s, w) for s in range(spec.tpu.slices) for w in range(hosts_each(spec.where))]

    def start(self) -> None:
        """From a bare machine to a running attempt; may be repeated. Raises WorkersError, UnreachableError where only
        ssh failed, or UserError when no machine would do."""
        self._each("bootstrap")
        self._check(self._each("preflight"))
        states = self._each("launch")
        self._context.say(f"attempt {self._attempt}: {len(states)} of {len(self.all)} workers have started")

    def _each(self, verb: str) -> dict[tuple[int, int], str]:
        """Asks every worker; returns what each acknowledged with."""
        # The first alone: it registers the ssh key, which several at once would do over each other.
        found = {self.all[0]: self._ask(verb, *self.all[0])}
        if found[self.all[0]].reached:
            with ThreadPoolExecutor(_SSH_AT_ONCE) as pool:
                try:
                    answers = results([pool.submit(self._ask, verb, *at) for at in self.all[1:]])
                except BaseException:  # an interrupt must not wait for an installation
                    pool.shutdown(wait=False, cancel_futures=True)
                    cut_off(lambda argv: "ssh" in argv and self._context.spec.name in argv)
                    raise
            found |= dict(zip(self.all[1:], answers, strict=True))
        failed = {at: answer for at, answer in found.items() if not answer.ok}
        if failed:
            who = ", ".join(f"{s}/{w}" for s, w in list(failed)[:8])
            # What a worker says is worth more than that others cannot be reached.
            worst = next((answer for answer in failed.values() if answer.reached), next(iter(failed.values())))
            what = f"{verb} failed on {len(failed)} of {len(self.all)} workers ({who}): {worst.said}"
            raise WorkersError(what) if worst.reached else UnreachableError(what)
        return {at: answer.said for at, answer in found.items()}

    def _ask(self, verb: str, slice_index: int, worker: int) -> _Answer:
        spec, machine = self._context.spec, self._ready.machine
        at = (slice_index, worker)
        words = parameters(spec, self._attempt, *at, self._package, self._constraints, machine.zone, machine.ttl or 0.0)
        args = ssh_arguments(spec, machine.zone, *at, remote_command(verb, words))
        try:
            text = self._context.gcloud.run(args, timeout=_SECONDS[verb], tries=3, changes=True)
        except GcloudError as error:
            if error.kind is Kind.PERMANENT and ("PERMISSION_DENIED" in error.reason or error.code == 2):
                raise
            own = _own_words(error.stderr, *at)
            return _Answer(False, own or error.reason, reached=bool(own) or error.kind is not Kind.TRANSIENT)
        expected = f"{_ACK} {verb} {self._attempt} {slice_index} {worker} "
        acks = [line.removeprefix(expected) for line in text.splitlines() if line.startswith(expected)]
        # gcloud passes over workers that it cannot prepare for ssh, and ends well.
        return _Answer(True, acks[-1].strip()) if acks else _Answer(False, "it did not answer", reached=False)

    def _check(self, answers: Mapping[tuple[int, int], str]) -> None:
        """Refuses workers that differ: jax would hang, or end with less than a line."""
        facts = {at: json.loads(text) for at, text in answers.items()}
        first = facts[self.all[0]]
        for (s, w), found in facts.items():
            differ = [name for name in first if found.get(name) != first[name]]
            if differ:
                name = differ[0]
                raise WorkersError(f"worker {s}/{w} has {name} {found.get(name)}, worker 0/0 has {first[name]}")
        chips = chips_each_host(self._context.spec.where)
        if first["chips"] != chips:
            raise WorkersError(f"workers have {first['chips']} chips each, {chips} were expected")
