"""Runs `plan.worker` in child processes, one at a time, and says how far it is."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import anchortrain
from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.plan.slices import Slice
from anchortrain.progress import Progress

# What libtpu wants to know of a machine that has no TPU; without the last three it complains at length. Never set them
# for a process that trains: on a TPU machine they switch off the detection of its neighbours.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
# Flags for another backend than the one that compiles.
_UNSET = ("XLA_FLAGS",)

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 5  # for a child that is asked to end


class Job(NamedTuple):
    """One compilation."""

    experiment: Experiment
    where: Slice
    program: str  # "train" or "sampler"

    def json(self) -> str:
        sections = dataclasses.asdict(self.experiment)
        return json.dumps({"experiment": sections, "slice": self.where.name, "program": self.program})


def check_libtpu() -> None:
    """Raises UserError where libtpu, which has the compiler, is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        mend = "pip install 'anchortrain[plan]' (467 MB; Linux on x86-64 only)"
        raise UserError("compiling for TPU needs libtpu, which is not installed", mend=mend)


class Compiler:
    """Compiles jobs, never the same twice, and shows progress. Counts up to `expected` compilations."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done = progress, dict[str, dict[str, Any]]()

    def expect(self, count: int) -> None:
        """`count` more compilations than were known of."""
        self._progress.total += count

    def __call__(self, job: Job) -> dict[str, Any]:
        """The result of `worker.measure`, "error" of kinds "hbm" and "compile" included. Raises UserError."""
        key = job.json()
        if key not in self._done:
            self._done[key] = self._run(job, key)
        self._progress.update(1)
        result = self._done[key]
        if result.get("error", {}).get("kind") == "user":
            raise UserError(result["error"]["message"], where=job.where.name)
        return result

    def _run(self, job: Job, text: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="anchortrain-plan-") as name:
            files = [Path(name) / file for file in ("job.json", "result.json", "stderr")]
            files[0].write_text(text)
            with open(files[2], "w") as stderr:
                code = self._wait(job, [str(file) for file in files[:2]], stderr)
            if files[1].exists():
                return json.loads(files[1].read_text())
            return {"error": {"kind": "compile", "message": _last_words(files[2].read_text(errors="replace"), code)}}

    def _wait(self, job: Job, files: list[str], stderr: Any) -> int:
        environment = {name: value for name, value in os.environ.items() if name not in _UNSET} | _ENVIRONMENT
        here = str(Path(anchortrain.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "anchortrain.plan.worker", *files]
        # In a session of its own: an interrupt is for the parent, which ends the child.
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
        started = time.monotonic()
        try:
            while child.poll() is None:
                time.sleep(_POLL_SECONDS)
                seconds = time.monotonic() - started
                self._progress.update(now=f"{job.program} step for {job.where.name} ({seconds:.0f}s)")
            return child.returncode
        finally:
            _end(child)


def _end(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _last_words(stderr: str, code: int) -> str:
    """Why a child ended without a result, as one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if re.match(r"F\d{4} ", line)]  # how libtpu logs what ends the process
    words = (fatal or lines or ["no message"])[-1]
    words = re.sub(r"^[A-Z]\d{4} [\d:.]+\s+\d+ [\w.]+:\d+\] ", "", words)
    return f"the compiler ended with code {code}: {words[:300]}"
