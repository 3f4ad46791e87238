"""The results that the documentation shows are those that their rows give."""

import re

import pytest

from anchortrain.scaling.claims import judge
from anchortrain.scaling.reading import read_study
from anchortrain.scaling.report import claims_table, markdown, missing
from anchortrain.scaling.tables import tables
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results" / "laptop"


@pytest.fixture(scope="module")
def study():
    return read_study(RESULTS)


@pytest.mark.parametrize("name", ["laptop", "stories", "whole_plans"])
def test_the_tables_are_made_from_the_rows(name):
    directory = ROOT / "docs" / "results" / name
    study = read_study(directory)
    made = markdown(study, judge(study), tables(study), missing(study))
    assert (directory / "report" / "tables.md").read_text(encoding="utf-8") == made


def test_the_page_of_results_has_every_claim_with_its_verdict(study):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for source in ("paper", "ours"):
        for line in claims_table(judge(study), source, figures="results/laptop/report/"):
            assert line in page


def test_what_the_page_links_to_is_there():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", page):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target
