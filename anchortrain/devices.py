"""What accelerators this machine has, seen without jax: to import jax starts them."""

import glob
import importlib.util
import os
from pathlib import Path


def tpu_chips() -> int:
    """TPU chips of this host."""
    return len(glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"))


def ignore_absent_tpus() -> None:
    """Keeps jax from looking for TPUs where only their compiler is installed (`anchortrain plan`): it would print a
    page of warnings. Does nothing where JAX_PLATFORMS is set, or where there is a GPU to be found."""
    if "JAX_PLATFORMS" in os.environ or tpu_chips() or Path("/dev/nvidia0").exists():
        return
    if importlib.util.find_spec("libtpu"):
        os.environ["JAX_PLATFORMS"] = "cpu"
