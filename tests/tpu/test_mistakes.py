"""What people, clocks, outages and damaged files do to a run: it is refused or goes on, and none is paid for twice."""

import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from anchortrain.errors import UserError
from tests.tpu.conftest import BINDINGS, refused, spec
from tpu_scripts import gcloud, jobset, planning, study
from tpu_scripts import spec as specs
from tpu_scripts.journal import Journal
from tpu_scripts.queued_resources import QueuedResources
from tpu_scripts.workers import SCRIPT

RECORD = "bucket/anchortrain/r/run.json"
ROOT = Path(__file__).resolve().parents[2]
OTHER_ZONE = ["TpuConfig.zones = ('us-east5-b',)"]


def test_other_settings_leave_a_live_machine_alone(world, capsys):
    one = world()
    assert one.run("create") == 0
    for command in ("submit", "supervise", "wait", "launch"):
        refused(one, capsys, "with other settings", command, bindings=["TpuConfig.capacity = 'on_demand'"])


@pytest.mark.parametrize("verb, nth", [("describe", 12), ("storage ls", 20), ("list", 8), ("storage cat", 7)])
def test_an_outage_ends_nothing(world, verb, nth):
    one = world(faults=[{"verb": verb, "nth": nth, "times": 40, "kind": "503"}])
    assert one.run("submit") == 0
    assert one.is_finished and one.cloud.left() == [] and one.cloud.state["made"] == 1 and len(one.pod.starts) == 1
    assert any("HTTPError 503" in line and "trying again" in line for line in one.said)


@pytest.mark.parametrize(
    "said",
    [
        "[Errno 101] Network is unreachable",
        "Name or service not known",
        "Unable to find the server at tpu.googleapis.com",
    ],
)
def test_a_network_that_is_away_is_an_outage(said):
    assert gcloud.classify(gcloud.Result(1, "", f"ERROR: gcloud crashed: {said}")) is gcloud.Kind.TRANSIENT


def test_doctor_says_what_it_found_where_places_answer(world, capsys):
    one = world()
    assert one.run("create") == 0
    one.time += 13 * 3600
    one.journal.write("create", project="other-project", zone="us-east5-b", name="me-x", owner="me")
    second = one.cloud.state["calls"].get("list", 0) + 6  # of services, account and so on come before
    one.cloud.scenario["faults"] = [{"verb": "list", "nth": second, "times": 9, "kind": "denied"}]
    assert one.run("doctor") == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("FAIL  machines: me-r outlived their time; ") and "PERMISSION_DENIED" in said


@pytest.mark.parametrize("verb", ["describe", "list", "delete"])
def test_deleting_outlasts_an_outage(world, verb):
    one = world()
    assert one.run("create") == 0
    calls = one.cloud.state["calls"].get(verb, 0)
    one.cloud.scenario["faults"] = [{"verb": verb, "nth": calls + 1, "times": 20, "kind": "503"}]
    assert one.run("down") == 0 and one.cloud.left() == []


def test_another_zone_makes_no_second_machine(world, capsys):
    one = world()
    assert one.run("create") == 0
    for command in ("create", "submit", "wait"):
        refused(one, capsys, "which TpuConfig does not name any more", command, bindings=OTHER_ZONE)
    (one.journal.directory / "journal.jsonl").unlink()  # another machine than the one that created it
    refused(one, capsys, "me-r is in us-east5-a of my-project", "submit", bindings=OTHER_ZONE)


def test_reap_finds_owners_of_runs_by_itself(world, monkeypatch):
    one = world()
    assert one.run("create") == 0
    one.time += 13 * 3600
    from tpu_scripts.cli import main

    clock = type("Clock", (), {"time": lambda _: one.time, "sleep": lambda _, s: one.sleep(s)})()
    door = gcloud.Gcloud(execute=one.execute, clock=clock)
    assert main(["reap", "--delete"], gcloud=door, journal=one.journal) == 0
    assert one.cloud.left() == []


def test_reap_does_what_it_can(world, capsys):
    one = world()
    assert one.run("create") == 0
    one.time += 13 * 3600
    one.cloud.scenario["faults"] = [
        {"verb": "list", "nth": one.cloud.state["calls"].get("list", 0) + 1, "kind": "denied"}
    ]
    assert one.run("reap", "--delete", "--project", "other-project", "--zone", "us-east5-c") == 2
    assert "PERMISSION_DENIED" in capsys.readouterr().err and one.cloud.left() == []
    refused(one, capsys, "needs --project", "reap", "--zone", "us-east5-a")


def test_after_three_crashes_no_machine_is_made_until_it_is_asked_for(world, capsys):
    one = world(crashes={n: (5, (1, 75)) for n in range(3)})
    assert one.run("submit") == 2
    for command in ("submit", "create", "wait", "launch", "supervise"):
        refused(one, capsys, "once it is mended, submit with --retry", command)
    assert one.run("submit", "--retry") == 0 and one.is_finished


def test_a_machine_that_another_command_made_meanwhile_stays(world):
    one = world()
    assert one.run("create") == 0
    machine = one.cloud.state["machines"]["us-east5-a/me-r"]

    def execute(argv, stdin, timeout):
        code = one.execute(argv, stdin, timeout)
        if "delete" in argv:
            one.cloud.state["machines"]["us-east5-a/me-r"] = machine | {"created": "later", "state": "ACTIVE"}
        return code

    clock = type("Clock", (), {"time": lambda _: one.time, "sleep": lambda _, s: one.sleep(s)})()
    machines = QueuedResources(gcloud.Gcloud(execute=execute, clock=clock), one.journal, "my-project")
    machines.delete("me-r", "us-east5-a", {"run": "r"})
    assert one.cloud.left() == ["us-east5-a/me-r"]


@pytest.mark.parametrize("orphans", [False, True])
def test_reap_leaves_what_was_made_anew_since_it_looked(world, capsys, orphans):
    one = world()
    assert one.run("create") == 0
    one.time += 13 * 3600
    listed = one.cloud.state["machines"]["us-east5-a/me-r"]
    if orphans:  # nodes whose queued resource is gone
        listed["created"] = ""
    deadline = one.time + 3600

    def execute(argv, stdin, timeout):
        done = one.execute(argv, stdin, timeout)
        if "list" in argv and "tpu-vm" in argv:  # the last that a survey asks
            labels = listed["labels"] | {"ttl": str(int(deadline))}
            one.cloud.state["machines"]["us-east5-a/me-r"] = listed | {"created": "later", "labels": labels}
        return done

    clock = type("Clock", (), {"time": lambda _: one.time, "sleep": lambda _, s: one.sleep(s)})()
    from tpu_scripts.cli import main

    assert main(["reap", "--delete"], gcloud=gcloud.Gcloud(execute=execute, clock=clock), journal=one.journal) == 0
    assert "0 deleted" in capsys.readouterr().out and one.cloud.left() == ["us-east5-a/me-r"]


def test_down_does_not_work_against_a_live_command(world, capsys):
    one = world()
    assert one.run("create") == 0
    with one.journal.lock("me-r"):
        refused(one, capsys, "me-r is being worked on by process", "down")
        assert one.run("down", "--force") == 0
    assert one.cloud.left() == []


def test_variables_of_the_training_are_not_those_of_the_script():
    """The part of `worker.sh` that starts the trainer, with every name that the script has."""
    text = SCRIPT.read_text()
    become = text[text.index("become() {") : text.index("run() {")]
    body = text[text.index("    for pair in ${SECRETS") : text.index('  ) > >(stamp >>"$log")')]
    names = ["PROJECT", "MOUNT", "BUCKET", "STATE", "TRAIN", "VENV", "SECRETS", "ENVIRONMENT", "DELETE", "stop", "log"]
    script = 'gcloud() { echo "secret ${5#*=}"; }\nPROJECT=p STATE=/nowhere stop=/nowhere/x VENV=/venv TRAIN=(train)\n'
    script += f"ENVIRONMENT=({' '.join(f'{name}=mine' for name in names)}) SECRETS=(pair=a value=b) DELETE=(x)\n"
    script += f"{become}{body}".replace("  exec ", '  printf "%s\\n" ')
    script += "env\n"
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:4] == ["/venv/bin/python", "-m", "anchortrain", "train"]
    assert {*(f"{name}=mine" for name in names), "pair=secret a", "value=secret b"} <= set(lines)


def test_a_finished_run_gets_no_machine(world, capsys):
    one = world()
    assert one.run("submit") == 0
    for command in ("create", "wait", "launch"):
        refused(one, capsys, "the run is finished already", command)
    refused(one, capsys, "with another experiment", "submit", bindings=["ModelConfig.d_model = 128"])
    assert one.run("submit") == 0 and one.cloud.left() == []


def test_nothing_but_create_and_submit_makes_a_first_machine(world, capsys):
    one = world()
    for command in ("wait", "launch", "supervise"):
        refused(one, capsys, "the run was not submitted yet", command)
    assert one.cloud.state["made"] == 0 and RECORD not in one.store.objects


def test_a_program_that_has_just_ended_can_be_interrupted(monkeypatch):
    def gone(*_):
        raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", gone)
    monkeypatch.setattr(subprocess.Popen, "communicate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        gcloud.execute(["true"], None, 5.0)


def test_an_interrupt_while_modules_are_loaded_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, os, signal\n_import = builtins.__import__\n"
        "def load(name, *a, **k):\n    if name == 'tpu_scripts.cli':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n    return _import(name, *a, **k)\n"
        "builtins.__import__ = load\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "tpu_scripts", "status"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "tpu_scripts: interrupted\n")


def test_names_of_a_study_are_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gin").write_text("")

    def members(*more):
        tpu, config, bound = specs.read([], [*BINDINGS, "TpuStudyConfig.methods = {'m': ('m.gin',)}", *more])
        return study.members(tpu, config, bound)

    with pytest.raises(UserError, match=r"\(A_b, m, seed 0\) and \(a-B, m, seed 0\) would both be the run r-a-b-m-s0"):
        members("TpuStudyConfig.sizes = ('A_b', 'a-B')")
    with pytest.raises(UserError, match="TpuStudyConfig.sizes or methods has .'2.5b'.; they name runs"):
        members("TpuStudyConfig.sizes = ('2.5b',)")


def test_a_run_was_not_created_in_the_future(world):
    one = world()
    record = {"created": one.time + 1e6, "owner": "me", "token": "x", "places": []}
    one.store.write(RECORD, json.dumps(record))
    assert one.run("create") == 0
    assert float(one.cloud.state["machines"]["us-east5-a/me-r"]["labels"]["ttl"]) <= one.time + 12 * 3600


def test_create_says_when_the_machine_that_is_there_ends(world, capsys):
    one = world()
    assert one.run("create") == 0 and one.run("create", bindings=["TpuConfig.max_hours = 100"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.rpartition("deleted by")[2] == second.rpartition("deleted by")[2]


def test_jobset_says_values_as_they_are():
    value = "\U0001f600 é \x7f\x85\u2028 $(HOME) $$ \"'\\"
    one = spec("TpuConfig.image = 'i'", f"TpuConfig.env = {{'V': {value!r}}}")
    documents = jobset.manifests(one, 0.0)
    text = jobset.render(documents)
    assert list(yaml.safe_load_all(text)) == documents and "\\ud83d" not in text
    [container] = documents[1]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert next(e["value"] for e in container["env"] if e["name"] == "V") == value.replace("$", "$$")
    with pytest.raises(UserError, match="My_key is no name of a Kubernetes secret"):
        jobset.manifests(spec("TpuConfig.image = 'i'", "TpuConfig.secrets = {'W': 'My_key'}"), 0.0)


@pytest.mark.parametrize(
    "binding, message",
    [
        ("TpuConfig.secrets = {'W': 'hf_" + "a" * 34 + "'}", "not the secrets themselves"),
        ("TpuConfig.secrets = {'W': 'sk-" + "a" * 34 + "'}", "not the secrets themselves"),
        ("TpuConfig.secrets = {'W': '" + "0a" * 20 + "'}", "not the secrets themselves"),
        ("TpuConfig.secrets = {'W': '" + "x" * 256 + "'}", "not the secrets themselves"),
        ("TpuConfig.package = 'other==1.0'", "anchortrain==VERSION"),
        ("TpuConfig.network = '--x y'", "TpuConfig.network is no name that gcloud takes"),
        ("TpuConfig.service_account = 'a b'", "TpuConfig.service_account is no name that gcloud takes"),
        ("TpuConfig.runtime_version = '-x'", "TpuConfig.runtime_version is no name that gcloud takes"),
        ("TpuConfig.env = {'UID': '1'}", "which bash does not let anybody set"),
        ("TpuConfig.accelerator = 'tpu7x-16'", "the Cloud TPU API has no tpu7x"),
    ],
)
def test_more_mistakes_are_refused_before_anything_is_asked(world, capsys, binding, message):
    one = world()
    refused(one, capsys, message, "submit", bindings=[binding])
    assert [argv for argv in one.cloud.state["argv"] if "storage" not in argv] == []


def test_one_name_is_no_variable_and_secret(world, capsys):
    both = ["TpuConfig.env = {'W': 'x'}", "TpuConfig.secrets = {'W': 'wandb'}"]
    refused(world(), capsys, "and TpuConfig.secrets both have ['W']", "create", bindings=both)


@pytest.mark.parametrize(
    "name, text",
    [
        (RECORD, "{"),
        (RECORD, "[]"),
        (RECORD, '{"created": "x", "owner": "me"}'),
        (RECORD, '{"created": 1, "owner": "me", "places": ["x"]}'),
        ("bucket/anchortrain/r/attempts/0.json", "7"),
        ("bucket/anchortrain/r/attempts/0.json", '{"machine": 1}'),
    ],
)
@pytest.mark.parametrize("command", ["submit", "status", "supervise"])
def test_a_damaged_object_is_named(world, capsys, command, name, text):
    one = world()
    assert one.run("create") == 0
    one.store.write(name, text)
    refused(one, capsys, f"gs://{name}: is damaged", command)


def test_damaged_lines_of_the_journal_are_left_out(tmp_path):
    one = Journal(tmp_path)
    one.write("create", project="p", zone="z", name="a")
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.write(b'[]\n7\n\xff\n{"event": 1}\n{"event": "create", "project": ["x"], "zone": {}, "name": 2}\n')
    assert list(one.open()) == [("p", "z", "a")] and one.places() == [("p", "z")] and one.owners() == []


def test_plans_are_kept_by_version_and_only_when_they_are_plans(tmp_path, monkeypatch):
    said, records = [], [{"fits": None, "error": "e"}, {"fits": True}, {"fits": True}, {"fits": True}]

    def run(*_, **__):
        return subprocess.CompletedProcess([], 0, json.dumps([records.pop(0)]))

    monkeypatch.setattr(planning.subprocess, "run", run)
    with pytest.raises(UserError, match="does not compile"):
        planning.plan(spec(), tmp_path, said.append)
    for _ in range(2):
        planning.plan(spec(), tmp_path, said.append)
    assert len(said) == 2
    [path] = (tmp_path / "plans").iterdir()
    path.write_text("[")  # damaged: made anew
    planning.plan(spec(), tmp_path, said.append)
    monkeypatch.setattr(metadata, "version", lambda name: "another")
    planning.plan(spec(), tmp_path, said.append)
    assert len(said) == 4 and not records


def test_data_that_the_bucket_lacks_is_missed_before_anything_is_paid_for(world, capsys):
    one, absent = world(), ["DataConfig.train = {'prepared/docs': 1.0, 'prepared/absent': 1.0}"]
    refused(one, capsys, "DataConfig.train: the bucket has no 'prepared/absent'", "submit", bindings=absent)
    assert one.run("doctor", bindings=absent) == 1
    assert "FAIL  data: DataConfig.train: the bucket has no 'prepared/absent'" in capsys.readouterr().out


def test_a_dry_run_sees_another_experiment(world, capsys):
    one = world()
    assert one.run("create", "--dry_run") == 0 and "ACCEPTED" not in capsys.readouterr().out
    assert one.run("create") == 0
    more = ["ModelConfig.d_model = 128"]
    refused(one, capsys, "was started with another experiment", "create", "--dry_run", bindings=more)


def test_logs_say_what_there_is(world, capsys):
    one = world()
    assert one.run("submit") == 0
    refused(one, capsys, "attempt 77 left no logs; there are 0", "logs", "--attempt", "77")
    refused(one, capsys, "no such worker; there are 0/0, 0/1", "logs", "--worker", "9/9")


def test_nothing_runs_when_the_hours_are_over(world, capsys):
    one = world(steps=10_000)
    for command in ("create", "wait", "launch"):
        assert one.run(command) == 0
    one.time += 13 * 3600
    capsys.readouterr()
    assert one.run("status") == 0
    said = capsys.readouterr().out
    assert "r: hours are over" in said and "running" not in said and "going on" not in said


def test_a_hint_names_the_gin_file(world, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_run.gin").write_text("")
    one = world(crashes={0: (50, (2, 2))})
    assert one.run("submit", "my_run.gin") == 2
    assert "python -m tpu_scripts logs my_run.gin" in capsys.readouterr().err
