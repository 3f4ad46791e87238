"""Runs of `tpu_scripts` against a simulated cloud, in this process (`world`) or through real ones (`sandbox`)."""

import itertools
from pathlib import Path

import pytest

from tests.tpu.fake_cloud import FakeCloud, Memory
from tests.tpu.fake_pod import Pod
from tpu_scripts import spec as specs
from tpu_scripts.cli import main
from tpu_scripts.gcloud import Gcloud, Result
from tpu_scripts.journal import Journal

BINDINGS = [
    "TpuConfig.run = 'r'",
    "TpuConfig.owner = 'me'",
    "TpuConfig.project = 'my-project'",
    "TpuConfig.zones = ('us-east5-a',)",
    "TpuConfig.accelerator = 'v5p-16'",  # two hosts
    "TpuConfig.bucket = 'gs://bucket'",
    "TpuConfig.max_hours = 12",
    "TpuConfig.package = 'gs://bucket/anchortrain-0.1.0-py3-none-any.whl'",
    "DataConfig.train = {'prepared/docs': 1.0}",
]


def spec(*more: str) -> specs.RunSpec:
    return specs.load([], [*BINDINGS, *more])


def refused(one, capsys, message: str, *argv: str, bindings=()) -> None:
    """The command ends with one line, and asks for no machine and deletes none."""
    before, made = one.cloud.left(), one.cloud.state["made"]
    capsys.readouterr()
    assert one.run(*argv, bindings=bindings) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tpu_scripts: error: ")]
    assert len(errors) == 1 and message in errors[0], errors
    assert (one.cloud.left(), one.cloud.state["made"]) == (before, made)


class Killed(BaseException):
    """Stands for SIGKILL: from then on nothing of the process reaches the cloud."""


class World:
    """A cloud with a clock of its own, and commands that run in it. `kill`: the number of the call that it dies at,
    before it is made or (with `applied`) after."""

    def __init__(self, folder: Path, *, steps: int = 100, crashes=None, slices: int = 1, **scenario):
        self.time = 1_800_000_000.0
        scenario = {"hosts": 2, "provision": 60, "delete": 20, **scenario}
        self.store = Memory(lambda: self.time)
        self.cloud = FakeCloud({"scenario": scenario}, self.store, lambda: self.time, None)
        self.pod = Pod(self.cloud, scenario["hosts"] * slices, steps, crashes)
        self.store.write("bucket/prepared/docs/data", "x")
        self.journal = Journal(folder / "state")
        self.kill, self.applied, self.calls = None, False, itertools.count(1)
        self.said: list[str] = []
        self.unreachable: set[int] = set()  # machines, in the order in which they are made, that ssh does not reach

    # The clock of product code.
    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def execute(self, argv, stdin, timeout) -> Result:
        self.time += 1.0
        self.cloud.advance()  # first what was lost, then what the trainer has done since
        self.pod.advance()
        number = next(self.calls)
        if "ssh" in argv and self.cloud.state["made"] - 1 in self.unreachable:
            return Result(255, "", "ssh: connect to host 10.0.0.1 port 22: Connection timed out")
        if self.kill is not None and number >= self.kill:
            if number == self.kill and self.applied:
                self.cloud.execute(argv, stdin, timeout)
            raise Killed
        return Result(*self.cloud.execute(argv, stdin, timeout))

    def run(self, *argv: str, bindings=()) -> int:
        clock = type("Clock", (), {"time": lambda _: self.time, "sleep": lambda _, s: self.sleep(s)})()
        gcloud = Gcloud(execute=self.execute, clock=clock, say=self.said.append, dry_run="--dry_run" in argv)
        options = [word for one in [*BINDINGS, *bindings] for word in ("--gin_bindings", one)]
        plan = ["--no_plan"] if argv[0] in ("submit", "create", "study") else []
        return main([*argv, *plan, *options], gcloud=gcloud, journal=self.journal)

    def killed(self, call: int, applied: bool, *argv: str, bindings=()) -> bool:
        """Runs a command that dies at a call; False when it ended before."""
        self.kill, self.applied, self.calls = call, applied, itertools.count(1)
        try:
            self.run(*argv, bindings=bindings)
        except Killed:
            return True
        finally:
            self.kill = None
        return False

    def checkpoints(self) -> list[int]:
        prefix = "bucket/anchortrain/r/train/checkpoints/"
        return sorted(int(n[len(prefix) :].split("/")[0]) for n in self.store.objects if n.startswith(prefix))

    @property
    def is_finished(self) -> bool:
        return "bucket/anchortrain/r/train/finished.json" in self.store.objects


@pytest.fixture
def world(tmp_path):
    return lambda **scenario: World(tmp_path, **scenario)
