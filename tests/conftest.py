"""What every test shares: a quiet CPU with eight simulated devices, and the data beside the project."""

import os
from pathlib import Path

import pytest

# All of these are read when jax or TensorFlow is first imported, so they come before any test module.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parent.parent


def shared_data() -> Path:
    """The directory of public data beside the project; skips where it is absent, but fails there in CI."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is absent; CI needs the data beside the project")
        pytest.skip(f"{path} is absent")
    return path
