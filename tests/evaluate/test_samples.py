"""Samples files: read, or refused with the place of the fault."""

import gzip
import json

import pytest

from anchortrain.errors import UserError
from anchortrain.evaluate.samples import canonical, read_samples


def test_reads_plain_and_compressed(tmp_path):
    rows = [{"response": "a\nb", "annotation": [["k", "v"]]}, {"response": ""}]
    text = "\n\n".join(map(json.dumps, rows)) + "\n"
    (tmp_path / "s.jsonl").write_text(text)
    with gzip.open(tmp_path / "s.jsonl.gz", "wt") as file:
        file.write(text)
    assert read_samples(tmp_path / "s.jsonl") == read_samples(tmp_path / "s.jsonl.gz") == rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "broken JSON"),
        ("[1]", "must be a JSON object"),
        ('{"text": "x"}', "'response' must be a string"),
        ('{"response": 3}', "'response' must be a string"),
        ('{"response": "x", "annotation": "k: v"}', "'annotation' must be"),
        ('{"response": "x", "roles": [1.5]}', "'roles' must be"),
        ("[" * 100_000, "broken JSON"),
    ],
)
def test_faults_name_file_line_and_field(tmp_path, line, said):
    path = tmp_path / "s.jsonl"
    path.write_text('{"response": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=said) as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_missing_empty_and_binary_files(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        read_samples(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no samples"):
        read_samples(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="binary.jsonl:1"):
        read_samples(tmp_path / "binary.jsonl")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("The Fox.", "fox"), ("ＦＯＸ", "fox"), ("a  red  fox", "red fox"), ("...", "..."), ("a", "a")],
)
def test_canonical(value, expected):
    assert canonical(value) == expected
