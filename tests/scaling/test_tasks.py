"""What a study consists of: cells, tasks and their order; what is refused."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from anchortrain.errors import UserError
from anchortrain.scaling import config, study
from anchortrain.scaling.cells import BASE, Cell, cells
from anchortrain.scaling.layout import Layout
from anchortrain.scaling.tasks import tasks

GIN = Path(__file__).resolve().parents[2] / "gin_configs" / "scaling"


def _layout(tmp_path, name, *bindings):
    return Layout(tmp_path, GIN, config.load([GIN / name], bindings))


@pytest.mark.parametrize("name", ["laptop.gin", "laptop_reduced.gin", "paper.gin"])
def test_every_study_that_comes_with_the_package_is_a_graph_that_can_be_run(tmp_path, name):
    layout = _layout(tmp_path, name)
    every = tasks(layout)
    done = set()
    for task in every:  # what a task needs comes before it
        assert done.issuperset(task.needs), task.name
        done.add(task.name)
    assert len(done) == len({task.output for task in every}) == len(every)
    assert {f"measure/{cell.name}" for cell in cells(layout.scaling)} <= done
    assert all(task.arguments or task.cell for task in every)


def test_laptop_ladder_spans_what_is_promised(tmp_path):
    from anchortrain.scaling.measure import layer_parameters

    layout = _layout(tmp_path, "laptop.gin")
    sizes = [layer_parameters(layout, size) for size in layout.scaling.study.sizes]
    assert len(sizes) >= 5 and sizes == sorted(sizes) and sizes[-1] >= 30 * sizes[0]
    assert layout.scaling.study.seeds >= 3
    for size, parameters in zip(layout.scaling.study.sizes, sizes, strict=True):
        assert size == f"{parameters / 1000:.0f}k"


def test_learning_rates_follow_the_stated_rule(tmp_path):
    layout = _layout(tmp_path, "laptop.gin")
    found = {task.name: task.arguments for task in tasks(layout)}

    def rate(name):
        bound = [one for one in found[name] if one.startswith("OptimizerConfig.learning_rate")]
        return float(bound[0].partition("=")[2]) if bound else None

    assert rate("train/27k/s0/base") == pytest.approx(0.01 * 2**0.5, rel=1e-3)
    assert rate("train/160k/s0/base") is None  # the gin file's own
    assert rate("train/815k/s0/base_lr2") == pytest.approx(2 * 0.01 * (64 / 112) ** 0.5, rel=1e-3)
    assert rate("train/815k/s1/kl/n0.8_e8000") is None


def test_bases_are_shared_and_methods_get_the_data_that_they_are(tmp_path):
    layout = _layout(tmp_path, "laptop.gin")
    found = {task.name: task for task in tasks(layout)}
    counted = Counter(name.rsplit("/", 1)[-1] for name in found if name.startswith("train/") and name.count("/") == 3)
    assert counted == {"base": 15, "plain": 15, "base_lr0.5": 2, "base_lr2": 2}
    name = "train/62k/s0/{}/n0.8_e8000"
    text = {method: " ".join(found[name.format(method)].arguments) for method in layout.scaling.study.methods}
    assert "sft_plain'" in text["sft"] and "/plain'" in text["sft"] and "drift" not in text["sft"]
    assert "/sft'" in text["masked"] and "/base'" in text["masked"] and "anchor_data" not in text["masked"]
    assert "anchor_data" in text["kl"] and "drift" in text["kl"]
    assert "sft_mixed'" in text["no_annotation_decoding"]
    assert "/plain'" in text["no_annotated_pretraining"]
    assert "/sft': 0.75" in text["replay"] and "/pretrain': 0.25" in text["replay"]
    assert "RehearsalConfig.start" in text["rehearsal"] and "/kl/" in text["rehearsal"]
    sampled = found["sample/62k/s0/sft/n0.8_e8000_T1"].arguments
    assert "--single_stage" in sampled and "--constrain" not in sampled


def test_sweeps_vary_one_thing_at_a_time(tmp_path):
    scaling = _layout(tmp_path, "laptop.gin").scaling
    usual = Cell("", 0, "", scaling.source.narrowness, scaling.source.examples)
    for cell in cells(scaling):
        other = dataclasses.replace(usual, size=cell.size, seed=cell.seed, method=cell.method)
        fields = ("narrowness", "examples", "tokens", "temperature")
        varied = [field for field in fields if getattr(cell, field) != getattr(other, field)]
        assert len(varied) <= (cell.method != BASE)
        assert not varied or cell.size == scaling.sweep.size


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("StudyConfig.sizes = []", "StudyConfig.sizes is empty"),
        ("StudyConfig.sizes = ['27k', '27k']", "names a size twice"),
        ("StudyConfig.seeds = 0", "StudyConfig.seeds must be positive"),
        ("StudyConfig.methods = {'klm': 'laptop/kl.gin'}", "unknown method 'klm'; did you mean 'kl'?"),
        ("StudyConfig.methods = {'rehearsal': 'laptop/kl.gin'}", "lacks kl"),
        ("StudyConfig.pretrain_tokens = {'1k': 3}", "names 1k, not in"),
        ("SweepConfig.methods = {'tokens': ['dpo']}", "method dpo is not in StudyConfig.methods"),
        ("SweepConfig.methods = {'token': ['kl']}", "varies token; there are narrowness"),
        ("SweepConfig.size = '1k'", "SweepConfig.size must be one of"),
        ("SweepConfig.narrowness = [1.5]", "between 0 and 1"),
        ("SourceConfig.narrowness = 'much'", "must be of type float"),
        ("StudyConfig.sized = []", "did you mean 'sizes'?"),
        ("MeasureConfig.samples = 0", "MeasureConfig.samples must be positive"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(binding, words):
    with pytest.raises(UserError, match=".") as caught:
        config.load([GIN / "laptop.gin"], [binding])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_gin_files_are_checked_before_anything_is_written(tmp_path):
    out = tmp_path / "out"
    for methods, words in (
        ("{'kl': 'laptop/nothing.gin'}", "no such gin file"),
        ("{'sft': 'laptop_reduced.gin'}", "unknown class"),
        ("{'kl': 'laptop/posttrain.gin'}", "its gin files set no LossConfig.anchor_weight"),
    ):
        with pytest.raises(UserError, match=words):
            study.open_study([str(GIN / "laptop_reduced.gin")], [f"StudyConfig.methods = {methods}"], str(out))
        assert not out.exists()


def test_a_study_may_grow_but_not_change(tmp_path):
    gin, out = [str(GIN / "laptop_reduced.gin")], str(tmp_path / "out")
    study.open_study(gin, ["StudyConfig.seeds = 1"], out)
    study.open_study(gin, ["StudyConfig.seeds = 4"], out)
    required = "MeasureConfig.require = ['hero', 'place']"
    for _ in range(2):
        study.open_study(gin, [required], f"{out}_required")
    with pytest.raises(UserError, match="was started with MeasureConfig.require"):
        study.open_study(gin, [], f"{out}_required")
    with pytest.raises(UserError, match=r"was started with MeasureConfig.samples = 512, now it is 64"):
        study.open_study(gin, ["MeasureConfig.samples = 64"], out)
    more = ["StudyConfig.sizes = ['27k', '62k']", "StudyConfig.pretrain_tokens = {'27k': 4_000_000, '62k': 7}"]
    study.open_study(gin, more, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(UserError, match="holds no study"):
        study.open_study(gin, [], str(tmp_path / "mine"))


def test_a_run_that_was_begun_may_not_be_another_one_now(tmp_path):
    """Also where only a gin file of its stage has changed."""
    for path in GIN.glob("laptop/*.gin"):
        (tmp_path / "laptop").mkdir(exist_ok=True)
        (tmp_path / "laptop" / path.name).write_text(path.read_text())
    text = (GIN / "laptop_reduced.gin").read_text().splitlines()
    (tmp_path / "study.gin").write_text("\n".join(line for line in text if "'rehearsal'" not in line))
    gin, out = [str(tmp_path / "study.gin")], tmp_path / "out"
    study.open_study(gin, [], str(out))
    kl = tmp_path / "laptop" / "kl.gin"
    kl.write_text(kl.read_text().replace("= 0.1", "= 0.2"))
    study.open_study(gin, [], str(out))  # nothing of it was begun
    (out / "runs" / "27k" / "s0" / "kl" / "n0.8_e8000").mkdir(parents=True)
    kl.write_text(kl.read_text().replace("= 0.2", "= 9.0") + "\nMeshConfig.fsdp = 1\n")
    with pytest.raises(UserError, match=r"was begun with LossConfig.anchor_weight = 0.2, now it is 9.0"):
        study.open_study(gin, [], str(out))
    kl.write_text(kl.read_text().replace("= 9.0", "= 0.2"))
    study.open_study(gin, [], str(out))
