"""A small Google Cloud: queued resources with states and delays, nodes, a bucket, and whatever can go wrong.

Standard library only, so that `fake_gcloud.py` starts quickly. Time is whatever `now` says. What `ssh` does is given:
`sandbox.py` really runs the commands, `fake_pod.py` plays the trainer in no time.

The scenario, a dict:
    hosts             workers of one slice
    provision, delete, ready   seconds that each takes
    zones             zone -> "stockout" (waits for ever), "failed", "quota" (refuses), "denied"
    faults            [{"verb", "nth", "times", "kind"}]: what calls of a verb fail with; kinds are below
    events            [{"after", "what"}]: seconds after the nth machine became ACTIVE; "suspend", "preempt_node",
                      "vanish", "fail"; one for each machine, in order; None for none. "checkpoint" for "after": once
                      there is one of so many steps
"""

import fnmatch
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

FAULTS = {
    "503": (1, "ERROR: (gcloud.x) HTTPError 503: UNAVAILABLE: The service is currently unavailable."),
    "409": (1, "ERROR: (gcloud.x) ABORTED: HTTPError 409: the resource is being operated on"),
    "429": (1, "ERROR: (gcloud.x) HTTPError 429: RESOURCE_EXHAUSTED: Quota exceeded, RATE_LIMIT_EXCEEDED"),
    "255": (1, "ERROR: (gcloud.x) [/usr/bin/ssh] exited with return code [255]."),
    "timeout": (124, "timed out after 300 s"),
    "denied": (1, "ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'"),
    "quota": (
        1,
        "ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptiblePodPerProject' has been exceeded.",
    ),
}
MISSING = (1, "", "ERROR: (gcloud.x) NOT_FOUND: Resource 'projects/p/x' was not found")
NO_OBJECT = (1, "", "ERROR: (gcloud.storage) The following URLs matched no objects or files:\n- x")


class Memory:
    """Objects of all buckets, in memory."""

    def __init__(self, now):
        self.objects, self._now = {}, now

    def write(self, name, data):
        self.objects[name] = (data, self._now())

    def read(self, name):
        return self.objects[name][0] if name in self.objects else None

    def items(self):
        return [(name, len(data), updated) for name, (data, updated) in self.objects.items()]


class Folder:
    """Objects as files below a directory, which workers mount."""

    def __init__(self, root):
        self.root = Path(root)

    def write(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.upload")
        partial.write_text(data)
        os.replace(partial, path)

    def read(self, name):
        path = self.root / name
        return path.read_text() if path.is_file() else None

    def items(self):
        found = []
        for folder, _, names in os.walk(self.root):  # which passes over folders that go meanwhile
            for path in (Path(folder, name) for name in names if not name.endswith(".upload")):
                try:
                    found.append((str(path.relative_to(self.root)), path.stat().st_size, path.stat().st_mtime))
                except OSError:
                    continue  # went in between
        return found


def flags(argv):
    """(positional words, flags by name)"""
    words = [one for one in argv if not one.startswith("--")]
    return words, dict((one[2:].partition("=")[::2]) for one in argv if one.startswith("--"))


class FakeCloud:
    """Answers argument lists. `state` is all that it remembers, and can be written as JSON."""

    def __init__(self, state, store, now, ssh, on_loss=lambda machine: None):
        self.state, self.store, self.now, self.ssh, self.on_loss = state, store, now, ssh, on_loss
        state.setdefault("machines", {})
        state.setdefault("calls", {})
        state.setdefault("made", 0)
        state.setdefault("argv", [])

    @property
    def scenario(self):
        return self.state["scenario"]

    def left(self):
        """Names of whatever is still paid for, or will be."""
        self.advance()
        return sorted(self.state["machines"])

    # -- time ------------------------------------------------------------------------------------

    def advance(self):
        """Brings every machine to the state that it has by now."""
        now = self.now()
        for key, one in list(self.state["machines"].items()):
            if one.get("gone_at") is not None:
                if now >= one["gone_at"]:
                    del self.state["machines"][key]
                continue
            zone = self.scenario.get("zones", {}).get(one["zone"])
            if one["state"] in ("ACCEPTED", "WAITING_FOR_RESOURCES") and now >= one["active_at"]:
                if zone == "stockout":
                    one["state"] = "WAITING_FOR_RESOURCES"
                elif zone == "failed":
                    one["state"] = "FAILED"
                else:
                    one["state"] = "ACTIVE"
            event = one["event"]
            if event and one["state"] == "ACTIVE" and self._is_due(event, one):
                one["event"], one["lost_at"] = None, one["active_at"] + event.get("after", 0)
                self.on_loss(one)
                if event["what"] == "vanish":
                    del self.state["machines"][key]
                elif event["what"] == "preempt_node":
                    one["node_state"] = "PREEMPTED"
                else:
                    one["state"] = {"suspend": "SUSPENDED", "fail": "FAILED"}[event["what"]]

    def _is_due(self, event, one):
        if "checkpoint" in event:  # one of at least so many steps
            found = (re.search(r"/train/checkpoints/(\d+)/", name) for name, _, _ in self.store.items())
            return any(match and int(match[1]) >= event["checkpoint"] for match in found)
        return self.now() >= one["active_at"] + event["after"]

    # -- commands --------------------------------------------------------------------------------

    def execute(self, argv, stdin=None, timeout=0):
        """(exit code, stdout, stderr)"""
        assert argv[0] == "gcloud" and "--quiet" in argv, argv
        self.state["argv"].append(list(argv))
        self.advance()
        words, options = flags(argv[1:])
        if words[0] == "storage":
            verb = f"storage {words[1]}"
        else:
            verb = next((w for w in words if w in ("create", "describe", "delete", "ssh", "list")), words[0])
        fault = self._fault(verb)
        if fault and fault.get("applied"):
            self._answer(verb, words, options, stdin)  # it was done; the answer got lost
        if fault:
            code, text = FAULTS[fault["kind"]]
            return code, "", text
        return self._answer(verb, words, options, stdin)

    def _fault(self, verb):
        nth = self.state["calls"][verb] = self.state["calls"].get(verb, 0) + 1
        for one in self.scenario.get("faults", ()):
            if one["verb"] == verb and one["nth"] <= nth < one["nth"] + one.get("times", 1):
                return one
        return None

    def _answer(self, verb, words, options, stdin):
        if verb.startswith("storage"):
            return self._storage(words, options, stdin)
        if words[:2] == ["compute", "tpus"] and words[2] == "queued-resources":
            key = f"{options.get('zone')}/{words[4] if len(words) > 4 else ''}"
            return getattr(self, f"_qr_{verb}")(key, words, options)
        if words[:3] == ["compute", "tpus", "tpu-vm"]:
            return self._nodes(verb, words, options)
        return self._other(words)

    def _other(self, words):
        kinds = [{"type": t} for t in ("v5litepod-8", "v5litepod-16", "v5p-8", "v5p-16", "v6e-16")]
        answers = {
            "auth": [{"account": "someone@example.com"}],
            "services": [
                {"name": f"projects/1/services/{n}.googleapis.com"} for n in ("tpu", "storage", "secretmanager")
            ],
            "compute": kinds,
            "secrets": {"name": "projects/1/secrets/wandb"},
        }
        if words[:2] == ["secrets", "versions"]:
            return 0, self.scenario.get("secret", "s3cr3t"), ""
        return 0, json.dumps(answers[words[0]]), ""

    def _qr_create(self, key, words, options):
        zone = self.scenario.get("zones", {}).get(options["zone"])
        if zone in ("quota", "denied"):
            code, text = FAULTS[zone]
            return code, "", text
        if key in self.state["machines"]:
            return 1, "", "ERROR: (gcloud.x) ALREADY_EXISTS: Resource already exists"
        count = int(options.get("node-count", 1))
        prefix = options.get("node-prefix")
        events = self.scenario.get("events", [])
        self.state["machines"][key] = {
            "name": words[4],
            "zone": options["zone"],
            "state": "ACCEPTED",
            "created": f"{datetime.fromtimestamp(self.now(), UTC).isoformat()}#{self.state['made']}",
            "labels": dict(pair.split("=") for pair in options["labels"].split(",")),
            "nodes": [f"{prefix}-{i}" for i in range(count)] if prefix else [options["node-id"]],
            "active_at": self.now() + self.scenario.get("provision", 0),
            "event": events[self.state["made"]] if self.state["made"] < len(events) else None,
            "node_state": "READY",
        }
        self.state["made"] += 1
        return 0, "", "Create request issued"

    def _describe(self, one):
        node = {"labels": one["labels"]}
        return {
            "name": f"projects/p/locations/{one['zone']}/queuedResources/{one['name']}",
            "createTime": one["created"],
            "state": {"state": one["state"]},
            "tpu": {"nodeSpec": [{"nodeId": name, "node": node} for name in one["nodes"]]},
        }

    def _qr_describe(self, key, words, options):
        one = self.state["machines"].get(key)
        return (0, json.dumps(self._describe(one)), "") if one else MISSING

    def _qr_list(self, key, words, options):
        found = [self._describe(m) for m in self.state["machines"].values() if m["zone"] == options["zone"]]
        return 0, json.dumps(found), ""

    def _qr_delete(self, key, words, options):
        one = self.state["machines"].get(key)
        if one is None:
            return MISSING
        if one["state"] not in ("ACCEPTED", "FAILED", "SUSPENDED") and "force" not in options:
            return 1, "", "ERROR: (gcloud.x) FAILED_PRECONDITION: it is in use"
        if one["state"] != "DELETING":
            one["lost_at"] = self.now()
            self.on_loss(one)
            one["state"], one["gone_at"] = "DELETING", self.now() + self.scenario.get("delete", 0)
            self.advance()
        return 0, "", ""

    def _qr_ssh(self, key, words, options):
        one = self.state["machines"].get(key)
        if one is None or one["state"] != "ACTIVE" or one["node_state"] != "READY":
            return FAULTS["255"][0], "", FAULTS["255"][1]
        return self.ssh(one, int(options["node"]), int(options["worker"]), options["command"])

    def _nodes(self, verb, words, options):
        found = []
        for one in self.state["machines"].values():
            if one["zone"] != options["zone"] or one["state"] in ("ACCEPTED", "WAITING_FOR_RESOURCES"):
                continue
            ready = self.now() >= one["active_at"] + self.scenario.get("ready", 0)
            hosts = self.scenario.get("hosts", 2) if ready else 1
            for name in one["nodes"]:
                if one["state"] == "DELETING":
                    state = "DELETING"
                else:
                    state = "PREEMPTED" if one["state"] == "SUSPENDED" else one["node_state"]
                found.append(
                    {
                        "name": f"projects/p/locations/{one['zone']}/nodes/{name}",
                        "state": state,
                        "health": "HEALTHY" if ready else "",
                        "labels": one["labels"],
                        "networkEndpoints": [{"ipAddress": f"10.0.0.{i}"} for i in range(hosts)],
                    }
                )
        if verb == "list":
            return 0, json.dumps(found), ""
        return MISSING

    # -- the bucket ------------------------------------------------------------------------------

    def _storage(self, words, options, stdin):
        names = [word.removeprefix("gs://") for word in words[2:]]
        if words[1] == "cat":
            text = self.store.read(names[0])
            return NO_OBJECT if text is None else (0, text, "")
        if words[1] == "cp":
            return self._copy(words[2], words[3], options, stdin)
        if words[1] == "buckets":
            return 0, json.dumps({"location": self.scenario.get("location", "US-EAST5")}), ""
        return self._ls(names[0], "long" in options)

    def _copy(self, source, target, options, stdin):
        if source.startswith("gs://"):
            text = self.store.read(source.removeprefix("gs://"))
            if text is None:
                return NO_OBJECT
            Path(target).write_text(text)
            return 0, "", ""
        name = target.removeprefix("gs://")
        if options.get("if-generation-match") == "0" and self.store.read(name) is not None:
            return 1, "", "ERROR: HTTPError 412: At least one of the pre-conditions you specified did not hold."
        self.store.write(name, stdin if source == "-" else Path(source).read_text(errors="replace"))
        return 0, "", ""

    def _ls(self, pattern, long):
        if pattern.endswith("/"):
            below = {
                name[len(pattern) :].partition("/") for name, _, _ in self.store.items() if name.startswith(pattern)
            }
            lines = sorted({f"gs://{pattern}{first}{slash}" for first, slash, _ in below})
            return (0, "\n".join(lines) + "\n", "") if lines else NO_OBJECT
        regex = re.compile(
            fnmatch.translate(pattern.replace("**", "\0").replace("*", "\1")).replace("\0", ".*").replace("\1", "[^/]*")
        )
        lines = []
        for name, size, updated in self.store.items():
            if regex.match(name):
                time = datetime.fromtimestamp(updated, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                lines.append(f"{size:>10}  {time}  gs://{name}" if long else f"gs://{name}")
        if not lines:
            return NO_OBJECT
        return 0, "\n".join([*lines, f"TOTAL: {len(lines)} objects, 1 bytes (1B)"] if long else lines) + "\n", ""
