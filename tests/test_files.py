"""Files are written whole or not at all."""

import os
import threading

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


def test_links_stay_links_and_pipes_are_written_to(tmp_path):
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    write_text_atomic(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text_atomic(pipe, "through")
    reader.join(10)
    assert read == ["through"] and pipe.is_fifo()
