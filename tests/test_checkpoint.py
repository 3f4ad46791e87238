"""Run directories: what is saved is what is loaded, onto any mesh; damage is one clear line."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchortrain import experiment as experiments
from anchortrain.checkpoint import CHECKPOINTS, CONFIG, CheckpointStore, RunInfo, copy_vocabulary, load_run
from anchortrain.config import CheckpointConfig, MeshConfig
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.model.parameters import params_of
from anchortrain.sharding import make_mesh
from anchortrain.train_step import init_params, param_shardings

EXPERIMENT = experiments.load([], ["ModelConfig.d_model = 16", "ModelConfig.n_layers = 1", "ModelConfig.d_ff = 16"])
MESH = make_mesh(MeshConfig(data=1, fsdp=8))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint of step 3, saved from eight devices."""
    root = tmp_path_factory.mktemp("run")
    (root / "a.jsonl").write_text('{"text": "the fox ran to the mill"}\n')
    train_tokenizer([root / "a.jsonl"], vocab_size=270, out=root / "tokenizer.json")
    vocabulary, run_dir = Vocabulary.from_path(root / "tokenizer.json"), root / "run"
    run_dir.mkdir()
    copy_vocabulary(vocabulary, run_dir)
    RunInfo(vocabulary.hash, vocabulary.size, vocabulary.file_name, ["hero"], 64).write(run_dir)
    experiments.save_json(EXPERIMENT, run_dir / CONFIG)
    store = CheckpointStore(run_dir, CheckpointConfig(keep=2))
    save(store, 3, init_params(EXPERIMENT.model, vocabulary.size, 3, MESH))
    store.close()
    return run_dir


def save(store, step, params) -> None:
    state = {"params": params, "optimizer": {"count": jnp.asarray(step)}}
    store.save(step, state, {"loaders": {"train": {"step": step, "waiting": [1, 2]}}})


@pytest.fixture
def copied(run, tmp_path):
    """A copy to damage."""
    return shutil.copytree(run, tmp_path / "run")


def test_what_was_saved_is_loaded(run):
    loaded = load_run(run)
    expected = init_params(EXPERIMENT.model, loaded.info.vocabulary_size, 3, MESH)
    jax.tree.map(np.testing.assert_array_equal, params_of(loaded.model), expected)
    assert (loaded.step, loaded.experiment, loaded.info.annotation_keys) == (3, EXPERIMENT, ["hero"])
    assert loaded.vocabulary.hash == loaded.info.vocabulary_hash
    assert {leaf.sharding for leaf in jax.tree.leaves(params_of(loaded.model))} == {
        jax.sharding.SingleDeviceSharding(jax.devices()[0])
    }


def test_a_checkpoint_is_restored_onto_another_mesh(run):
    expected = params_of(load_run(str(run)).model)
    for config in (MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=8)):
        shardings = param_shardings(make_mesh(config), expected)
        found = params_of(load_run(run, shardings).model)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert all(jax.tree.leaves(jax.tree.map(lambda x, at: x.sharding == at, found, shardings)))


def test_the_last_ones_are_kept_and_metadata_comes_back(copied):
    store = CheckpointStore(copied, CheckpointConfig(keep=2))
    assert store.latest == 3
    params = params_of(load_run(copied).model)
    for step in (4, 5):
        save(store, step, params)
    store.wait()
    assert store.latest == 5 and sorted(path.name for path in (copied / CHECKPOINTS).iterdir()) == ["4", "5"]
    assert store.metadata(5) == {"loaders": {"train": {"step": 5, "waiting": [1, 2]}}}
    assert store.load(4, {"optimizer": {"count": jax.ShapeDtypeStruct((), jnp.int32)}})["optimizer"]["count"] == 4
    store.close()


def test_what_a_killed_writer_left_is_neither_read_nor_kept(copied):
    checkpoints = copied / CHECKPOINTS
    half = shutil.copytree(checkpoints / "3", checkpoints / "4.orbax-checkpoint-tmp")
    assert load_run(copied).step == 3 and half.exists()
    store = CheckpointStore(copied, CheckpointConfig())
    assert store.latest == 3
    save(store, 4, init_params(EXPERIMENT.model, 300, 0, MESH))
    store.close()
    assert sorted(path.name for path in checkpoints.iterdir()) == ["3", "4"]


def truncate_arrays(run_dir):
    for path in (run_dir / CHECKPOINTS / "3" / "params").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])


def change_vocabulary_hash(run_dir):
    content = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(content | {"vocabulary_hash": "0"}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (shutil.rmtree, "run: no such run directory; make it with `anchortrain train --out`"),
        (lambda run: (run / "run.json").unlink(), "run: not a run directory; make it"),
        (lambda run: (run / "run.json").write_text("{"), "run.json: cannot be read: "),
        (lambda run: (run / "run.json").write_text("[]"), "run.json: cannot be read: "),
        (lambda run: (run / CONFIG).unlink(), "config.json: cannot read the configuration"),
        (lambda run: (run / CONFIG).write_text("[]"), "config.json: the configuration must be an object"),
        (lambda run: (run / "tokenizer.json").unlink(), "tokenizer.json: cannot read the tokenizer"),
        (change_vocabulary_hash, "tokenizer.json: is not the vocabulary that the run was"),
        (lambda run: shutil.rmtree(run / CHECKPOINTS), "run: has no checkpoint yet; let `anchortrain train` reach"),
        (lambda run: shutil.rmtree(run / CHECKPOINTS / "3"), "run: has no checkpoint yet; let `anchortrain train`"),
        (lambda run: shutil.rmtree(run / CHECKPOINTS / "3" / "params"), "checkpoints/3: cannot be restored: "),
        (truncate_arrays, "checkpoints/3: cannot be restored: "),
    ],
)
def test_a_run_that_cannot_be_loaded_is_one_clear_line(copied, damage, message):
    damage(copied)
    with pytest.raises(UserError) as caught:
        load_run(copied)
    assert message in str(caught.value) and "\n" not in str(caught.value)
