"""`gcloud` for tests: a process for each command, the cloud's state in a file, remote commands really run.

    $FAKE_GCLOUD_DIR/state.json     what there is; `scenario` in it
    $FAKE_GCLOUD_DIR/buckets/NAME   objects
    $FAKE_GCLOUD_DIR/vms/...        the home of each worker
    $FAKE_GCLOUD_DIR/bin            what a VM has on its PATH, see `sandbox.py`

Scenario "kill": [n, applied] kills whoever called, at the nth command that is not a worker's.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fake_cloud import FakeCloud, Folder  # noqa: E402

ROOT = Path(os.environ["FAKE_GCLOUD_DIR"])


def home(machine: dict, node: int, worker: int) -> Path:
    return ROOT / "vms" / machine["created"].replace(":", "") / f"slice-{node}-worker-{worker}"


def lose(machine: dict) -> None:
    """A machine that is gone takes its processes and disks along."""
    top = home(machine, 0, 0).parent
    for path in top.glob("*/units/*.pid"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass
    shutil.rmtree(top, ignore_errors=True)


def main() -> int:
    argv, stdin = ["gcloud", *sys.argv[1:]], None
    if argv[1:4] == ["storage", "cp", "-"]:
        stdin = sys.stdin.read()
    pending, lost = [], []

    def ssh(machine, node, worker, command):  # without the lock: workers call gcloud, too
        pending.append((machine, node, worker, command))
        return 0, "", ""

    with open(ROOT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads((ROOT / "state.json").read_text())
        cloud = FakeCloud(state, Folder(ROOT / "buckets"), time.time, ssh, lost.append)
        kill = None
        if "FAKE_WORKER" not in os.environ:
            state["callers"] = state.get("callers", 0) + 1
            kill = state["scenario"].get("kill")
            kill = kill if kill and kill[0] == state["callers"] else None
        if kill and not kill[1]:
            os.kill(os.getppid(), signal.SIGKILL)
            code, out, err = 1, "", ""
        else:
            code, out, err = cloud.execute(argv, stdin)
        if kill and kill[1] and not pending:
            os.kill(os.getppid(), signal.SIGKILL)
        partial = ROOT / "state.json.partial"
        partial.write_text(json.dumps(state))
        partial.rename(ROOT / "state.json")
    for machine in lost:  # once it is written down: the one that asked for it may be on the machine
        lose(machine)
    for machine, node, worker, command in pending:
        if worker:  # the first is asked alone, the others side by side
            time.sleep(state["scenario"].get("ssh_seconds", 0))
        there = home(machine, node, worker)
        there.mkdir(parents=True, exist_ok=True)
        hosts = state["scenario"].get("hosts", 2)
        variables = state["scenario"].get("env", {}) | {
            "HOME": str(there),
            "PATH": f"{ROOT / 'bin'}:/usr/bin:/bin",
            "FAKE_GCLOUD_DIR": str(ROOT),
            "FAKE_WORKER": f"{node}/{worker}",
            # What jax learns from the metadata server of a TPU VM.
            "JAX_NUM_PROCESSES": str(hosts * len(machine["nodes"])),
            "JAX_PROCESS_ID": str(node * hosts + worker),
        }
        done = subprocess.run(["bash", "-c", command], env=variables, cwd=there, capture_output=True, text=True)
        code, out, err = done.returncode, done.stdout, done.stderr
        if kill and kill[1]:
            os.kill(os.getppid(), signal.SIGKILL)
    sys.stdout.write(out)
    sys.stderr.write(err + "\n" if err else "")
    return code


sys.exit(main())
