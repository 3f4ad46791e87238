"""Workers and a trainer that take no time: what happens on a machine, by the fake cloud's clock."""

import base64
import re
import shlex

STEP_SECONDS, CHECKPOINT_STEPS = 10.0, 10


def parameters(command):
    """(verb, values) of a command of `tpu_scripts.workers.remote_command`."""
    *_, verb, words = command.split(" ")
    text = base64.b64decode(words).decode()
    values = {}
    for name, value in re.findall(r"^([A-Z_]+)=(\(.*?\)|'.*?'|\S*)$", text, re.MULTILINE | re.DOTALL):
        split = shlex.split(value[1:-1]) if value.startswith("(") else shlex.split(value)
        values[name] = split if value.startswith("(") else "".join(split)
    return verb, values


class Pod:
    """The trainer of one run: `steps` steps, a checkpoint now and then, dead when its machine is or when it crashes.

    `crashes`: attempt -> (seconds after the launch, exit codes of all workers in order).
    """

    def __init__(self, cloud, count, steps=100, crashes=None):
        self.cloud, self.count, self.steps, self.crashes = cloud, count, steps, crashes or {}
        self.launched, self.trainer = {}, None
        self.lost_steps, self.starts = [], []
        cloud.ssh, cloud.on_loss = self.ssh, self.on_loss

    def ssh(self, machine, node, worker, command):
        verb, values = parameters(command)
        attempt, said = int(values["ATTEMPT"]), "ready"
        if verb == "preflight":
            said = '{"chips":4,"jax":"1"}'
        if verb == "launch":
            started = self.launched.setdefault((machine["created"], attempt), set())
            said = "running" if (node, worker) in started else "started"
            started.add((node, worker))
            if len(started) == self.count and said == "started":
                self._begin(machine, attempt, values)
        return 0, f"ANCHORTRAIN-ACK {verb} {attempt} {node} {worker} {said}\n", ""

    def _begin(self, machine, attempt, values):
        self.stop(self.cloud.now())
        start = self._checkpoint(values)
        self.starts.append(start)
        self.trainer = {"at": self.cloud.now(), "start": start, "saved": start, "attempt": attempt, "values": values}
        self.trainer["machine"] = machine["created"]

    def _root(self, values):
        return f"{values['BUCKET']}/{values['TRAIN'][values['TRAIN'].index('--out') + 1]}"

    def _checkpoint(self, values):
        found = re.compile(re.escape(self._root(values)) + r"/checkpoints/(\d+)/")
        return max((int(m[1]) for name, *_ in self.cloud.store.items() if (m := found.match(name))), default=0)

    def advance(self):
        """What the trainer has done by now."""
        one, now = self.trainer, self.cloud.now()
        if one is None:
            return
        crash = self.crashes.get(one["attempt"])
        until = min(now, one["at"] + crash[0]) if crash else now
        step = min(self.steps, one["start"] + int((until - one["at"]) / STEP_SECONDS))
        root = self._root(one["values"])
        for saved in range(one["saved"] + 1, step + 1):
            if saved % CHECKPOINT_STEPS == 0 or saved == self.steps:
                self.cloud.store.write(f"{root}/checkpoints/{saved}/data", "x")
                one["saved"] = saved
        logs = one["values"]["LOGS"].removeprefix("gs://")
        for i in range(self.count):
            where = f"{logs}/slice-{i // self.hosts}/worker-{i % self.hosts}"
            self.cloud.store.write(f"{where}.log", f"2026-01-01T00:00:00.{i:03}Z anchortrain: error: step {step}\n")
            if step == self.steps or crash and until < now:
                code = crash[1][i] if crash and step < self.steps else 0
                self.cloud.store.write(f"{where}.exit-{code}", str(code))
        if step == self.steps:
            self.cloud.store.write(f"{root}/finished.json", "{}")
        if step == self.steps or crash and until < now:
            self.lost_steps.append(step - one["saved"])
            self.trainer = None

    @property
    def hosts(self):
        return self.cloud.scenario.get("hosts", 2)

    def on_loss(self, machine):
        if self.trainer and self.trainer["machine"] == machine["created"]:
            self.stop(machine["lost_at"])

    def stop(self, when):
        """The machine has died at a time."""
        if self.trainer is None:
            return
        now, self.cloud.now = self.cloud.now, lambda: when
        try:
            self.advance()
        finally:
            self.cloud.now = now
        if self.trainer:
            step = self.trainer["start"] + int((when - self.trainer["at"]) / STEP_SECONDS)
            self.lost_steps.append(step - self.trainer["saved"])
            self.trainer = None
