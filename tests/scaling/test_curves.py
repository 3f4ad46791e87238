"""Figures derived from rows: paired with the base and standard SFT of the same seed, capped where they must be."""

import pytest

from anchortrain.scaling import curves
from anchortrain.scaling.reading import read_study
from tests.scaling import synthetic_study as synthetic


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(synthetic.write(tmp_path_factory.mktemp("study"), synthetic.rows()))


def changed(tmp_path, change):
    """The study with every row put through `change`, which may drop it by returning None."""
    rows = [row for one in synthetic.rows() if (row := change(one)) is not None]
    return read_study(synthetic.write(tmp_path, rows))


def test_gap_and_ratio_are_those_that_made_the_rows(study):
    for method in ("masked", "kl", "rehearsal_no_anchor"):
        closed = synthetic.TRUTH[method][0]
        for size in study.sizes:
            found = curves.ratio(study, method, size)
            assert found.gap.value == pytest.approx(closed, abs=0.012)
            assert found.gap.low < found.gap.value < found.gap.high
            assert found.value == pytest.approx(1 / (1 - found.gap.value))
            assert found.low == pytest.approx(1 / (1 - found.gap.low))
            assert not found.capped


def test_figures_are_paired_within_a_seed(tmp_path):
    """A level of its own for each seed moves base, SFT and method alike, and must not widen an interval."""
    study = changed(tmp_path, lambda row: row | {"text_bits": row["text_bits"] * (1 + 0.3 * row["seed"])})
    gap = curves.ratio(study, "masked", "160k").gap
    assert gap.high - gap.low < 0.08
    assert [p.mean.value for p in curves.by_size(study, "base", "lost_share")] == [0.0] * 5


def test_a_ratio_too_large_to_measure_is_capped_and_unbounded(tmp_path):
    def at_base(row):
        base = synthetic.base_bits(synthetic.SIZES[row["size"]]) + 0.02 * row["seed"]
        over = 0.004 * (1 - row["seed"])  # seeds end above, at and below the base
        return row | {"text_bits": base + over} if row["method"] == "kl" else row

    study = changed(tmp_path, at_base)
    found = curves.ratio(study, "kl", "160k")
    assert found.capped and found.high is None and str(found).endswith("∞]")
    lost = curves.lost_bits(study, "160k")
    # The standard error of the mean of three differences of two entropies with an error of 0.012 each.
    expected = sum(bits for bits, _ in lost.values()) / 3 / ((2 * 0.012**2 * 3) ** 0.5 / 3)
    assert found.value == pytest.approx(expected)
    assert found.capped_seeds >= 1


def test_no_ratio_without_a_collapse_or_without_its_terms(tmp_path):
    study = changed(tmp_path, lambda row: row | {"text_bits": 3.5 + 0.001 * row["seed"]})
    assert curves.ratio(study, "kl", "160k") is None
    study = changed(tmp_path, lambda row: None if row["method"] == "base" and row["size"] == "27k" else row)
    assert curves.ratio(study, "kl", "27k") is None
    study = changed(tmp_path, lambda row: row | {"text_bits": None} if row["method"] == "kl" else row)
    assert curves.by_size(study, "kl", "text_bits") == [] and curves.ratio(study, "kl", "160k") is None


def test_one_seed_has_ratios_without_intervals(tmp_path):
    study = read_study(synthetic.write(tmp_path, synthetic.rows(1), described=synthetic.description(seeds=1)))
    found = curves.ratio(study, "masked", "160k")
    assert found.value == pytest.approx(6.25, rel=0.1)
    assert found.low is None and found.high is None and found.gap.low is None


def test_sweeps_compare_with_sft_on_the_same_data(study):
    gaps = [point.mean.value for point in curves.along(study, "masked", "narrowness", "gap_closed")]
    # On data as broad as the base there is nothing to lose but a tenth of a bit, which noise blurs.
    assert gaps[1:] == pytest.approx([0.84] * 3, abs=0.05)
    hot = {point.x: point.mean.value for point in curves.along(study, "sft", "temperature", "gap_closed")}
    assert hot[1.0] == pytest.approx(0, abs=1e-9) and 0 < hot[1.2] < 0.1


def test_one_quantity_against_another_keeps_seeds_and_order(study):
    points, flat = curves.against(study, "sft", "narrowness", "data_bits", "text_bits")
    assert [point.x for point in points] == sorted(synthetic.DATA_BITS.values())
    assert len(flat.x) == len(flat.y) == 12 and set(flat.seed) == {0, 1, 2}


def test_the_gate_is_the_mean_over_seeds(tmp_path):
    def weak(row):
        return row | {"agreement": 0.94, "base_agreement": 0.94} if row["size"] == "27k" else row

    study = changed(tmp_path, weak)
    assert curves.gated(study) == ["70k", "160k", "420k", "850k"]
    study = changed(tmp_path, lambda row: weak(row) if row["seed"] == 0 else row)  # two of three carry it
    assert "27k" in curves.gated(study)
