"""Whatever the cloud does: a run comes to its end, loses no step but those since a checkpoint, and leaves nothing."""

import json
import random
import re

import pytest

from tests.tpu.conftest import World
from tests.tpu.fake_pod import CHECKPOINT_STEPS
from tpu_scripts.gcloud import Gcloud
from tpu_scripts.storage import Storage

TWO_ZONES = ["TpuConfig.zones = ('us-east5-a', 'us-east5-b')"]
SUSPEND = {"after": 300, "what": "suspend"}


def assert_well(world: World) -> None:
    assert world.cloud.left() == [] and not world.journal.open()
    assert all(0 <= lost < CHECKPOINT_STEPS for lost in world.pod.lost_steps)
    assert world.pod.starts == sorted(world.pod.starts)  # every attempt goes on where the last checkpoint was


@pytest.mark.parametrize(
    "scenario, bindings, starts",
    [
        ({}, [], 1),
        ({"zones": {"us-east5-a": "stockout"}}, TWO_ZONES, 1),
        ({"zones": {"us-east5-a": "failed"}}, TWO_ZONES, 1),
        ({"zones": {"us-east5-a": "quota"}}, TWO_ZONES, 1),
        ({"events": [SUSPEND, {"after": 400, "what": "preempt_node"}, {"after": 500, "what": "vanish"}]}, [], 4),
        ({"events": [{"after": 200, "what": "fail"}, {"after": 1, "what": "suspend"}]}, [], 2),
        ({"ready": 600}, [], 1),
        ({"faults": [{"verb": "ssh", "nth": 2, "times": 2, "kind": "255"}]}, [], 1),
        ({"faults": [{"verb": "describe", "nth": 1, "times": 3, "kind": "503"}]}, [], 1),
        ({"faults": [{"verb": "create", "nth": 1, "kind": "503", "applied": True}]}, [], 1),
        ({"faults": [{"verb": "create", "nth": 1, "kind": "timeout"}]}, [], 1),
        ({"faults": [{"verb": "delete", "nth": 1, "times": 5, "kind": "409"}]}, [], 1),
        ({"faults": [{"verb": "delete", "nth": 1, "times": 2, "kind": "429"}]}, [], 1),
        ({"delete": 1500, "events": [SUSPEND]}, [], 2),
        ({"faults": [{"verb": "storage cp", "nth": 3, "times": 2, "kind": "503", "applied": True}]}, [], 1),
        ({"crashes": {0: (350, (134, 75)), 1: (350, (1, 75))}}, [], 3),
        ({"crashes": {0: (350, (130, 130))}}, [], 2),
        ({"slices": 2}, ["TpuConfig.slices = 2"], 1),
    ],
    ids=lambda value: re.sub(r"\W+", "-", json.dumps(value))[:60] if isinstance(value, dict) else "",
)
def test_a_run_comes_to_its_end(world, scenario, bindings, starts):
    one = world(**scenario)
    assert one.run("submit", bindings=bindings) == 0
    assert one.is_finished and one.checkpoints()[-1] == 100
    assert len(one.pod.starts) == starts
    assert_well(one)


@pytest.mark.parametrize(
    "scenario, bindings, message",
    [
        ({"zones": {"us-east5-a": "denied"}}, [], "PERMISSION_DENIED"),
        ({"zones": {"us-east5-a": "stockout"}}, [], "hours are over while it waits"),
        ({"zones": {"us-east5-a": "quota"}}, [], "hours are over while it waits"),
        ({"crashes": {n: (5, (1, 75)) for n in range(9)}}, [], "3 attempts in a row have crashed at step 0"),
        ({"crashes": {0: (50, (2, 2))}}, [], "training refused to go on: step 5"),
        ({"steps": 10_000}, [], "12 hours of the run are over at step"),
        ({"events": [SUSPEND] * 9}, ["TpuConfig.max_attempts = 2"], "2 attempts were made"),
        ({"faults": [{"verb": "ssh", "nth": 1, "times": 9999, "kind": "255"}]}, [], "of 3 machines in a row"),
        ({"location": "EUROPE-WEST4"}, [], "lies in europe-west4, us-east5-a does not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_cannot_go_on_leaves_nothing(world, capsys, scenario, bindings, message):
    one = world(**scenario)
    assert one.run("submit", bindings=bindings) == 2
    assert message in capsys.readouterr().err
    assert_well(one)


def test_a_machine_that_cannot_be_deleted_is_said_loudly_and_stays_known(world, capsys):
    one = world(crashes={0: (50, (2, 2))}, faults=[{"verb": "delete", "nth": 1, "times": 1, "kind": "denied"}])
    assert one.run("submit") == 2
    said = capsys.readouterr().err
    assert "training refused to go on: step 5" in said and "NOT DELETED, `down` or `reap` must do it" in said
    assert one.cloud.left() and one.journal.open()
    assert one.run("reap", "--all", "--delete") == 0
    assert_well(one)


def test_three_crashes_that_get_further_are_no_loop(world):
    one = world(crashes={n: (150, (1, 75)) for n in range(6)})
    assert one.run("submit") == 0
    assert one.pod.starts == [0, 10, 20, 30, 40, 50, 60]
    assert_well(one)


def test_preemptions_do_not_count_as_crashes(world):
    one = world(events=[{"after": 60, "what": "suspend"}] * 8)
    assert one.run("submit") == 0
    assert_well(one)


def test_a_node_that_goes_before_it_is_ready_is_not_waited_for(world):
    one = world(ready=300, events=[{"after": 10, "what": "preempt_node"}])
    began = one.time
    assert one.run("submit") == 0 and one.cloud.state["made"] == 2
    assert one.time - began < 1800  # what a machine is given to become ready
    assert_well(one)


def test_an_object_whose_answer_got_lost_is_ours(world):
    one = world(faults=[{"verb": "storage cp", "nth": 1, "kind": "503", "applied": True}])
    clock = type("Clock", (), {"time": lambda _: one.time, "sleep": lambda _, s: one.sleep(s)})()
    storage = Storage(Gcloud(execute=one.execute, clock=clock))
    assert storage.create("gs://bucket/x", "mine") and not storage.create("gs://bucket/x", "other")


def test_steps_by_hand_are_those_of_submit(world, capsys):
    one = world(events=[SUSPEND])
    for command in ("create", "create", "wait", "wait", "launch", "launch", "status"):
        assert one.run(command) == 0, command
    assert len(one.pod.starts) == 1 and one.cloud.state["made"] == 1
    assert "worker 0/1: running" in capsys.readouterr().out
    assert one.run("supervise") == 0 and one.is_finished and one.cloud.state["made"] == 2
    assert one.run("logs", "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[2] for line in lines if " anchortrain" in line} == {"0/0", "0/1"}
    assert one.run("submit") == 0 and one.run("down") == 0
    assert_well(one)


def test_nothing_of_others_is_touched(world, capsys):
    one = world()
    foreign = {"name": "me-r", "zone": "us-east5-a", "state": "ACTIVE", "created": "x", "labels": {"app": "other"}}
    foreign |= {"nodes": ["me-r"], "active_at": 0, "event": None, "node_state": "READY"}
    colleague = foreign | {"name": "you-r", "labels": {"app": "anchortrain", "owner": "you", "run": "r", "ttl": "1"}}
    one.cloud.state["machines"] |= {"us-east5-a/me-r": foreign, "us-east5-a/you-r": colleague}
    assert one.run("submit") == 2
    assert "is not this run's" in capsys.readouterr().err
    assert one.run("down") == 0
    assert one.run("reap", "--all", "--delete") == 0
    assert one.cloud.left() == ["us-east5-a/me-r", "us-east5-a/you-r"]


def test_reaping_is_dry_and_waits_for_the_time(world, capsys):
    one = world()
    assert one.run("create") == 0
    assert one.run("reap", "--delete") == 0 and one.cloud.left()
    one.time += 13 * 3600
    assert one.run("reap") == 0 and one.cloud.left()
    assert "1 of 1 would be deleted" in capsys.readouterr().out
    assert one.run("reap", "--delete") == 0
    assert_well(one)


def test_dry_runs_change_nothing(world):
    one = world()
    assert one.run("create", "--dry_run") == 0
    assert not one.cloud.left() and list(one.store.objects) == ["bucket/prepared/docs/data"] and not one.journal.read()
    assert any("would run: gcloud compute tpus queued-resources create" in line for line in one.said)


def test_another_experiment_or_machine_under_the_same_name(world, capsys):
    one = world()
    assert one.run("create") == 0
    assert one.run("create", bindings=["ModelConfig.d_model = 128"]) == 2
    assert "was started with another experiment: ModelConfig.d_model = 128" in capsys.readouterr().err
    assert one.run("create", bindings=["CheckpointConfig.every_steps = 7"]) == 0
    assert one.run("create", bindings=["TpuConfig.capacity = 'on_demand'"]) == 2
    assert "was created with other settings" in capsys.readouterr().err
    assert one.run("down") == 0
    assert_well(one)


SCENARIO = {"events": [None, {"after": 250, "what": "suspend"}], "zones": {"us-east5-a": "failed"}, "delete": 50}


def test_a_kill_at_every_call_leaves_nothing_after_reap(tmp_path):
    """SIGKILL before and after each call of gcloud that `submit` makes."""
    call, deaths = 1, 0
    while True:
        for applied in (False, True):
            one = World(tmp_path / f"{call}-{applied}", **SCENARIO)
            if not one.killed(call, applied, "submit", bindings=TWO_ZONES):
                assert deaths > 100
                return
            deaths += 1
            one.time += 24 * 3600
            assert not one.journal.places() or one.run("reap", "--delete") == 0
            assert one.cloud.left() == [], call
        call += 1


@pytest.mark.parametrize("step", range(7))
def test_a_kill_at_every_call_is_mended_by_the_same_command(tmp_path, step):
    for call in range(1 + step, 120, 7):
        for applied in (False, True):
            one = World(tmp_path / f"{call}-{applied}", **SCENARIO)
            one.killed(call, applied, "submit", bindings=TWO_ZONES)
            assert one.run("submit", bindings=TWO_ZONES) == 0, (call, applied)
            assert one.is_finished
            assert_well(one)


def schedule(seed: int) -> tuple[dict, list[str], list[tuple[int, bool]]]:
    """A scenario, bindings, and kills."""
    rng = random.Random(seed)
    verbs = ["create", "describe", "delete", "ssh", "list", "storage cp", "storage cat", "storage ls"]
    faults = [
        {
            "verb": rng.choice(verbs),
            "nth": rng.randint(1, 40),
            "times": rng.randint(1, 4),
            "kind": rng.choice(["503", "409", "429", "255", "timeout"]),
            "applied": rng.random() < 0.5,
        }
        for _ in range(rng.randint(0, 6))
    ]
    whats = ["suspend", "preempt_node", "vanish", "fail"]
    events = [
        {"after": rng.randint(0, 700), "what": rng.choice(whats)} if rng.random() < 0.8 else None
        for _ in range(rng.randint(0, 4))
    ]
    zones = {"us-east5-a": rng.choice([None, None, "stockout", "failed", "quota"])}
    crashes = {n: (rng.randint(1, 600), rng.choice([(1, 75), (134, 1), (130, 130), (75, 75)])) for n in range(2)}
    slices = rng.choice([1, 1, 2])
    codes = {n: (after, c * slices) for n, (after, c) in crashes.items() if rng.random() < 0.5}
    scenario = {"faults": faults, "events": events, "zones": zones, "crashes": codes, "slices": slices}
    scenario |= {"provision": rng.randint(0, 900), "delete": rng.randint(0, 600), "ready": rng.choice([0, 0, 300])}
    kills = [(rng.randint(1, 150), rng.random() < 0.5) for _ in range(rng.randint(0, 3))]
    return scenario, [*TWO_ZONES, f"TpuConfig.slices = {slices}"], kills


@pytest.mark.parametrize("seeds", [range(i, i + 30) for i in range(0, 300, 30)], ids=lambda r: f"{r[0]}-{r[-1]}")
def test_randomised_schedules(tmp_path, seeds):
    for seed in seeds:
        scenario, bindings, kills = schedule(seed)
        one = World(tmp_path / str(seed), **scenario)
        for call, applied in kills:
            one.killed(call, applied, "submit", bindings=bindings)
        code = one.run("submit", bindings=bindings)
        for _ in range(3):  # many faults in a row end a command: the next one goes on
            if code:
                code = one.run("submit", bindings=bindings)
        assert code == 0 and one.is_finished, (seed, one.said[-5:])
        assert_well(one)
