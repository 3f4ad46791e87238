"""Many processes as one run: who takes part, the checks before training, and how a run ends when one fails.

    with session(processes, experiment):   # None: this process alone
        train(experiment, run_dir)

First all meet in plain Python (`rendezvous`), where whatever is missing or differs is named; only then is
`jax.distributed` initialised. While the run lasts each process knows when another has gone (`peers`).
"""

import contextlib
import dataclasses
import os
import platform
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import NamedTuple

import anchortrain
from anchortrain import rendezvous
from anchortrain.config import Experiment
from anchortrain.devices import tpu_chips
from anchortrain.errors import AgreedError, UserError
from anchortrain.experiment import git_commit
from anchortrain.peers import Peers, leave

DEFAULT_TIMEOUT = 1800.0  # hosts of a pod that is created anew may come up many minutes after each other
# jax's own, which ends a process in the middle of a stack trace; `peers` is quicker.
_HEARTBEAT_SECONDS = 100
_MOURNING_SECONDS = 10.0  # how long an error waits for the news that another process was lost

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain")


class Processes(NamedTuple):
    """The processes of a run, seen from one of them."""

    host: str  # of process 0
    port: int  # there, of jax's coordination service
    count: int
    index: int  # of this one
    timeout: float = DEFAULT_TIMEOUT  # seconds to wait for all
    rendezvous_port: int = 0  # 0 is port + 1


def resolve(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    auto: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    rendezvous_port: int = 0,
    environ: Mapping[str, str] = os.environ,
) -> Processes | None:
    """The processes that options, or else JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe.

    Args:
      coordinator: HOST:PORT.
      auto: asks the machine: Cloud TPU, Slurm, Kubernetes or whatever else jax detects.

    Returns None when this process is alone. Raises UserError when something is missing or impossible.
    """
    address = coordinator or environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number("--processes", processes, environ.get("JAX_NUM_PROCESSES"))
    index = _number("--process_id", process_id, environ.get("JAX_PROCESS_ID"))
    if auto:
        address, count, index = _detect(address, count, index, timeout)
    given = {"--coordinator": address, "--processes": count, "--process_id": index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        hosts = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
        if len(hosts) > 1 and environ.get("JAX_PLATFORMS") != "cpu":  # libtpu would wait for the others
            what = f"this is one of {len(hosts)} hosts of a TPU pod"
            raise UserError(what, mend="start the command on all of them, with --distributed auto")
        return None
    if missing:
        raise UserError(
            f"{' and '.join(missing)} must be given, too", mend="or --distributed auto on a pod that jax can ask"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65535:
        raise UserError(f"must be HOST:PORT, got {address!r}", where="--coordinator")
    if count < 1 or not 0 <= index < count:
        raise UserError(f"must lie in 0..{count - 1}, got {index}", where="--process_id")
    if not timeout > 0:
        raise UserError(f"must be positive, got {timeout:g}", where="--timeout")
    if not 0 <= rendezvous_port < 65536 or rendezvous_port == int(port):
        raise UserError(
            f"must be a port other than the coordinator's, got {rendezvous_port}", where="--rendezvous_port"
        )
    return Processes(host.strip("[]"), int(port), count, index, timeout, rendezvous_port)


def _number(option: str, value: int | None, text: str | None) -> int | None:
    if value is not None or text is None:
        return value
    try:
        return int(text)
    except ValueError:
        raise UserError(f"must be a whole number, got {text!r} from the environment", where=option) from None


def _detect(address: str | None, count: int | None, index: int | None, timeout: float) -> tuple[str, int, int]:
    """What jax finds out about the cluster, as `jax.distributed.initialize` would without arguments."""
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    try:
        found = detect(address, count, index, None, None, int(timeout))[:3]
    except Exception as error:  # of whichever service it asks
        what = f"the processes of this run cannot be detected: {str(error).splitlines()[0] if str(error) else error!r}"
        raise UserError(what, mend="give --coordinator, --processes and --process_id") from None
    if None in found:
        what = "finds no pod around this machine"
        raise UserError(what, where="--distributed auto", mend="give --coordinator, --processes and --process_id")
    return found


@contextlib.contextmanager
def session(processes: Processes | None, experiment: Experiment) -> Iterator[None]:
    """Joins the other processes and runs the body; when it fails here, it ends everywhere.

    Raises UserError, on every process, when they cannot train together. An error in the body does not leave this
    function: it is printed, the others are told, and the process ends with the code that the command line would
    return. Nothing else ends a process whose neighbours wait for it in a collective.
    """
    if processes is None:
        yield
        return
    peers = Peers(_meet(processes, facts(experiment)))
    try:
        _initialize_jax(processes)
        _check_devices()
        yield
    except UserError as error:
        peers.done() if isinstance(error, AgreedError) else peers.fail(str(error), 2)
        leave(f"anchortrain: error: {error}", 2)
    except KeyboardInterrupt as interrupt:
        if not str(interrupt):  # one with a text has been agreed upon: `training.stopping.Stopped`
            peers.fail("interrupted", 130)
            leave("\nanchortrain: interrupted", 130)
        peers.done()
        raise
    except Exception as error:
        time.sleep(_MOURNING_SECONDS)  # if another process was lost, this error only follows from that
        traceback.print_exc()
        peers.fail(f"{type(error).__name__}: {str(error)[:500]}", 1)
        leave("", 1)
    else:
        peers.done()


def _meet(processes: Processes, described: Mapping[str, str]) -> rendezvous.Meeting:
    me = rendezvous.Member(processes.index, socket.gethostname(), described)
    port = processes.rendezvous_port or processes.port + 1
    if processes.index:
        return rendezvous.join(me, processes.host, port, processes.timeout, _say)
    rendezvous.listen(processes.port).close()  # jax crashes where it cannot listen
    return rendezvous.receive(me, processes.count, port, processes.timeout, _say)


def facts(experiment: Experiment) -> dict[str, str]:
    """What must be the same on every process: versions, the kind of machine, every field of the configuration."""
    found = {"anchortrain": anchortrain.__version__, "git commit": str(git_commit())}
    found["python"] = ".".join(platform.python_version_tuple()[:2])
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    found["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "unset")
    # A host that has lost a chip would hang the others when devices are counted.
    found["number of TPU chips"] = str(tpu_chips())
    for section in dataclasses.fields(experiment):
        for field in dataclasses.fields(section.type):
            value = getattr(getattr(experiment, section.name), field.name)
            found[f"{section.type.__name__}.{field.name}"] = repr(value)
    return found


def _initialize_jax(processes: Processes) -> None:
    import jax

    # The only collectives that CPU devices of several processes have; other devices have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    host = f"[{processes.host}]" if ":" in processes.host else processes.host
    try:
        jax.distributed.initialize(
            f"{host}:{processes.port}",
            processes.count,
            processes.index,
            initialization_timeout=int(min(processes.timeout, 300)) or 1,  # everybody is here already
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
        jax.devices()
    except RuntimeError as error:
        what = f"jax.distributed cannot be initialised at {host}:{processes.port}: {str(error).splitlines()[0][:300]}"
        raise UserError(what, mend="does another program use the port?") from None


def _check_devices() -> None:
    """Raises AgreedError when some processes have other devices than others; a mesh would cut across them."""
    import jax

    counts = Counter(device.process_index for device in jax.devices())
    by_count: dict[int, list[int]] = {}
    for index in range(jax.process_count()):
        by_count.setdefault(counts[index], []).append(index)
    if len(by_count) > 1:
        parts = [f"{count} on {', '.join(map(str, who))}" for count, who in sorted(by_count.items())]
        # Waits for the others: one that is still looking for devices needs the process that coordinates them.
        with contextlib.suppress(RuntimeError):
            jax.distributed.shutdown()
        raise AgreedError(f"processes differ in local devices: {' but '.join(parts)}")


def _say(line: str) -> None:
    print(f"anchortrain: {line}", file=sys.stderr, flush=True)
