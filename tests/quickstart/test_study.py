"""The quick start itself: small and whole in every run of the tests, at its real size in a slow one."""

import json
import signal
import subprocess
import sys
import time

import pytest

from anchortrain.errors import UserError
from anchortrain.quickstart.study import Study

METHODS = {"base", "sft", "masked", "kl", "no_annotated_pretraining", "no_annotation_decoding", "rehearsal"}
FIELDS = {
    "n",
    "text_bits",
    "annotation_bits",
    "wellformed_bits",
    "wellformed",
    "agreement",
    "gap_closed",
    "collapse_ratio",
}

# Everything real but tiny; nothing is learned in so few tokens.
_SMALL = """
import signal
import sys
from pathlib import Path
from anchortrain.quickstart.study import Scale, Study
import anchortrain.quickstart.study as study
study.MAX_EXTENSIONS = 0
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
# The story parser would confirm nothing that such a model writes.
rehearsal = {"checkers": "likelihood", "draws": 32, "least": 1, "tokens": 5_000, "batch_size": 32}
scale = Scale(600, 200, 32, 64, pretrain_tokens=50_000, posttrain_tokens=10_000, rehearsal=rehearsal)
Study(Path(sys.argv[1]), 3, scale).run()
"""


def _small(out):
    return [sys.executable, "-c", _SMALL, str(out)]


def test_small_study_is_stopped_and_resumed_to_a_whole_report(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(_small(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "runs" / "base" / "config.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    done = subprocess.run(_small(out), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert {"seed", "seconds", "prior_bits", "base_agreement"} <= set(summary)
    assert summary["seed"] == 3 and summary["seconds"] > 0
    assert set(summary["methods"]) == METHODS
    for row in summary["methods"].values():
        assert set(row) >= FIELDS and row["n"] == 32
    assert (out / "report.html").stat().st_size > 5000 and (out / "report.png").stat().st_size > 5000
    assert "KL anchor" in done.stdout
    # Once more: nothing is left to run.
    again = subprocess.run(_small(out), capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "done in" not in again.stdout


def test_another_seed_or_a_foreign_directory_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Study(tmp_path / "a", 1)
    with pytest.raises(UserError, match="seed 1, not 2"):
        Study(tmp_path / "a", 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="holds no quick start"):
        Study(tmp_path / "b", 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_effect_holds_for_other_seeds(tmp_path, seed):
    summary = Study(tmp_path / "out", seed).run()
    rows = summary["methods"]
    assert summary["base_agreement"] >= 0.95
    assert rows["masked"]["collapse_ratio"] >= 4
    assert rows["kl"]["collapse_ratio"] >= 10
    assert rows["kl"]["wellformed"] >= rows["sft"]["wellformed"] - 0.15
    assert rows["rehearsal"]["wellformed"] >= rows["sft"]["wellformed"] - 0.04
    assert rows["rehearsal"]["text_bits"] >= 0.98 * rows["base"]["text_bits"] and rows["rehearsal"]["agreement"] >= 0.95
    for ablation in ("no_annotated_pretraining", "no_annotation_decoding"):
        assert rows[ablation]["gap_closed"] < 0.5
