"""Files are written whole or not at all."""

import os

import pytest

from anchortrain.errors import UserError
from anchortrain.files import write_json_atomic, write_text_atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json_atomic(path, {"a": "é\ud800"})
    write_json_atomic(path, {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é"\n}\n'
    assert os.listdir(path.parent) == ["a.json"]


def test_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a.txt: cannot write: No space left on device"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json_atomic(tmp_path / "a.json", float("nan"))
    assert not os.listdir(tmp_path)
