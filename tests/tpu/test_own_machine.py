"""The user's own machine: disks, terminals, users, a gcloud that cannot be run. One line, never a traceback."""

import contextlib
import errno
import getpass
import os
import signal
import subprocess
import time
import zipfile
from types import SimpleNamespace

import pytest

from anchortrain.errors import UserError
from tests.tpu.conftest import BINDINGS, refused, spec
from tpu_scripts import gcloud, packages, planning
from tpu_scripts import spec as specs
from tpu_scripts.gcloud import Interrupted
from tpu_scripts.terminal import interruptible


def test_without_a_journal_nothing_is_created(world, capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    one = world()
    monkeypatch.setattr(os, "fsync", full)
    refused(one, capsys, "journal.jsonl: cannot be written: No space left on device", "submit")
    assert one.cloud.state["made"] == 0


def test_a_state_directory_that_cannot_be_made(world, capsys):
    one = world()
    one.journal.directory.write_text("")
    refused(one, capsys, "File exists", "submit")


def test_a_gcloud_that_cannot_be_run(tmp_path):
    path = tmp_path / "gcloud"
    path.write_text("#!/bin/sh\n")
    with pytest.raises(UserError, match="gcloud cannot be run: Permission denied"):
        gcloud.execute([str(path)], None, 5.0)
    with pytest.raises(UserError, match="true cannot be run: Argument list too long"):
        gcloud.execute(["true", "x" * 10_000_000], None, 5.0)
    with pytest.raises(UserError, match="nowhere is not installed"):
        gcloud.execute(["nowhere"], None, 5.0)


def test_a_command_that_does_not_end_when_it_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(gcloud, "_END_SECONDS", 0.2)
    pid = tmp_path / "pid"
    script = f"trap '' TERM; echo $$ >{pid}; sleep 0.5; kill -INT {os.getpid()}; while :; do sleep 0.1; done"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            gcloud.execute(["bash", "-c", script], None, 30.0)
    finally:
        signal.signal(signal.SIGINT, before)
    with contextlib.suppress(ChildProcessError):  # it has ended, and subprocess has taken note
        for _ in range(100):
            if os.waitpid(int(pid.read_text()), os.WNOHANG)[0]:
                return
            time.sleep(0.1)
        pytest.fail("it runs on")


def test_a_user_without_a_name(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    with pytest.raises(UserError, match="TpuConfig.owner must be of a-z, 0-9 and '-', got ''; bind TpuConfig.owner"):
        specs.load([], [line for line in BINDINGS if "owner" not in line])


def test_signals_that_come_at_once_do_not_cut_the_way_out_off():
    with interruptible():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_a_plan_that_ends_with_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(planning.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, ""))
    with pytest.raises(UserError, match="the run cannot be planned, see above"):
        planning.plan(spec(), tmp_path, print)


@pytest.mark.parametrize(
    "location, zone, right",
    [
        ("EU", "europe-west4-a", True),
        ("US", "us-east5-a", True),
        ("ASIA", "asia-northeast1-b", True),
        ("EU", "us-east5-a", False),
        ("EUROPE-WEST1", "europe-west4-a", False),
    ],
)
def test_multi_regions(world, capsys, location, zone, right):
    one = world(location=location)
    assert one.run("create", bindings=[f"TpuConfig.zones = ({zone!r},)"]) == (0 if right else 2)
    assert right or f"lies in {location.lower()}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_APIKEY", "AWS_ACCESS_KEY_ID", "db_password2", "API_KEYS"])
def test_variables_that_look_like_secrets(name):
    with pytest.raises(UserError, match=f"TpuConfig.env has {name}, which looks like a secret"):
        spec(f"TpuConfig.env = {{{name!r}: 'x'}}")


def test_values_that_look_like_secrets():
    with pytest.raises(UserError, match="TpuConfig.env has W, which looks like a secret"):
        spec("TpuConfig.env = {'W': 'hf_" + "a" * 34 + "'}")
    one = spec("TpuConfig.env = {'TOKENIZERS_PARALLELISM': 'false', 'COMMIT': '" + "0a" * 20 + "'}")
    assert one.tpu.env["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.parametrize("binding", ["poll_seconds = 1e9", "upload_seconds = 4000.0", "poll_seconds = -1.0"])
def test_pauses_have_a_limit(binding):
    with pytest.raises(UserError, match="must be more than 0 and at most 3600"):
        spec(f"TpuConfig.{binding}")


def test_the_package_is_built_outside_the_checkout(tmp_path, monkeypatch):
    """`build/` of an earlier build would go into the wheel, and runs of a study build at once."""
    root = tmp_path / "checkout"
    (root / "anchortrain").mkdir(parents=True)
    (root / "build/lib/anchortrain").mkdir(parents=True)
    (root / "build/lib/anchortrain/gone.py").write_text("")
    (root / "anchortrain/__init__.py").write_text("")
    (root / "constraints.txt").write_text("jax==1\n")
    (root / "setup.cfg").write_text("[metadata]\nname = anchortrain\nversion = 1\n[options]\npackages = find:\n")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(packages, "ROOT", root)
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # as pip has it: "no" is false, so the setuptools that is here
    uploaded = {}

    class Bucket:
        def upload(self, path, url):
            uploaded[url] = zipfile.ZipFile(path).namelist()

        def write(self, url, text):
            uploaded[url] = text

    context = SimpleNamespace(say=print, url=lambda name: f"gs://b/{name}", storage=Bucket())
    package, constraints = packages._build(context)
    assert "anchortrain/__init__.py" in uploaded[package] and "anchortrain/gone.py" not in uploaded[package]
    assert uploaded[constraints] == "jax==1\n" and sorted(root.rglob("*")) == before
