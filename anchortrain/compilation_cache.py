"""Compiled programs are kept on disk, so that a second start does not compile.

The directory is the first of: `--compilation_cache`, $ANCHORTRAIN_CACHE, $JAX_COMPILATION_CACHE_DIR,
$XDG_CACHE_HOME/anchortrain/xla, ~/.cache/anchortrain/xla. "off" switches it off. It may be gs://. Entries are found
by program, options, devices and versions; it can be deleted at any time.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

OFF = "off"


def directory(option: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Where compiled programs are kept; None for nowhere."""
    chosen = option or environ.get("ANCHORTRAIN_CACHE") or environ.get("JAX_COMPILATION_CACHE_DIR")
    if not chosen:
        home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        chosen = os.path.join(home, "anchortrain", "xla")
    return None if chosen == OFF else chosen


def enable(option: str | None = None) -> None:
    """Switches the cache on, before anything is compiled. Where it cannot be written: one warning, and no cache."""
    import jax

    where = directory(option)
    if where is not None and "://" not in where and (reason := _refusal(Path(where))):
        print(f"anchortrain: warning: no compilation cache: {where}: {reason}", file=sys.stderr)
        where = None
    jax.config.update("jax_compilation_cache_dir", where)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # jax's default, a second, leaves out most programs of a small model.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _refusal(path: Path) -> str | None:
    """Why files cannot be made there; None when they can."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None if os.access(path, os.W_OK | os.X_OK) else "permission denied"
