"""An experiment that compiles in seconds, and the compiler where there is one."""

import importlib.util
import os

import pytest

from anchortrain import experiment as experiments

BINDINGS = [
    "ModelConfig.d_model = 128",
    "ModelConfig.n_layers = 2",
    "ModelConfig.n_heads = 2",
    "ModelConfig.n_kv_heads = 2",
    "ModelConfig.d_ff = 256",
    "ModelConfig.vocabulary_size = 500",
    "ModelConfig.compute_dtype = 'bfloat16'",
    "DataConfig.length = 256",
    "DataConfig.batch_rows = 8",
    "DataConfig.train = {'no/such/directory': 1.0}",
    "MeshConfig.data = 1",
    "MeshConfig.fsdp = -1",
]


@pytest.fixture
def make():
    """Makes the small experiment with further bindings."""
    return lambda *bindings: experiments.load([], [*BINDINGS, *bindings])


@pytest.fixture
def libtpu():
    """Skips where the TPU compiler is not installed, but fails there in CI."""
    if importlib.util.find_spec("libtpu") is None:
        if os.environ.get("CI"):
            pytest.fail("libtpu is not installed; CI needs the extra 'test'")
        pytest.skip("needs libtpu: pip install 'anchortrain[plan]'")
