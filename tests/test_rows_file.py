"""Rows that take long to make: kept as they come, gone on from, and whole in the end or not there."""

import json
import os

import pytest

from anchortrain.errors import UserError
from anchortrain.rows_file import RowsFile

PARTS = {2: [{"a": 1}], 0: [{"a": 2}, {"a": "ü\u2028"}], 1: []}


def rows_in(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_what_was_added_is_there_after_any_end_and_only_for_the_same_request(tmp_path):
    path = tmp_path / "made" / "rows.jsonl"
    for count in range(4):
        with RowsFile(path, {"seed": 1, "config": {"a": 1, "b": 2}}) as file:
            assert file.parts == dict(list(PARTS.items())[:count]) and not path.exists()
            if count < 3:
                file.add(*list(PARTS.items())[count])
        if count < 3:
            with open(file.unfinished, "ab") as torn:
                torn.write(b'{"rows": [{"a')
    with pytest.raises(
        UserError, match=r"rows.jsonl.unfinished: holds rows of a request with other b, seed; give the same"
    ):
        RowsFile(path, {"seed": 2, "config": {"a": 1, "b": 3}})
    with RowsFile(path, {"seed": 1, "config": {"a": 1, "b": 2}}) as file:
        file.finish()
    assert rows_in(path) == PARTS[0] + PARTS[2] and os.listdir(path.parent) == ["rows.jsonl"]
    with RowsFile(path, {"seed": 2}):  # interrupted before anything came: what was there stays
        pass
    assert len(rows_in(path)) == 3 and os.listdir(path.parent) == ["rows.jsonl"]


def test_links_stay_and_pipes_get_rows_as_they_come(tmp_path):
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    with RowsFile(link, {}) as file:
        file.add(0, PARTS[0])
        file.finish()
    assert link.is_symlink() and rows_in(target) == PARTS[0]
    reading, writing = os.pipe()
    with RowsFile(f"/dev/fd/{writing}", {}) as file:
        for number, part in PARTS.items():
            file.add(number, part)
            assert [json.loads(line) for line in os.read(reading, 1000).splitlines()] == part if part else True
        file.finish()
    os.close(reading)
    os.close(writing)
    assert sorted(os.listdir(tmp_path)) == ["link.jsonl", "target.jsonl"]


def test_two_do_not_write_one_file_and_a_damaged_one_is_said(tmp_path):
    path = tmp_path / "rows.jsonl"
    with RowsFile(path, {}) as file:
        file.add(0, PARTS[0])
        with pytest.raises(UserError, match="another command is writing it"):
            RowsFile(path, {})
    file.unfinished.write_bytes(b'{"unfinished": {}}\n{"rows": \n')
    with pytest.raises(UserError, match=r"unfinished: is damaged; remove it"):
        RowsFile(path, {})


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path):
    with RowsFile("/dev/full", {}) as file, pytest.raises(UserError, match="/dev/full: cannot write: No space left"):
        file.add(0, PARTS[0])
    with pytest.raises(UserError, match="'': is a directory"):
        RowsFile("", {})
