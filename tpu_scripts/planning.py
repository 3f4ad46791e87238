"""Whether a run fits its machine, by `anchortrain plan`, before anything is paid for."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic
from tpu_scripts.spec import RunSpec


def plan(spec: RunSpec, cache: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The record of `anchortrain plan` (docs/plan.md); kept in `cache`, by experiment and slice.

    Raises UserError when the run does not fit, or cannot be compiled.
    """
    versions = [f"{name} {_version(name)}" for name in ("anchortrain", "jax", "libtpu")]
    key = hashlib.sha256("\n".join([spec.where.name, *versions, spec.experiment]).encode()).hexdigest()[:16]
    path = cache / "plans" / f"{key}.json"
    record = _kept(path)
    if record is None:
        say(f"compiling the run for {spec.where.name}")
        with tempfile.TemporaryDirectory() as folder:
            gin_file = Path(folder) / "experiment.gin"
            gin_file.write_text(spec.experiment, encoding="utf-8")
            command = [sys.executable, "-m", "anchortrain", "plan", "--gin_file", str(gin_file)]
            command += ["--slice", spec.where.name, "--json", "--no_sampler"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # its progress and errors are seen
        if done.returncode not in (0, 1):
            raise UserError("the run cannot be planned, see above", mend="mend it, or go on without: --no_plan")
        try:
            record = json.loads(done.stdout)[0]
        except (ValueError, LookupError):  # it ended with a traceback, which has the same exit code as "does not fit"
            raise UserError("the run cannot be planned, see above", mend="report it; --no_plan goes without") from None
        if record["fits"] is not None:  # what does not compile may do so once it is mended
            write_json_atomic(path, record)
    if record["fits"]:
        return record
    if record["fits"] is None:
        raise UserError(f"the run does not compile for {spec.where.name}: {record.get('error')}")
    remedy = record.get("remedy") or {}
    mend = "; ".join(remedy.get("bindings") or []) or remedy.get("slice") or "take a larger slice"
    needs = f"{(record.get('hbm_bytes') or 0) / 2**30:.1f} of {spec.where.hbm_bytes / 2**30:.1f} GiB"
    raise UserError(f"the run does not fit {spec.where.name}: {needs} on a device", mend=f"try {mend}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _kept(path: Path) -> dict[str, Any] | None:
    """An earlier plan; None when there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "fits" in record else None


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
