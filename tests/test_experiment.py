"""The configuration: loaded, checked, written, and repeated from its own file."""

import dataclasses
import json
import re
import subprocess
import sys

import ml_collections
import pytest

from anchortrain.config import Experiment
from anchortrain.config_checks import CHOICES, RANGES
from anchortrain.errors import UserError
from anchortrain.experiment import load, load_json, save_json, to_frozen_config_dict

FIELDS = {
    f"{section.type.__name__}.{field.name}": field
    for section in dataclasses.fields(Experiment)
    for field in dataclasses.fields(section.type)
}


def test_defaults_are_valid():
    experiment = load([], [])
    assert experiment == Experiment(**{f.name: f.type() for f in dataclasses.fields(Experiment)})


def test_files_and_bindings_are_bound(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text("d = 96\nModelConfig.d_model = %d\nOptimizerConfig.learning_rate = 1\n")
    experiment = load([path], ["ModelConfig.n_heads = 6", "ModelConfig.n_kv_heads = 2"])
    assert (experiment.model.d_model, experiment.model.n_heads) == (96, 6)
    assert type(experiment.optimizer.learning_rate) is float


def test_every_number_has_a_range_and_every_name_exists():
    numbers = {name for name, field in FIELDS.items() if field.type in (int, float, dict[str, float])}
    assert set(RANGES) == numbers
    assert set(CHOICES) <= {name for name, field in FIELDS.items() if field.type is str}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_accepted(name):
    section, field = name.split(".")
    for choice in CHOICES[name]:
        loaded = load([], [f"{name} = {choice!r}"])
        assert choice in dataclasses.asdict(getattr(loaded, section.removesuffix("Config").lower()))[field]


@pytest.mark.parametrize(
    "text, message",
    [
        ("ModelConfig.d_model = 'a'", "ModelConfig.d_model must be of type int, got str 'a'"),
        ("ModelConfig.d_model = 64.0", "must be of type int, got float 64.0; write 64"),
        ("ModelConfig.d_model = True", "must be of type int, got bool True"),
        ("ModelConfig.d_model = None", "must be of type int, got NoneType None"),
        ("OptimizerConfig.learning_rate = '1'", "OptimizerConfig.learning_rate must be of type float, got str '1'"),
        ("OptimizerConfig.learning_rate = True", "must be of type float, got bool True"),
        ("OptimizerConfig.learning_rate = 1e999", "must be a finite number, got inf"),
        ("DataConfig.train = 'd'", "DataConfig.train must be of type dict[str, float], got str 'd'"),
        ("DataConfig.train = {'d': 'x'}", "DataConfig.train['d'] must be of type float, got str 'x'"),
        ("DataConfig.train = {1: 1}", "a key of DataConfig.train must be of type str, got int 1"),
        ("DataConfig.train = {'d': 0}", "DataConfig.train['d'] must be positive, got 0.0"),
        ("DataConfig.heldout = {'d': 1}", "DataConfig.heldout['d'] must be of type str, got int 1"),
        ("OptimizerConfig.name = 'adam'", "must be one of 'adamw', 'muon', got 'adam'; did you mean 'adamw'?"),
        ("LossConfig.objective = 'pretrain'", "must be one of 'masked', 'unmasked', got 'pretrain'"),
        ("LossConfig.syntax_share = 3", "LossConfig.syntax_share must be between 0 and 1, got 3.0"),
        ("OptimizerConfig.beta2 = 1", "OptimizerConfig.beta2 must be at least 0 and less than 1, got 1.0"),
        ("RunConfig.tokens = 0", "RunConfig.tokens must be positive, got 0"),
        ("MeshConfig.fsdp = 0", "MeshConfig.fsdp must be positive, or -1 for whatever is left, got 0"),
        ("MeshConfig.fsdp = -1", "only one axis of MeshConfig may be -1, got data and fsdp"),
        ("ModelConfig.n_heads = 5", "ModelConfig.n_heads must divide ModelConfig.d_model (64), got 5"),
        ("ModelConfig.n_kv_heads = 3", "ModelConfig.n_kv_heads must divide ModelConfig.n_heads (4), got 3"),
        ("ModelConfig.n_heads = 64", "ModelConfig.d_model / n_heads must be even for RoPE, got 64 / 64"),
        ("RunConfig.accumulation = 3", "RunConfig.accumulation must divide DataConfig.batch_rows (8), got 3"),
        ("LossConfig.anchor_weight = 1", "LossConfig.anchor_data must name the draws"),
    ],
)
def test_wrong_values_name_place_field_and_value(tmp_path, text, message):
    path = tmp_path / "a.gin"
    path.write_text(f"\n{text}\n" + ("ModelConfig.n_kv_heads = 64\n" if text.endswith("n_heads = 64") else ""))
    with pytest.raises(UserError) as caught:
        load([path])
    assert message in str(caught.value) and str(caught.value).startswith(f"{path}:2: ")


def test_relations_that_depend_on_a_switch():
    draws = "LossConfig.anchor_data = 'd'"
    load([], ["LossConfig.anchor_rows = 3", "RunConfig.accumulation = 2"])
    with pytest.raises(UserError, match=r"RunConfig.accumulation must divide LossConfig.anchor_rows \(3\)"):
        load([], ["LossConfig.anchor_weight = 1", draws, "LossConfig.anchor_rows = 3", "RunConfig.accumulation = 2"])
    load([], ["OptimizerConfig.decay_share = 1.0"])
    with pytest.raises(UserError, match=r"warmup_share \+ decay_share must be at most 1"):
        load([], ["OptimizerConfig.decay_share = 1.0", "OptimizerConfig.schedule = 'wsd'"])


@pytest.fixture
def saved(tmp_path):
    bindings = [
        "DataConfig.train = {'z/b.c': 0.1, './a': 3}",
        "OptimizerConfig.learning_rate = 0.1",
        "RunConfig.seed=7",
    ]
    experiment = load([], bindings)
    save_json(experiment, tmp_path / "config.json")
    return experiment, tmp_path / "config.json"


def test_a_run_is_repeated_from_its_own_file(saved):
    experiment, path = saved
    assert load_json(path) == experiment
    assert list(load_json(path).data.train.items()) == [("z/b.c", 0.1), ("./a", 3.0)]  # order is part of the run
    assert {"anchortrain", "jax", "flax", "optax", "orbax-checkpoint", "grain", "python"} == set(
        json.loads(path.read_text())["versions"]
    )
    before = path.read_bytes()
    save_json(load_json(path), path)
    assert path.read_bytes() == before


def test_the_git_commit_is_whole(saved):
    commit = json.loads(saved[1].read_text())["git_commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


def test_frozen_config_dict(saved):
    frozen = to_frozen_config_dict(saved[0])
    assert isinstance(frozen, ml_collections.FrozenConfigDict)
    assert frozen.model.d_model == 64 and frozen.data.train == (("z/b.c", 0.1), ("./a", 3.0))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["model"].update(d_modle=1), "unknown name 'd_modle' in model; did you mean 'd_model'?"),
        (lambda c: c["model"].pop("d_ff"), "model lacks 'd_ff'"),
        (lambda c: c.pop("mesh"), "the configuration lacks 'mesh'"),
        (lambda c: c.update(extra=1), "unknown name 'extra' in the configuration"),
        (lambda c: c.update(model=[]), "model must be an object, got list"),
        (lambda c: c["model"].update(d_model="64"), "ModelConfig.d_model must be of type int, got str '64'"),
        (lambda c: c["model"].update(n_heads=5), "ModelConfig.n_heads must divide"),
        (lambda c: c["data"].update(train=[[[], 1]]), "DataConfig.train must be of type dict[str, float], got list"),
        (lambda c: c["optimizer"].update(eps=float("nan")), "OptimizerConfig.eps must be a finite number, got nan"),
    ],
)
def test_damaged_json(saved, change, message):
    _, path = saved
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        load_json(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_missing_and_broken_json(tmp_path):
    with pytest.raises(UserError, match="config.json: cannot read the configuration: No such file"):
        load_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"model":\n')
    with pytest.raises(UserError, match="config.json: is not JSON: .*line 2"):
        load_json(tmp_path / "config.json")


def test_loading_imports_neither_jax_nor_tensorflow():
    script = (
        "import sys; from anchortrain.experiment import load, to_frozen_config_dict\n"
        "to_frozen_config_dict(load([], ['RunConfig.seed = 1']))\n"
        "print(*{'jax', 'flax', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
