"""The same through real processes: commands that are really killed, workers that really run `worker.sh`."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tpu.sandbox import Sandbox
from tests.train.conftest import TINY, data  # noqa: F401  (a fixture)
from tpu_scripts.gcloud import results


@pytest.fixture
def sandbox(tmp_path):
    made = []

    def make(*args, **scenario):
        made.append(Sandbox(tmp_path, *args, **scenario))
        return made[-1]

    yield make
    for one in made:
        one.clean()


def until(holds, process: subprocess.Popen, seconds: float = 90) -> None:
    """Waits for something that a command brings about; a command that ends instead is shown with all that it said."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"ended with {process.returncode}:\n{out}{err}")
        assert time.monotonic() < deadline
        time.sleep(0.05)


def starts(one: Sandbox) -> list[int]:
    return [int(line) for line in (one.cloud / "starts-0").read_text().split()]


def test_submit_is_preempted_and_resumes(sandbox):
    one = sandbox(events=[{"checkpoint": 20, "what": "suspend"}])
    assert one.run("submit", "--no_plan").returncode == 0
    assert one.file("train/finished.json").exists() and one.machines == []
    assert starts(one)[0] == 0 and starts(one)[1] in (20, 30) and len(starts(one)) == 2
    logs = one.run("logs", "--all").stdout.splitlines()
    times = [line.split()[0] for line in logs]
    assert times == sorted(times) and {tuple(line.split()[1:3]) for line in logs} >= {("1", "0/0"), ("1", "0/1")}
    assert sum(line.endswith("step 40") for line in logs) == 2
    status = one.run("status").stdout
    assert "finished, checkpoint 40" in status and "worker 0/1: exit code 0" in status


def test_launching_is_locked_per_attempt(sandbox):
    one = sandbox(faults=[{"verb": "ssh", "nth": 5, "kind": "255", "applied": True}])
    assert one.run("create", "--no_plan").returncode == 0
    for _ in range(2):
        assert one.run("launch").returncode == 0
    assert one.run("supervise").returncode == 0
    assert starts(one) == [0] and one.machines == []


def test_a_worker_that_is_stopped_goes_on_from_its_last_step(sandbox):
    one = sandbox(env={"TOY_SECONDS": "0.3"})
    assert one.run("create", "--no_plan").returncode == 0
    assert one.run("launch").returncode == 0
    while len(list(one.cloud.glob("starts-*"))) < 2:
        time.sleep(0.1)
    time.sleep(1.0)  # until both have taken a step
    for path in one.cloud.glob("vms/*/*/units/anchortrain-r-0.pid"):
        os.kill(int(path.read_text()), signal.SIGTERM)  # what systemd does before maintenance
    assert one.run("supervise").returncode == 0
    end = json.loads(one.file("attempts/0.end.json").read_text())
    assert end["outcome"] == "stopped" and starts(one) == [0, end["step"]] and end["step"] % 10


KILLS = [(9, 1), (12, 1), (20, 1)]
MORE = [(1, 0), (6, 1), (8, 0), (10, 1), (14, 0), (15, 1), (17, 1), (25, 0), (30, 0), (45, 1)]


@pytest.mark.parametrize("call, applied", [*KILLS, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE)])
def test_sigkill_then_reap_and_then_submit(sandbox, call, applied):
    one = sandbox(kill=[call, applied])
    assert one.run("submit", "--no_plan").returncode == -signal.SIGKILL
    if applied and call % 2:  # either the machine is reaped first, or it is gone on with
        assert one.run("reap", "--all", "--delete").returncode == 0
        assert one.machines == []
    one.change(kill=None)
    assert one.run("submit", "--no_plan").returncode == 0
    assert one.file("train/finished.json").exists() and one.machines == []
    assert all(step % 10 == 0 for step in starts(one)) and starts(one) == sorted(starts(one))


def test_an_interrupt_deletes_the_machine(sandbox):
    one = sandbox()
    process = one.start("submit", "--no_plan")
    until((one.cloud / "starts-0").exists, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("tpu_scripts: interrupted\n") and one.machines == []


def test_a_machine_is_deleted_though_nobody_listens(sandbox):
    """`submit 2>&1 | tee log`: Ctrl-C ends `tee` first. A terminal that is closed is alike."""
    one = sandbox()
    process = one.start("submit", "--no_plan")
    until((one.cloud / "starts-0").exists, process)
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and one.machines == []


def test_an_interrupt_does_not_wait_for_an_installation(sandbox):
    one = sandbox(ssh_seconds=100)
    process = one.start("submit", "--no_plan")
    until(lambda: sum("ssh" in argv for argv in one.state.get("argv", [])) >= 2, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and one.machines == []


def test_an_interrupted_study_leaves_no_machine(sandbox):
    one = sandbox(
        ["TpuStudyConfig.sizes = ('a', 'b')", "TpuStudyConfig.methods = {'m': ()}", "TpuStudyConfig.concurrency = 2"],
        env={"TOY_SECONDS": "2"},
    )
    process = one.start("study", "--yes", "--no_plan")
    until((one.cloud / "starts-0").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    print(out, err)
    assert process.returncode == 130 and one.machines == [] and "r-b-m-s0: interrupted" in err


def test_an_interrupt_during_an_installation_is_no_crash(sandbox):
    """A study cuts off what its threads wait for; that this fails says nothing of the machines."""
    one = sandbox(["TpuStudyConfig.sizes = ('a',)", "TpuStudyConfig.methods = {'m': ()}"], ssh_seconds=100)
    process = one.start("study", "--yes", "--no_plan")
    until(lambda: sum("ssh" in argv for argv in one.state.get("argv", [])) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and one.machines == [] and "r-a-m-s0: interrupted" in err
    assert [p.name for p in one.cloud.glob("buckets/bucket/anchortrain/r-a-m-s0/attempts/*")] == ["0.json"]


def test_a_signal_that_another_thread_gets_is_handled():
    """The system may give it to any thread; the main one would sleep until the run that it waits for has ended."""
    handled = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())

    def work() -> bool:
        time.sleep(0.5)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return handled.wait(20)

    try:
        with ThreadPoolExecutor(1) as pool:
            assert results([pool.submit(work)]) == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_guard_deletes_what_nobody_watches(sandbox):
    one = sandbox(["TpuConfig.max_hours = 0.006"])  # 22 seconds
    assert one.run("create", "--no_plan").returncode == 0
    assert one.run("launch").returncode == 0
    deadline = time.monotonic() + 60
    while one.machines:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    deletes = [argv for argv in one.state["argv"] if "delete" in argv]
    assert deletes[0][:6] == ["gcloud", "compute", "tpus", "queued-resources", "delete", "me-r"]


HOSTILE = "a b  c'\"$(touch pwned)`id`\\ \n;%x*?~ é {size}"


def test_names_overrides_and_secrets(sandbox):
    """A hostile value arrives as it is, a secret arrives, and lies nowhere but in the trainer's memory."""
    one = sandbox(
        [f"DataConfig.heldout = {{{HOSTILE!r}: 'x'}}", "TpuConfig.secrets = {'WANDB': 'wandb'}"]
        + [f"TpuConfig.env = {{'HOSTILE': {HOSTILE!r}, 'ANCHORTRAIN_CACHE': 'off'}}"],
        secret="s3cr3t-value",
    )
    assert one.run("submit", "--no_plan").returncode == 0
    from tests.tpu.fake_pod import parameters
    from tpu_scripts import spec

    assert spec.load([one.folder / "run.gin"]).experiment == one.file("experiment.gin").read_text()
    assert f"{HOSTILE!r}: 'x'" in one.file("experiment.gin").read_text()
    command = next(a for argv in one.state["argv"] for a in argv if a.startswith("--command="))
    assert re.fullmatch(r"[ -~]+", command) and f"HOSTILE={HOSTILE}" in parameters(command)[1]["ENVIRONMENT"]
    assert "secret: given" in one.run("logs").stdout
    everything = [p for p in one.folder.rglob("*") if p.is_file() and p.name != "state.json"]
    assert not [p for p in everything if b"s3cr3t-value" in p.read_bytes()]
    assert "s3cr3t-value" not in json.dumps(one.state["argv"])
    assert not list(one.folder.rglob("pwned"))


def test_a_real_run_is_preempted_and_resumes(sandbox, data, tmp_path):  # noqa: F811
    """Two workers train as one, lose their machine without warning, and go on from the checkpoint on another."""
    import shutil

    from anchortrain.checkpoint import load_run

    bindings = [line for line in TINY if "d_model" not in line]
    steps = [f"RunConfig.tokens = {60 * 64 * 8}", "CheckpointConfig.every_steps = 10", "ModelConfig.d_model = 16"]
    env = {"ANCHORTRAIN_CACHE": str(tmp_path / "xla"), "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    one = sandbox(
        [*bindings, *steps, "MeshConfig.fsdp = 2", f"TpuConfig.env = {env!r}"],
        trainer="real",
        events=[{"checkpoint": 10, "what": "suspend"}],
    )
    bucket = one.cloud / "buckets/bucket"
    shutil.rmtree(bucket / "prepared/docs")
    shutil.copytree(data.documents, bucket / "prepared/docs")
    assert one.run("submit", "--no_plan", timeout=400).returncode == 0
    assert one.machines == []
    assert json.loads(one.file("train/finished.json").read_text())["steps"] == 60
    ends = [json.loads(one.file(f"attempts/{n}.end.json").read_text()) for n in (0, 1)]
    assert [end["outcome"] for end in ends] == ["preempted", "finished"] and ends[0]["step"] >= 10
    lines = [json.loads(line) for line in one.file("train/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss/text" in line or "learning_rate" in line] == list(
        range(1, 61)
    )
    assert load_run(one.file("train")).step == 60
