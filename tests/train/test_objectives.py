"""Every objective trains, and does what it is for."""

import dataclasses
import json
import math

import numpy as np
import pytest

from anchortrain.checkpoint import CHECKPOINTS, load_run
from anchortrain.data.prepared import PreparedDataset, PreparedWriter
from anchortrain.draw import draw, with_distributions
from anchortrain.errors import UserError
from anchortrain.metrics import read_metrics
from anchortrain.model.parameters import params_of
from anchortrain.roles import Role
from anchortrain.train import Trainer, train
from tests.train.conftest import LENGTH, ROWS, experiment

ANCHOR = ["LossConfig.anchor_weight = 1.0", "LossConfig.anchor_rows = 8"]
STORED = [*ANCHOR, "LossConfig.anchor_reference = 'stored'"]


def test_pretraining_lowers_the_loss_of_every_role(base):
    lines = read_metrics(base / "metrics.jsonl")
    logged = [line for line in lines if "train/loss/text_term" in line]
    assert [line["step"] for line in logged] == list(range(1, 61))
    assert logged[-1]["tokens"] == 60 * LENGTH * ROWS
    for role in ("annotation_key", "annotation_value", "text"):
        assert logged[-1][f"train/loss/{role}"] < 0.7 * logged[0][f"train/loss/{role}"]
    heldout = lines[-1]
    assert (
        heldout["heldout/documents/loss"] < 3.0 < math.log(330) and 0 <= heldout["heldout/documents/accuracy/text"] <= 1
    )
    finished = json.loads((base / "finished.json").read_text())
    assert (
        finished["steps"] == 60 and finished["heldout"]["heldout/documents/loss"] == heldout["heldout/documents/loss"]
    )


@pytest.fixture(scope="module")
def stored_draws(data, base, tmp_path_factory):
    """name -> the same draws with the base's distributions over the k most probable tokens, k of 300 and 4."""
    loaded, found = load_run(base), {}
    for name in ("draws", "heldout_draws"):
        for top_k in (300, 4):
            examples = with_distributions(
                loaded.model, data.vocabulary, list(PreparedDataset(getattr(data, name))), top_k
            )
            out = tmp_path_factory.mktemp("stored") / name
            described = {"kind": "draws", "annotated": True, "vocabulary": data.vocabulary, "max_length": LENGTH}
            with PreparedWriter(out, **described, stored_top_k=top_k) as writer:
                for example in examples:
                    writer.add(example)
                writer.finish()
            found[name, top_k] = out
    return found


@pytest.fixture(scope="module")
def runs(data, base, stored_draws, tmp_path_factory):
    """name -> (held-out metrics, lines of metrics) of post-training runs."""
    reverse, own = "LossConfig.anchor_direction = 'reverse'", "LossConfig.anchor_source = 'data'"
    js, often = "LossConfig.anchor_direction = 'js'", "EvaluateConfig.every_steps = 5"
    replay = f"DataConfig.train = {{{str(data.documents)!r}: 0.4, {str(data.instructions)!r}: 0.6}}"
    common = {"steps": 25, "init_from": base, "heldout": {"draws": data.heldout_draws, "text": data.instructions}}
    documents = common["heldout"] | {"documents": data.heldout}
    masked, root = common | {"train": data.instructions}, tmp_path_factory.mktemp("runs")
    settings = {
        "standard": experiment(**common, train=data.plain),
        "masked": experiment("LossConfig.syntax_share = 0.5", often, **masked | {"heldout": documents}),
        "unmasked": experiment("LossConfig.objective = 'unmasked'", **masked),
        "draws forward": experiment(*ANCHOR, often, **masked, anchor_data=data.draws),
        "stored 300": experiment(*STORED, **masked, anchor_data=stored_draws["draws", 300]),
        "stored 4": experiment(*STORED, **masked, anchor_data=stored_draws["draws", 4]),
        "draws reverse": experiment(*ANCHOR, reverse, **masked, anchor_data=data.draws),
        "draws js": experiment(*ANCHOR, js, **masked, anchor_data=data.draws),
        "data reverse": experiment(*ANCHOR, own, reverse, **masked),
        "replay, draws": experiment(*ANCHOR, replay, **common | {"heldout": documents}, anchor_data=data.draws),
        "replay, data": experiment(*ANCHOR, own, replay, **common | {"heldout": documents}),
    }
    found = {}
    for name, one in settings.items():
        heldout = train(one, root / name)
        found[name] = heldout, read_metrics(root / name / "metrics.jsonl")
    return found


@pytest.mark.parametrize("name", ["standard", "masked", "unmasked"])
def test_post_training_learns_the_response(runs, name):
    heldout, lines = runs[name]
    assert heldout["heldout/text/loss/text"] < 0.5 * lines[0]["train/loss/text"]
    assert not any("anchor" in key for line in lines for key in line)


def test_masked_and_unmasked_train_on_other_tokens(runs):
    masked, unmasked = runs["masked"][0], runs["unmasked"][0]
    # The narrow data's annotations are learned only where they are trained on.
    assert unmasked["heldout/text/loss/annotation_value"] < 0.3 * masked["heldout/text/loss/annotation_value"]


@pytest.mark.parametrize("name", ["draws forward", "draws reverse", "draws js", "data reverse", "replay, data"])
def test_the_anchor_is_logged_and_starts_at_zero(runs, name):
    heldout, lines = runs[name]
    kl = [line["train/anchor/kl"] for line in lines if "train/anchor/kl" in line]
    assert len(kl) == 25 and abs(kl[0]) < 1e-4 and all(math.isfinite(x) for x in kl) and max(kl) > 1e-3
    assert heldout["heldout/text/loss/text"] < 0.5 * runs["masked"][1][0]["train/loss/text"]


def test_the_anchor_on_draws_prevents_drift(runs):
    drift = {name: heldout["heldout/draws/kl"] for name, (heldout, _) in runs.items()}
    assert 0 < drift["draws forward"] < 0.3 * drift["masked"]
    assert 0 < drift["draws reverse"]
    # It is forward divergence whatever the anchor's: Jensen-Shannon, which is less, does not stand in for it.
    logged = [line["train/anchor/kl"] for line in runs["draws js"][1] if "train/anchor/kl" in line]
    assert logged[-1] < 0.7 * drift["draws js"] < 0.3 * drift["masked"]


def test_drift_grows_under_masking_and_not_under_the_anchor(runs):
    def drift(name: str) -> np.ndarray:
        """Mean and its standard error after every fifth step, [5, 2]."""
        lines = [line for line in runs[name][1] if "heldout/draws/kl" in line]
        return np.array([(line["heldout/draws/kl"], line["heldout/draws/kl_se"]) for line in lines])

    masked, anchored = drift("masked"), drift("draws forward")
    assert len(masked) == len(anchored) == 5 and (masked > 0).all() and (anchored > 0).all()
    assert (np.diff(masked[:, 0]) > 0).all()
    assert anchored[-1, 0] < anchored[0, 0]
    (last, se), (held, held_se) = masked[-1], anchored[-1]
    assert last - 2 * se > held + 2 * held_se


@pytest.mark.parametrize("name", ["replay, draws", "replay, data"])
def test_replay_goes_with_the_anchor(runs, name):
    (heldout, _), (masked, lines) = runs[name], runs["masked"]
    assert heldout["heldout/draws/kl"] < 0.1 * masked["heldout/draws/kl"]
    assert heldout["heldout/documents/loss"] < 0.7 * masked["heldout/documents/loss"]
    assert heldout["heldout/text/loss/text"] < 0.5 * lines[0]["train/loss/text"]


def test_a_run_is_repeated_from_its_config_and_a_finished_one_is_left_alone(base, tmp_path, data):
    settings = experiment(steps=60, train=data.documents, heldout={"documents": data.heldout})
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    heldout = train(settings, base)
    assert heldout == json.loads((base / "finished.json").read_text())["heldout"]
    assert before == {path: path.stat().st_mtime_ns for path in base.rglob("*")}


def test_a_run_that_died_before_its_last_line_is_finished(base, tmp_path, data):
    import shutil

    copy = shutil.copytree(base, tmp_path / "run")
    (copy / "finished.json").unlink()
    settings = experiment(steps=60, train=data.documents, heldout={"documents": data.heldout})
    heldout = train(settings, copy)
    assert heldout == json.loads((base / "finished.json").read_text())["heldout"]
    assert (copy / "metrics.jsonl").read_bytes() == (base / "metrics.jsonl").read_bytes()


def test_stored_distributions_anchor_as_the_model_does(runs):
    (online, lines), (stored, its), (few, _) = (runs[name] for name in ("draws forward", "stored 300", "stored 4"))
    for a, b in zip(lines[:5], its[:5], strict=True):
        assert b["train/anchor/kl"] == pytest.approx(a["train/anchor/kl"], rel=0.1, abs=1e-4)
    # The two ways round differently, and training carries that on: on one machine they ended 6 % apart.
    assert stored["heldout/draws/kl"] == pytest.approx(online["heldout/draws/kl"], rel=0.15)
    assert few["heldout/draws/kl"] < 0.3 * runs["masked"][0]["heldout/draws/kl"]


def test_with_everything_stored_there_is_no_second_model(data, base, stored_draws, tmp_path):
    settings = experiment(
        *STORED,
        steps=2,
        train=data.instructions,
        init_from=base,
        anchor_data=stored_draws["draws", 4],
        heldout={"draws": stored_draws["heldout_draws", 300]},
    )
    trainer = Trainer(settings, tmp_path / "run", None, None)
    assert trainer.reference is None
    drift = trainer.run()["heldout/draws/kl"]
    other = dataclasses.replace(settings, loss=dataclasses.replace(settings.loss, anchor_reference="online"))
    assert drift == pytest.approx(train(other, tmp_path / "online")["heldout/draws/kl"], rel=0.3)


def test_the_anchor_needs_stored_distributions(data, base, tmp_path):
    settings = experiment(
        *STORED,
        steps=2,
        train=data.instructions,
        init_from=base,
        anchor_data=data.draws,
    )
    with pytest.raises(UserError, match="stores no distributions; make it with `anchortrain draw --top_k"):
        train(settings, tmp_path / "run")


def test_the_reference_draws_are_prompts_with_annotations(base, data, tmp_path):
    manifest = draw(base, data.instructions, tmp_path / "draws", count=12, seed=1, max_annotation_tokens=40, top_k=5)
    assert manifest.stored_top_k == 5 and 0.3 < manifest.notes["stored_mass"] <= 1
    assert manifest.kind == "draws" and 0 < manifest.examples <= 12
    assert manifest.examples + manifest.notes["unclosed"] == 12
    vocabulary = data.vocabulary
    for one in PreparedDataset(tmp_path / "draws"):
        prompt = one.tokens[one.roles == Role.PROMPT]
        assert prompt[0] == vocabulary.user and vocabulary.assistant in prompt
        assert vocabulary.decode(prompt) == "Tell\n\n"
        inside = one.tokens[one.roles != Role.PROMPT]
        assert [inside[0], inside[-1]] == [vocabulary.ann_open, vocabulary.ann_close]
        assert Role.TEXT not in one.roles
        # As many distributions as predictions from inside the annotation, most probable tokens first.
        assert one.reference.ids.shape == (len(inside) - 1, 5)
        assert (np.diff(one.reference.log_probs) <= 0).all() and np.exp(one.reference.log_probs).sum(
            axis=1
        ).max() <= 1.001


def test_post_training_starts_at_the_parameters_of_its_base(base, data, tmp_path):
    settings = experiment("OptimizerConfig.learning_rate = 1e-12", steps=1, train=data.instructions, init_from=base)
    train(settings, tmp_path / "run")
    mine, theirs = (params_of(load_run(path).model) for path in (tmp_path / "run", base))
    np.testing.assert_allclose(mine["head"], theirs["head"], atol=1e-9)
    assert [path.name for path in (tmp_path / "run" / CHECKPOINTS).iterdir()] == ["1"]


def test_the_vocabulary_of_the_model_may_be_larger_than_that_of_the_data(data, tmp_path):
    train(experiment("ModelConfig.vocabulary_size = 1000", steps=1, train=data.documents), tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert loaded.info.vocabulary_size == 1000 and params_of(loaded.model)["head"].size == 16 * 1024
    assert loaded.vocabulary.size == data.vocabulary.size < 1000
