"""Headless Chromium for the tests of the page."""

import shutil

import pytest


def launch(playwright):
    """A browser; skips where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium here (Debian: apt install chromium)")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
