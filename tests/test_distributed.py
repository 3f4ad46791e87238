"""Who takes part in a run, and what its processes compare."""

import socket

import pytest

from anchortrain import experiment as experiments
from anchortrain.distributed import DEFAULT_TIMEOUT, Processes, facts, resolve, session
from anchortrain.errors import UserError

ENVIRON = {"JAX_COORDINATOR_ADDRESS": "pod-0:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_alone_unless_told_otherwise():
    assert resolve(environ={}) is None
    with session(None, experiments.load([])):
        pass


def test_options_come_before_the_environment():
    assert resolve("a:1", 2, 1, environ={}) == Processes("a", 1, 2, 1, DEFAULT_TIMEOUT, 0)
    assert resolve(environ=ENVIRON) == Processes("pod-0", 8476, 4, 3)
    assert resolve("[::1]:9", None, 0, timeout=5, environ=ENVIRON) == Processes("::1", 9, 4, 0, 5)


@pytest.mark.parametrize(
    "given, settings, message",
    [
        (("a:1", None, None), {}, "--processes and --process_id must be given, too; or --distributed auto"),
        ((None, 2, 1), {}, "--coordinator must be given, too"),
        (("a", 2, 1), {}, "--coordinator: must be HOST:PORT, got 'a'"),
        (("a:0", 2, 1), {}, "--coordinator: must be HOST:PORT, got 'a:0'"),
        (("a:1", 2, 2), {}, "--process_id: must lie in 0..1, got 2"),
        (("a:1", 2, -1), {}, "--process_id: must lie in 0..1, got -1"),
        (("a:1", 2, 1), {"timeout": 0}, "--timeout: must be positive, got 0"),
        (("a:1", 2, 1), {"rendezvous_port": 1}, "--rendezvous_port: must be a port other than the coordinator's"),
        ((None, None, None), {"environ": ENVIRON | {"JAX_PROCESS_ID": "x"}}, "--process_id: must be a whole number"),
        (
            (None, None, None),
            {"environ": {"TPU_WORKER_HOSTNAMES": "a,b"}},
            "this is one of 2 hosts of a TPU pod; start",
        ),
        ((None, None, None), {"auto": True}, "--distributed auto: finds no pod around this machine; give"),
    ],
)
def test_what_cannot_be_is_one_line(given, settings, message):
    with pytest.raises(UserError) as caught:
        resolve(*given, **({"environ": {}} | settings))
    assert message in str(caught.value)


def test_the_facts_are_versions_and_every_field_of_the_configuration():
    found = facts(experiments.load([], ["LossConfig.anchor_weight = 0.5", "LossConfig.anchor_data = 'd'"]))
    assert found["LossConfig.anchor_weight"] == "0.5" and found["MeshConfig.tensor"] == "1"
    assert {"jax", "jaxlib", "libtpu", "anchortrain", "git commit", "python"} <= found.keys()
    assert all(isinstance(value, str) for value in found.values())


def test_the_coordinators_port_is_in_use():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"process 0 cannot listen on port {port}: .* in use"):
            with session(Processes("127.0.0.1", port, 2, 0), experiments.load([])):
                pytest.fail("it began")
