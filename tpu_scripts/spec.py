"""The specification of a run on TPUs, bound by gin beside the experiment that it trains.

include 'gin_configs/olmo/pretrain_2p5b.gin'      # or TpuConfig.gin_files, or both
TpuConfig.run = 'base-2p5b'
TpuConfig.accelerator = 'v5p-32'
"""

import dataclasses
import getpass
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from anchortrain.config import Experiment
from anchortrain.config_checks import check_values
from anchortrain.config_reader import build, read_bindings, sections
from anchortrain.errors import UserError
from anchortrain.gin_reader import Bound
from anchortrain.nearest import suggest
from anchortrain.plan.slices import Slice, parse_slice

CAPACITIES = ("spot", "reserved", "on_demand")


@dataclasses.dataclass(frozen=True)
class TpuConfig:
    """One run on one machine: a TPU slice, or several. Every field but the first group has a default."""

    run: str = ""  # its name, also that of the machine and of the folder in the bucket
    project: str = ""
    zones: tuple[str, ...] = ()  # tried in this order
    accelerator: str = ""  # one slice: v5p-32, v6e-64; v5e-16 may be called v5litepod-16
    bucket: str = ""  # gs://NAME, or NAME
    max_hours: float = 0.0  # the run may hold machines until so long after its first submission; then they are deleted

    slices: int = 1
    capacity: str = "spot"  # or "reserved", "on_demand"
    owner: str = ""  # in labels and names; default the user who is logged in
    prefix: str = "anchortrain"  # folder of all runs in the bucket
    gin_files: tuple[str, ...] = ()  # of the experiment, beside what the file itself binds; looked for beside that file
    gin_bindings: tuple[str, ...] = ()  # such as "RunConfig.accumulation = 8"
    # "": this checkout, built and uploaded. Or gs://.../anchortrain-....whl, or a pinned version: anchortrain==0.1.0
    package: str = ""
    max_attempts: int = 50  # starts of the training, over all machines
    wait_minutes: float = 60.0  # for capacity in one zone, before the next is tried
    ssh_minutes: float = 20.0  # that ssh may fail on a machine that Google calls well, before it is given up
    allow_cross_region: bool = False  # zones outside the bucket's region: traffic is slow and is paid for
    runtime_version: str = ""  # default by generation
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    internal_ips: bool = False  # no external addresses; needs Private Google Access, a NAT, and tunnel_through_iap
    tunnel_through_iap: bool = False
    env: dict[str, str] = dataclasses.field(default_factory=dict)  # of the training process; nothing secret
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)  # variable -> name in Secret Manager
    mount: str = "/gcs"  # where machines mount buckets; the bucket is the working directory of the run
    image: str = ""  # of containers on GKE, for render-jobset
    poll_seconds: float = 30.0
    upload_seconds: float = 60.0  # between two uploads of a worker's log


@dataclasses.dataclass(frozen=True)
class TpuStudyConfig:
    """Sizes x methods x seeds as runs on TPUs. `{size}`, `{method}` and `{seed}` are replaced."""

    sizes: tuple[str, ...] = ()
    methods: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # method -> gin files
    seeds: int = 1
    # Method -> method of the same size and seed that it starts from (RunConfig.init_from), and so waits for.
    starts_from: dict[str, str] = dataclasses.field(default_factory=dict)
    accelerators: dict[str, str] = dataclasses.field(default_factory=dict)  # size -> slice, else TpuConfig.accelerator
    max_hours: dict[str, float] = dataclasses.field(default_factory=dict)  # size -> hours, else TpuConfig.max_hours
    gin_bindings: tuple[str, ...] = ("RunConfig.seed = {seed}", "DataConfig.seed = {seed}")
    concurrency: int = 2  # runs that hold machines at the same time
    max_chip_hours: float = 0.0  # of the whole study; it is refused when its runs may take more


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What one gin file may bind here that is not the experiment's."""

    tpu: TpuConfig
    study: TpuStudyConfig


_Everything = dataclasses.make_dataclass("_Everything", [*sections(Experiment).items(), *sections(_Settings).items()])


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A checked specification; what every command works on."""

    tpu: TpuConfig
    owner: str
    where: Slice  # all slices
    experiment: str  # a gin file of resolved bindings, one a line

    @property
    def name(self) -> str:
        """Of the queued resource; the same at every attempt, so that creating is idempotent."""
        return f"{self.owner}-{self.tpu.run}"

    @property
    def bucket(self) -> str:
        """Without gs://."""
        return self.tpu.bucket

    @property
    def folder(self) -> str:
        """Of the run, relative to the bucket."""
        return f"{self.tpu.prefix}/{self.tpu.run}"

    @property
    def url(self) -> str:
        return f"gs://{self.bucket}/{self.folder}"

    @property
    def train_dir(self) -> str:
        """What `anchortrain train --out` is given, relative to the bucket. Depends on the run's name only."""
        return f"{self.folder}/train"

    @property
    def chip_hours(self) -> float:
        """Chips x hours that the run can take at most."""
        return self.where.chips * self.tpu.max_hours

    @property
    def machine_hash(self) -> str:
        """Tells machines apart: one that was made otherwise is not taken for this run's."""
        fields = ("accelerator", "slices", "capacity", "runtime_version", "service_account", "network", "subnetwork")
        values = [str(getattr(self.tpu, name)) for name in (*fields, "internal_ips")]
        return hashlib.sha256("\0".join(values).encode()).hexdigest()[:12]


def load(gin_files: Sequence[str | Path], bindings: Sequence[str] = ()) -> RunSpec:
    """The run that gin files and then single bindings describe. Raises UserError with file and line."""
    tpu, _, bound = read(gin_files, bindings)
    return make(tpu, bound)


def read(
    gin_files: Sequence[str | Path], bindings: Sequence[str] = ()
) -> tuple[TpuConfig, TpuStudyConfig, dict[str, Bound]]:
    """What is bound: the run, the study, and `Class.field` -> value of everything. Raises UserError."""
    if not gin_files and not bindings:
        raise UserError("there is no run", mend="name a gin file that binds TpuConfig")
    bound = read_bindings(_Everything, gin_files, bindings)
    settings = build(_Settings, bound)
    return settings.tpu, settings.study, bound


def make(tpu: TpuConfig, bound: Mapping[str, Bound]) -> RunSpec:
    """Checks a run. `bound` says where fields were bound, and holds what the gin files bind of the experiment."""
    tpu = dataclasses.replace(tpu, bucket=tpu.bucket.removeprefix("gs://").rstrip("/"))
    owner = tpu.owner or default_owner()
    for field, right, what, mend in _rules(tpu, owner):
        if not right:
            name = f"TpuConfig.{field}"
            raise UserError(f"{name} {what}", where=bound[name].where if name in bound else None, mend=mend)
    one = _slice(tpu, bound)
    return RunSpec(tpu, owner, dataclasses.replace(one, count=tpu.slices), _experiment(tpu, bound))


def default_owner() -> str:
    """Whoever is logged in, as labels allow it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""
    return re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:16].rstrip("-")


_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
# As the end of a word: HF_TOKEN and APIKEY_2, not TOKENIZERS_PARALLELISM.
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?\d*(_|$)", re.IGNORECASE)
# Only what Cloud Storage and every shell take as it is.
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_PACKAGE = re.compile(r"|gs://\S+\.whl|anchortrain==[A-Za-z0-9_.+!-]+")
_TOKEN = re.compile(r"\b(hf_|sk-|gh[pousr]_|glpat-|AIza)[\w-]{16,}")  # a secret, by its shape
_VALUE = re.compile(rf"{_TOKEN.pattern}|[0-9a-fA-F]{{40,}}")  # the latter may be a commit where it is no name
_READ_ONLY = ("BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID")  # in bash, which sets the others


def _rules(tpu: TpuConfig, owner: str) -> list[tuple[str, bool, str, str | None]]:
    """(field, whether it is right, what is wrong if not, how to mend it)"""
    wrong_zone = next((z for z in tpu.zones if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", z)), None)
    secret = next((name for name, value in tpu.env.items() if _SECRET.search(name) or _TOKEN.search(value)), None)
    variables = [name for name in (*tpu.env, *tpu.secrets) if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)]
    names = [name for name in tpu.secrets.values() if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name)]
    names += [name for name in tpu.secrets.values() if _VALUE.fullmatch(name)]
    fixed = [name for name in (*tpu.env, *tpu.secrets) if name in _READ_ONLY]
    twice = sorted(set(tpu.env) & set(tpu.secrets))
    words = {
        "network": r"[a-z0-9][a-z0-9./:-]*",
        "subnetwork": r"[a-z0-9][a-z0-9./:-]*",
        "service_account": r"[a-z0-9]([a-z0-9@._:-]*[a-z0-9])?",
        "runtime_version": r"[a-z0-9][a-z0-9._-]*",
    }
    length = len(owner) + 1 + len(tpu.run)
    return [
        (
            "run",
            bool(_NAME.fullmatch(tpu.run)),
            f"must be of a-z, 0-9 and '-', beginning with a letter, got {tpu.run!r}",
            "it names machines and folders",
        ),
        ("owner", bool(_NAME.fullmatch(owner)), f"must be of a-z, 0-9 and '-', got {owner!r}", "bind TpuConfig.owner"),
        ("run", length <= 40, f"is too long: {owner}-{tpu.run} has {length} characters, at most 40", None),
        (
            "project",
            bool(re.fullmatch(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", tpu.project)),
            f"must be a project's id, got {tpu.project!r}",
            "see `gcloud projects list`",
        ),
        ("zones", bool(tpu.zones), "is empty", "name one or several, such as ('us-east5-a',)"),
        ("zones", wrong_zone is None, f"has {wrong_zone!r}, which is no zone", "zones are called like us-east5-a"),
        ("zones", len(set(tpu.zones)) == len(tpu.zones), "names a zone twice", None),
        (
            "bucket",
            bool(re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", tpu.bucket)),
            f"must be gs://NAME, got {tpu.bucket!r}",
            "folders go into TpuConfig.prefix",
        ),
        (
            "prefix",
            bool(_PATH.fullmatch(tpu.prefix)),
            f"must be a folder such as 'anchortrain', got {tpu.prefix!r}",
            None,
        ),
        (
            "mount",
            bool(re.fullmatch(rf"/{_PATH.pattern}", tpu.mount)),
            f"must be an absolute path, got {tpu.mount!r}",
            None,
        ),
        (
            "max_hours",
            0 < tpu.max_hours <= 24 * 366,
            f"must be more than 0 and at most a year's, got {tpu.max_hours:g}",
            "say how long machines may be held: what outlives it is deleted",
        ),
        ("slices", tpu.slices >= 1, f"must be at least 1, got {tpu.slices}", None),
        ("capacity", tpu.capacity in CAPACITIES, f"is {tpu.capacity!r}", suggest(tpu.capacity, CAPACITIES)),
        (
            "package",
            bool(_PACKAGE.fullmatch(tpu.package)),
            f"must be '', a gs:// wheel or anchortrain==VERSION, got {tpu.package!r}",
            "every worker and attempt must install the same",
        ),
        ("max_attempts", tpu.max_attempts >= 1, f"must be at least 1, got {tpu.max_attempts}", None),
        ("wait_minutes", tpu.wait_minutes > 0, "must be positive", None),
        ("ssh_minutes", tpu.ssh_minutes > 0, "must be positive", None),
        *(
            (field, 0 < getattr(tpu, field) <= 3600, "must be more than 0 and at most 3600", None)
            for field in ("poll_seconds", "upload_seconds")
        ),
        ("env", secret is None, f"has {secret}, which looks like a secret", "name it in TpuConfig.secrets instead"),
        ("env", not variables, f"has {variables[:1]}, which is no name of a variable", None),
        (
            "env",
            "TPU_SKIP_MDS_QUERY" not in tpu.env,
            "must not have TPU_SKIP_MDS_QUERY: jax would not find the pod",
            None,
        ),
        ("env", not fixed, f"or secrets has {fixed[:1]}, which bash does not let anybody set", None),
        ("env", not twice, f"and TpuConfig.secrets both have {twice[:1]}", "name it in one of them"),
        *(
            (field, not value or bool(re.fullmatch(form, value)), f"is no name that gcloud takes: {value!r}", None)
            for field, form in words.items()
            for value in [getattr(tpu, field)]
        ),
        ("secrets", not names, "must hold names in Secret Manager, not the secrets themselves", None),
        (
            "internal_ips",
            not tpu.internal_ips or tpu.tunnel_through_iap,
            "needs TpuConfig.tunnel_through_iap = True: ssh would find no address",
            None,
        ),
    ]


def _slice(tpu: TpuConfig, bound: Mapping[str, Bound]) -> Slice:
    name = "TpuConfig.accelerator"
    where = bound[name].where if name in bound else None
    try:
        one = parse_slice(tpu.accelerator)
    except UserError as error:
        raise UserError(f"{name}: {str(error).removeprefix('--slice: ')}", where=where) from None
    if one.count > 1:
        raise UserError(f"{name} is one slice", where=where, mend=f"bind TpuConfig.slices = {one.count} beside it")
    return one


def _experiment(tpu: TpuConfig, bound: Mapping[str, Bound]) -> str:
    """The gin file that machines are given. Its values went through the parser here: nothing is left to a shell."""
    files = [_beside(name, bound["TpuConfig.gin_files"].where) for name in tpu.gin_files]
    own = {f"{cls.__name__}.{f.name}" for cls in sections(Experiment).values() for f in dataclasses.fields(cls)}
    found = read_bindings(Experiment, files, tpu.gin_bindings) | {k: v for k, v in bound.items() if k in own}
    slices = found.get("MeshConfig.slices", Bound(tpu.slices, ""))
    if tpu.slices > 1:
        found["MeshConfig.slices"] = slices
    if slices.value != tpu.slices:
        raise UserError(
            f"MeshConfig.slices is {slices.value}, TpuConfig.slices {tpu.slices}", where=slices.where, mend="remove it"
        )
    check_values(build(Experiment, found), {name: one.where for name, one in found.items()})
    for name, one in found.items():
        if "gs://" in repr(one.value):
            what = f"{name} names gs://, which training does not read"
            raise UserError(what, where=one.where, mend="write the path in the bucket, such as 'prepared/docs'")
    if not found.get("DataConfig.train", Bound({}, "")).value:
        raise UserError("the experiment has no DataConfig.train", mend="name gin files in TpuConfig.gin_files")
    return "".join(f"{name} = {found[name].value!r}\n" for name in sorted(found))


def _beside(name: str, where: str) -> Path:
    """As gin's `include`: beside the file that names it, then as it is given."""
    near = Path(where.rpartition(":")[0]).parent / name
    if not near.exists() and not Path(name).exists():
        raise UserError(f"no such gin file: {name}", where=where, mend="paths are taken from there, or from here")
    return near if near.exists() else Path(name)


# What may differ when a run is continued, see docs/parallelism.md.
_FREE = re.compile(
    r"(Mesh|Checkpoint|Evaluate)Config\.|RunConfig\.(log_every|compiler_profile) |ModelConfig\.(remat|attention) "
)


def differences(old: str, new: str) -> list[str]:
    """Lines of `new` and `old` that differ in what must stay the same over a run's attempts."""
    before, after = set(old.splitlines()), set(new.splitlines())
    return sorted(line for line in before ^ after if not _FREE.match(line))
