"""Commands in processes of their own, against `fake_gcloud.py`; `worker.sh` really runs, once for each worker.

What a VM has and a test machine lacks are small scripts on the workers' PATH: sudo, systemd-run, systemctl, gcsfuse
(a link to the directory that stands for the bucket: all workers share it), mountpoint, and a Python whose environments
are this one's. The trainer is the real one, or with `trainer="toy"` a few lines of shell that save and go on alike.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.tpu.conftest import BINDINGS

HERE, ROOT = Path(__file__).parent, Path(__file__).resolve().parents[2]

_SHIMS = {
    # A link stands for the mount. It is made in one step: all machines of a test have one file system, and would
    # come between a `mkdir` of the mount point and its replacement.
    "sudo": 'case $1 in rm | chown) exit 0 ;; mkdir) exec mkdir -p "${3%/*}" ;; esac\nexec "$@"',
    "mountpoint": '[ -L "$2" ]',
    "gcsfuse": 'while [ $# -gt 2 ]; do shift; done\nmkdir -p "$FAKE_GCLOUD_DIR/buckets/$1"\n'
    'ln -sT "$FAKE_GCLOUD_DIR/buckets/$1" "$2" 2>/dev/null || [ -L "$2" ]',
    "systemd-run": 'unit=\nwhile [ "${1#--}" != "$1" ]; do\n'
    "case $1 in --unit=*) unit=${1#--unit=} ;; esac; shift; done\n"
    'mkdir -p "$HOME/units"\nsetsid "$@" </dev/null >"$HOME/units/$unit.out" 2>&1 &\n'
    'echo $! >"$HOME/units/$unit.pid"',
    "systemctl": '[ "$1" = stop ] || exit 1\n'
    '[ -e "$HOME/units/$2.pid" ] || exit 5\npid=$(cat "$HOME/units/$2.pid")\n'
    'kill -TERM "$pid" 2>/dev/null || exit 0\n'
    'for i in $(seq 100); do kill -0 "$pid" 2>/dev/null || exit 0; sleep 0.1; done',
    "python3.12": '[ "$1" = -c ] && exit 0\nmkdir -p "$3/bin"\ncp "$FAKE_GCLOUD_DIR/bin/venv-python" "$3/bin/python"',
    "venv-python": '[ "$1 $2" = "-m pip" ] && { echo "$@" >>"$HOME/pip.log"; exit 0; }\n'
    'if [ "$1 $2 $3" = "-m anchortrain train" ] && [ "{trainer}" = toy ]; then shift 3; exec toy-trainer "$@"; fi\n'
    'export PYTHONPATH="{root}:$FAKE_GCLOUD_DIR/site"\nexec "{python}" "$@"',
    # Process 0 writes; all read where to go on. One step takes a moment, every tenth is saved.
    "toy-trainer": 'gin=$2 out=$4\n[ -e "$gin" ] || { echo "anchortrain: error: no such gin file"; exit 2; }\n'
    'last=$(ls "$out/checkpoints" 2>/dev/null | sort -n | tail -1)\nstep=${last:-0}\n'
    'echo "${step}" >>"$FAKE_GCLOUD_DIR/starts-$JAX_PROCESS_ID"\n'
    "trap 'save; echo stopped; exit 130' TERM\n"
    'save() { [ "$JAX_PROCESS_ID" = 0 ] && mkdir -p "$out/checkpoints/$step" '
    '&& touch "$out/checkpoints/$step/data"; }\necho "secret: ${WANDB:+given}"\n'
    "while [ $step -lt 40 ]; do step=$((step + 1)); sleep ${TOY_SECONDS:-0.05}; echo step $step\n"
    "[ $((step % 10)) = 0 ] && save; done\n"
    '[ "$JAX_PROCESS_ID" = 0 ] && echo "{{}}" >"$out/finished.json"\nexit 0',
}
_CHIPS = """import glob
_glob = glob.glob
glob.glob = lambda at, *a, **k: [f"/dev/accel{i}" for i in range(4)] if "accel" in at else _glob(at, *a, **k)
"""


class Sandbox:
    """A cloud in a directory."""

    def __init__(self, folder: Path, bindings=(), *, trainer: str = "toy", env=None, **scenario) -> None:
        self.folder = folder
        self.cloud = folder / "cloud"
        for name in ("bin", "buckets/bucket", "site", "vms"):
            (self.cloud / name).mkdir(parents=True)
        (folder / "home").mkdir()
        (folder / "path").mkdir()
        (self.cloud / "site" / "sitecustomize.py").write_text(_CHIPS)
        (self.cloud / "buckets/bucket/anchortrain-0.1.0-py3-none-any.whl").write_text("wheel")
        (self.cloud / "buckets/bucket/prepared/docs").mkdir(parents=True)
        (self.cloud / "buckets/bucket/prepared/docs/index").write_text("")
        values = {"{trainer}": trainer, "{root}": str(ROOT), "{python}": sys.executable, "{{}}": "{}"}
        for name, text in _SHIMS.items():
            for key, value in values.items():
                text = text.replace(key, value)
            self._script(self.cloud / "bin" / name, f"#!/bin/bash\n{text}\n")
        gcloud = f'#!/bin/sh\nexec "{sys.executable}" -S -E "{HERE / "fake_gcloud.py"}" "$@"\n'
        self._script(self.cloud / "bin" / "gcloud", gcloud)
        self._script(folder / "path" / "gcloud", gcloud)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        passed = {name: os.environ[name] for name in ("XLA_FLAGS",) if name in os.environ}
        passed |= {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "OMP_NUM_THREADS": "1"}
        self.change(hosts=2, env=passed | (env or {}), **scenario)
        own = [f"TpuConfig.mount = {str(folder / 'gcs')!r}", "TpuConfig.poll_seconds = 0.3"]
        own.append("TpuConfig.upload_seconds = 0.5")
        lines = {line.partition("=")[0]: line for line in [*BINDINGS, *own, *bindings]}  # a later one replaces
        (folder / "run.gin").write_text("\n".join(lines.values()) + "\n")

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    @property
    def state(self) -> dict:
        return json.loads((self.cloud / "state.json").read_text())

    def change(self, **scenario) -> None:
        path = self.cloud / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {"scenario": {}}
        state["scenario"] |= scenario
        path.write_text(json.dumps(state))

    def start(self, *argv: str) -> subprocess.Popen:
        env = os.environ | {
            "HOME": str(self.folder / "home"),
            "PATH": f"{self.folder / 'path'}:{os.environ['PATH']}",
            "FAKE_GCLOUD_DIR": str(self.cloud),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "tpu_scripts", *argv, str(self.folder / "run.gin")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=env, text=True, cwd=self.folder, **pipes)

    def run(self, *argv: str, timeout: float = 240) -> subprocess.CompletedProcess:
        process = self.start(*argv)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        print(" ".join(argv), process.returncode, out, err, sep="\n")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    @property
    def machines(self) -> list[str]:
        """What is left once deletions had their time."""
        return [key for key, one in self.state["machines"].items() if one.get("gone_at") is None]

    def file(self, name: str) -> Path:
        """Of the run, in the bucket."""
        return self.cloud / "buckets/bucket/anchortrain/r" / name

    def clean(self) -> None:
        """Ends whatever runs on machines."""
        for path in self.cloud.glob("vms/*/*/units/*.pid"):
            try:
                os.killpg(int(path.read_text()), 9)
            except (ProcessLookupError, ValueError):
                continue
