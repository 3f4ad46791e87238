"""What every test shares: a quiet CPU with eight simulated devices, and the data beside the project."""

import importlib
import importlib.util
import os
from importlib import metadata
from pathlib import Path

import pytest

# All of these are read when jax or TensorFlow is first imported, so they come before any test module.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: with these a gradient compiles in a seventh of the time, from jaxlib 0.11
# on, which lacks the last of them, in half.
_XLA_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # Eight devices on a busy machine may wait long for each other; the default ends the process after 40 seconds.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]
if metadata.version("jaxlib").startswith("0.10."):
    _XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS]).strip()
# Steps that overlap can starve each other's collectives.
os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "0"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Commands keep compiled programs in the user's home.
os.environ["ANCHORTRAIN_CACHE"] = "off"

# PyTorch's CUDA build brings triton, which ends the process when it is imported after TensorFlow.
if importlib.util.find_spec("triton"):
    importlib.import_module("triton")

ROOT = Path(__file__).resolve().parent.parent


def shared_data() -> Path:
    """The directory of public data beside the project; skips where it is absent, but fails there in CI."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is absent; CI needs the data beside the project")
        pytest.skip(f"{path} is absent")
    return path
