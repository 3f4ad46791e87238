"""What is out of reach for a while, or for good: ssh, a machine that goes while it is installed, an earlier failure."""

import json

import pytest

from tests.tpu.conftest import World, refused
from tpu_scripts.gcloud import Interrupted
from tpu_scripts.workers import _own_words

SSH_MINUTES = ["TpuConfig.ssh_minutes = 10"]


def outcomes(one) -> list[str]:
    names = sorted(name for name in one.store.objects if name.endswith(".end.json"))
    return [json.loads(one.store.read(name))["outcome"] for name in names]


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 6])  # worker 0 and 1, at the installation, the check and the launch
def test_ssh_that_fails_for_minutes_costs_no_machine(world, capsys, nth):
    one = world(faults=[{"verb": "ssh", "nth": nth, "times": 20, "kind": "255"}])
    assert one.run("submit", bindings=SSH_MINUTES) == 0
    assert one.cloud.state["made"] == 1 and outcomes(one) == ["finished"] and one.cloud.left() == []
    assert "asking again in 10s" in capsys.readouterr().err


def test_a_machine_that_ssh_does_not_reach_is_lost_and_no_crash(world):
    one = world(crashes={n: (350, (1, 75)) for n in (1, 2)})
    one.unreachable = {0}  # by the order in which machines are made
    began = one.time
    assert one.run("submit", bindings=SSH_MINUTES) == 0
    assert one.cloud.state["made"] == 2 and one.cloud.left() == []
    assert outcomes(one) == ["unreachable", "crashed", "crashed", "finished"]
    assert one.time - began > 600


def test_machines_that_ssh_never_reaches_end_a_run(world, capsys):
    one = world()
    one.unreachable = {0, 1, 2}
    assert one.run("submit", bindings=SSH_MINUTES) == 2
    assert "ssh did not reach the workers of 3 machines in a row; see to the network's" in capsys.readouterr().err
    assert one.cloud.left() == [] and one.cloud.state["made"] == 3 and one.time - 1_800_000_000 < 3600
    refused(one, capsys, "submit with --retry", "create")
    assert one.run("submit", "--retry") == 0 and one.is_finished


@pytest.mark.parametrize("what", ["suspend", "preempt_node", "vanish", "fail"])
def test_a_machine_that_goes_during_the_installation_is_no_crash(tmp_path, what):
    seen = set()
    for after in range(1, 60, 2):  # among them all seconds between the installation and the launch
        one = World(tmp_path / str(after), events=[{"after": after, "what": what}])
        assert one.run("submit") == 0 and one.cloud.left() == []
        assert outcomes(one) in (["finished"], ["preempted", "finished"])
        seen.add(len(one.pod.starts) < len(outcomes(one)))  # whether it went before the training began
    assert seen == {True, False}


def test_a_worker_says_itself_what_is_wrong():
    stderr = "Using ssh batch size of 1.\nERROR: No matching distribution found for jax==9\n"
    stderr += "worker 0/1: cannot install anchortrain\nERROR: (gcloud.x) [/usr/bin/ssh] exited with return code [1].\n"
    said = "cannot install anchortrain (ERROR: No matching distribution found for jax==9)"
    assert _own_words(stderr, 0, 1) == said and _own_words(stderr, 0, 0) == ""


def test_what_a_worker_says_is_a_crash_whatever_it_reads_like(world, capsys):
    one = world()
    ssh = one.cloud.ssh
    one.cloud.ssh = lambda *a: (
        (1, "", "worker 0/0: cannot fetch: Connection timed out") if a[1:3] == (0, 0) else ssh(*a)
    )
    assert one.run("submit") == 2
    assert "3 attempts in a row have crashed" in capsys.readouterr().err
    assert outcomes(one) == ["crashed"] * 3 and one.cloud.state["made"] == 3


def test_retry_is_remembered(world, capsys):
    """The command that said it may be killed: the next one goes on without saying it again."""
    one = world(crashes={n: (5, (1, 75)) for n in range(4)})
    assert one.run("submit") == 2
    refused(one, capsys, "once it is mended, submit with --retry", "supervise")
    assert one.killed(70, True, "submit", "--retry")
    for command in ("create", "wait", "launch", "supervise"):
        assert one.run(command) == 0, command
    assert one.is_finished and one.cloud.left() == []
    assert outcomes(one) == ["crashed"] * 4 + ["finished"]


def test_retry_forgives_only_what_was(world, capsys):
    one = world(crashes={n: (5, (1, 75)) for n in range(9)})
    for more in ([], ["--retry"]):
        assert one.run("submit", *more) == 2
        assert "3 attempts in a row have crashed" in capsys.readouterr().err
    assert outcomes(one) == ["crashed"] * 6 and one.cloud.left() == []
    refused(one, capsys, "once it is mended, submit with --retry", "submit")


@pytest.mark.parametrize("late", [0, 2, 8, 20])
def test_a_machine_that_arrives_after_the_interrupt_does_not_stay(world, late):
    """The request was sent when Ctrl-C ended gcloud."""
    one, asked = world(), []
    execute = one.execute

    def interrupted(argv, stdin, timeout):
        if "create" in argv:
            asked.append((one.time + late, argv))
            raise Interrupted
        if asked and one.time >= asked[0][0]:
            one.cloud.execute(asked.pop()[1])
        return execute(argv, stdin, timeout)

    one.execute = interrupted
    assert one.run("submit") == 130 and not asked
    assert one.cloud.left() == [] and not one.journal.open()


def test_a_refusal_is_not_waited_for(world):
    one = world(zones={"us-east5-a": "denied"})
    assert one.run("submit") == 2 and one.time - 1_800_000_000 < 30


def test_what_has_ended_is_read_once(world):
    """A machine is paid for while a supervisor reads."""
    one = world(crashes={n: (150, (1, 75)) for n in range(6)})
    assert one.run("submit") == 0
    read = [argv[3] for argv in one.cloud.state["argv"] if argv[1:3] == ["storage", "cat"] and "/attempts/" in argv[3]]
    assert len([url for url in read if url.endswith(".end.json")]) == len({u for u in read if u.endswith(".end.json")})
