"""A JobSet for GKE (and for TPUs that the Cloud TPU API does not have): rendered and checked, never applied.

https://jobset.sigs.k8s.io, https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice. The bucket is
mounted by GKE's Cloud Storage FUSE driver where the other machines have it, so that paths are the same.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from anchortrain.errors import UserError
from tpu_scripts.accelerators import chips_each_host, hosts_each, names, topology
from tpu_scripts.queued_resources import labels
from tpu_scripts.spec import RunSpec
from tpu_scripts.workers import COORDINATOR_PORT

_CONFIG_DIR = "/etc/anchortrain"
_GRACE_SECONDS = 300  # to save after SIGTERM


def manifests(spec: RunSpec, deadline: float) -> list[dict[str, Any]]:
    """A ConfigMap with the experiment, and the JobSet. `deadline`: seconds since the epoch."""
    if not spec.tpu.image:
        raise UserError("TpuConfig.image is empty", mend="name a container image that has anchortrain[tpu]")
    tags = labels(spec, deadline)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": spec.name, "labels": tags},
        "data": {"experiment.gin": spec.experiment},
    }
    job = {
        "parallelism": hosts_each(spec.where),
        "completions": hosts_each(spec.where),
        "backoffLimit": 0,  # a slice restarts whole, by the JobSet
        "completionMode": "Indexed",
        "activeDeadlineSeconds": math.ceil(3600 * spec.tpu.max_hours),
        "template": {"metadata": {"labels": tags, "annotations": {"gke-gcsfuse/volumes": "true"}}, "spec": _pod(spec)},
    }
    annotation = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": spec.name, "labels": tags, "annotations": annotation},
        "spec": {
            "ttlSecondsAfterFinished": 3600,
            "failurePolicy": {"maxRestarts": spec.tpu.max_attempts - 1},
            "replicatedJobs": [{"name": "slice", "replicas": spec.tpu.slices, "template": {"spec": job}}],
        },
    }
    found = [config, jobset]
    for problem in problems(found):
        raise UserError(f"the manifest would be refused: {problem}")
    return found


def _pod(spec: RunSpec) -> dict[str, Any]:
    tpu, chips = spec.tpu, chips_each_host(spec.where)
    environment = {"JAX_COORDINATOR_PORT": str(COORDINATOR_PORT), "PYTHONUNBUFFERED": "1", **tpu.env}
    environment.setdefault("ANCHORTRAIN_CACHE", f"{tpu.mount}/{spec.bucket}/{spec.folder}/xla_cache")
    env: list[dict[str, Any]] = [{"name": name, "value": _literal(value)} for name, value in environment.items()]
    for name, secret in tpu.secrets.items():  # a Kubernetes secret of the same name, synchronised from Secret Manager
        env.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": "latest"}}})
    command = ["python", "-m", "anchortrain", "train", "--gin_file", f"{_CONFIG_DIR}/experiment.gin"]
    container = {
        "name": "train",
        "image": tpu.image,
        "command": [*command, "--out", spec.train_dir, "--distributed", "auto"],
        "workingDir": f"{tpu.mount}/{spec.bucket}",
        "env": env,
        "resources": {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}},
        "volumeMounts": [
            {"name": "bucket", "mountPath": f"{tpu.mount}/{spec.bucket}"},
            {"name": "experiment", "mountPath": _CONFIG_DIR, "readOnly": True},
        ],
    }
    options = "implicit-dirs,metadata-cache:ttl-secs:0,file-system:rename-dir-limit:1000000"
    fuse = {"bucketName": spec.bucket, "mountOptions": options}
    selector = {
        "cloud.google.com/gke-tpu-accelerator": names(spec.where).gke,
        "cloud.google.com/gke-tpu-topology": topology(spec.where),
    }
    if tpu.capacity == "spot":
        selector["cloud.google.com/gke-spot"] = "true"
    return {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        **({"serviceAccountName": tpu.service_account} if tpu.service_account else {}),
        "nodeSelector": selector,
        "tolerations": [
            {"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"},
        ],
        "containers": [container],
        "volumes": [
            {"name": "bucket", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": fuse}},
            {"name": "experiment", "configMap": {"name": spec.name}},
        ],
    }


def _literal(value: str) -> str:
    """Kubernetes replaces `$(NAME)` in values, and reads `$$` as a dollar."""
    return value.replace("$", "$$")


_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def problems(documents: list[dict[str, Any]]) -> list[str]:
    """What the Kubernetes API would refuse, as far as its rules concern what is rendered here."""
    found, (config, jobset) = [], documents
    [job] = jobset["spec"]["replicatedJobs"]
    name, template = jobset["metadata"]["name"], job["template"]["spec"]
    pod = template["template"]["spec"]
    # JobSet names pods NAME-slice-I-J-xxxxx; with the indices and the suffix they must be DNS labels.
    longest = f"{name}-{job['name']}-{job['replicas'] - 1}-{template['parallelism'] - 1}"
    if len(longest) + 6 > 63:
        found.append(f"the name {name} is too long: pods would be called {longest}-xxxxx, at most 63 characters")
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        found.append(f"{name} is not a DNS label")
    for key, value in jobset["metadata"]["labels"].items():
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            found.append(f"the label {key} has the value {value!r}")
    if len(config["data"]["experiment.gin"].encode()) > 1_000_000:
        found.append("the experiment has more than a megabyte")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        found += [f"no volume {m['name']}" for m in container["volumeMounts"] if m["name"] not in volumes]
        found += [
            f"the variable {e['name']} is no text" for e in container["env"] if not isinstance(e.get("value", ""), str)
        ]
        for name in [e["valueFrom"]["secretKeyRef"]["name"] for e in container["env"] if "valueFrom" in e]:
            if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
                found.append(f"{name} is no name of a Kubernetes secret: a-z, 0-9, '-' and '.' only")
        if container["resources"]["requests"] != container["resources"]["limits"]:
            found.append("TPUs must be requested as they are limited")
    account = pod.get("serviceAccountName", "a")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", account):
        found.append(f"{account} is no Kubernetes service account (on GKE TpuConfig.service_account names one)")
    return found


def render(documents: list[dict[str, Any]]) -> str:
    """YAML. Every text is quoted as JSON has it, which YAML reads alike: nothing is taken for a number or a boolean."""
    return "".join(f"---\n{_yaml(document, 0)}" for document in documents)


def _yaml(value: Mapping[str, Any] | list[Any], depth: int) -> str:
    lines, indent = [], "  " * depth
    for key, one in value.items() if isinstance(value, Mapping) else [(None, one) for one in value]:
        head = f"{indent}-" if key is None else f"{indent}{key}:"
        if isinstance(one, Mapping | list) and one:
            nested = _yaml(one, depth + 1)
            if key is None:  # the first line of a list's entry stands beside its dash
                lines.append(f"{head} {nested.lstrip()}")
            else:
                lines.append(f"{head}\n{nested}")
        else:
            lines.append(f"{head} {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    """JSON's escapes for characters beyond 16 bits are pairs, which YAML does not join: only those that YAML would
    refuse or fold are escaped, and they are all of 16."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)
