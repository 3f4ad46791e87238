"""Whether a run fits its machine, by `anchortrain plan`, before anything is paid for."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from tpu_scripts.spec import RunSpec


def plan(spec: RunSpec, cache: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The record of `anchortrain plan` (docs/plan.md); kept in `cache`, by experiment and slice.

    Raises UserError when the run does not fit, or cannot be compiled.
    """
    key = hashlib.sha256(f"{spec.where.name}\n{spec.experiment}".encode()).hexdigest()[:16]
    path = cache / "plans" / f"{key}.json"
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    else:
        say(f"compiling the run for {spec.where.name}")
        with tempfile.TemporaryDirectory() as folder:
            gin_file = Path(folder) / "experiment.gin"
            gin_file.write_text(spec.experiment, encoding="utf-8")
            command = [sys.executable, "-m", "anchortrain", "plan", "--gin_file", str(gin_file)]
            command += ["--slice", spec.where.name, "--json", "--no_sampler"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # its progress and errors are seen
        if done.returncode not in (0, 1):
            raise UserError("the run cannot be planned, see above", mend="mend it, or go on without: --no_plan")
        record = json.loads(done.stdout)[0]
        write_json_atomic(path, record)
    if record["fits"]:
        return record
    if record["fits"] is None:
        raise UserError(f"the run does not compile for {spec.where.name}: {record.get('error')}")
    remedy = record.get("remedy") or {}
    mend = "; ".join(remedy.get("bindings") or []) or remedy.get("slice") or "take a larger slice"
    needs = f"{(record.get('hbm_bytes') or 0) / 2**30:.1f} of {spec.where.hbm_bytes / 2**30:.1f} GiB"
    raise UserError(f"the run does not fit {spec.where.name}: {needs} on a device", mend=f"try {mend}")


def describe(spec: RunSpec, record: dict[str, Any] | None) -> str:
    """Costs, in one line."""
    most = f"{spec.where.chips} chips, at most {spec.chip_hours:.0f} chip-hours"
    if not record or not record.get("days"):
        return f"{spec.where.name}: {most}"
    hours = 24 * record["days"]
    line = (
        f"{spec.where.name}: {most}; the training itself takes {hours * spec.where.chips:.0f} or more ({hours:.1f} h)"
    )
    if hours > spec.tpu.max_hours:
        line += f". Warning: more than TpuConfig.max_hours = {spec.tpu.max_hours:g}"
    return line
