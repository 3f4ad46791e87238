"""The package that every worker installs: built from this checkout, or named."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from anchortrain.errors import UserError
from tpu_scripts.context import Context

ROOT = Path(__file__).resolve().parent.parent
_POINTER = "package.txt"


def resolve(context: Context) -> tuple[str, str]:
    """(package, constraints) as workers are given them. A run keeps the package of its first submission."""
    if context.spec.tpu.package:
        return context.spec.tpu.package, ""
    pointer = context.url(_POINTER)
    found = context.storage.read(pointer)
    if found is None:
        found = "\n".join(_build(context))
        if not context.storage.create(pointer, found):
            found = context.storage.read(pointer) or found
    package, _, constraints = found.partition("\n")
    return package, constraints


def worker_constraints(text: str) -> str:
    """Without libtpu's version, which is that of `anchortrain plan`: jax[tpu] insists on its own, an older one.

    The plan does not take that one: with 0.0.42.1 (of jax 0.10.2) pretrain_600m fills 95 % of its slice instead of
    85 %, with 0.0.50.1 (of jax 0.12.0.1) the walk over the sampler's program for v5e-1 fails.
    """
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("libtpu=="))


def _build(context: Context) -> tuple[str, str]:
    """Builds a wheel of the checkout and uploads it with the versions that were tested together."""
    if not (ROOT / "setup.cfg").is_file():
        raise UserError("there is no checkout to build", mend="bind TpuConfig.package")
    context.say("building the package")
    with tempfile.TemporaryDirectory() as folder:
        # Not in the checkout: runs of a study build at the same time, and an earlier build leaves modules there that
        # are gone by now.
        extra = Path(folder) / "setup.cfg"
        extra.write_text(f"[build]\nbuild_base = {folder}/build\n[egg_info]\negg_base = {folder}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        environment = os.environ | {"DIST_EXTRA_CONFIG": str(extra)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        wheels = list(Path(folder).glob("anchortrain-*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise UserError(f"the package cannot be built: {last}", where=str(ROOT), mend="bind TpuConfig.package")
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()[:12]
        package = context.url(f"package/{digest}/{wheels[0].name}")
        constraints = context.url(f"package/{digest}/constraints.txt")
        context.storage.upload(str(wheels[0]), package)
        context.storage.write(constraints, worker_constraints((ROOT / "constraints.txt").read_text(encoding="utf-8")))
    return package, constraints
