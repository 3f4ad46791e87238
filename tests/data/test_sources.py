"""Every source gives the same lines, from the start and from any position, and damage is never taken for an end."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from anchortrain.data.records import load_object, read_documents
from anchortrain.data.sources import MAX_LINE_BYTES, START, check_apart, digest, expand, read_from, read_lines
from anchortrain.errors import UserError

RECORDS = [{"text": f"Tale {i} – ü\n\nend", "n": i, "tags": ["a", None]} for i in range(700)]
FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")


def write(path, records=RECORDS):
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=300)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(content))
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_records_from_any_position(tmp_path, format):
    path = write(tmp_path / f"tales.{format}")
    found = list(read_from(path))
    assert [load_object(line) for _, line in found] == RECORDS
    assert found[0][0] == START
    assert (found[6][1].where, found[6][1].default_id) == (f"{path}:7", f"tales.{format}:7")
    for i in (0, 1, 256, 299, 300, 301, 699):
        assert list(read_from(path, found[i][0])) == found[i:]


def test_plain_files_are_entered_at_the_byte(tmp_path):
    path = write(tmp_path / "a.jsonl")
    position = list(read_from(path))[500][0]
    damaged = path.read_bytes()
    path.write_bytes(b"x" * position.offset + damaged[position.offset :])
    assert [load_object(line) for _, line in read_from(path, position)] == RECORDS[500:]


def test_blank_lines_and_the_last_line_without_an_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "a"}\n  \r\n{"text": "b"}')
    found = list(read_from(path))
    assert [line.where for _, line in found] == [f"{path}:2", f"{path}:4"]
    assert list(read_from(path, found[1][0])) == found[1:]


def test_a_folder_of_texts(tmp_path):
    for name, text in {"b.txt": "\ufeffsecond\n", "a/z.md": "first ü", "a/empty.txt": " \n", "c.py": "no text"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = list(read_from(tmp_path))
    assert [(line.default_id, load_object(line)) for _, line in found] == [
        ("a/z.md", {"text": "first ü"}),
        ("b.txt", {"text": "second\n"}),
    ]
    assert list(read_from(tmp_path, found[1][0])) == found[1:]
    assert [document.id for document in read_documents([tmp_path])] == ["a/z.md", "b.txt"]
    before = digest(tmp_path)
    (tmp_path / "b.txt").rename(tmp_path / "d.txt")
    assert digest(tmp_path) != before


def test_a_single_text_is_one_record(tmp_path):
    (tmp_path / "tale.txt").write_text("one\n\ntwo")
    (document,) = read_documents([tmp_path / "tale.txt"])
    assert document.id == "tale.txt" and [chunk.text for chunk in document.chunks] == ["one\n\n", "two"]


def test_folders_of_files_and_names_that_occur_twice(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.jsonl", RECORDS[:1])
    write(tmp_path / "x" / "b.parquet", RECORDS[:1])
    assert [path.name for path in expand([tmp_path / "x"])] == ["a.jsonl", "b.parquet"]
    ids = [line.default_id for line in read_lines([tmp_path / "x", tmp_path / "y"])]
    assert ids == [f"{tmp_path}/x/a.jsonl:1", "b.parquet:1", f"{tmp_path}/y/a.jsonl:1"]


def test_a_job_is_read_when_it_is_finished(tmp_path):
    for name in ("job.json", "failed.jsonl", "bad_records.jsonl", "part-00001.jsonl", "part-00000.jsonl"):
        write(tmp_path / name, RECORDS[:2])
    with pytest.raises(UserError, match="not finished; give the command that made it again"):
        expand([tmp_path])
    parts = [{"file": "part-00000.jsonl"}, {"file": "part-00001.jsonl"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"parts": parts}))
    assert [path.name for path in expand([tmp_path])] == ["part-00000.jsonl", "part-00001.jsonl"]
    (tmp_path / "part-00001.jsonl").unlink()
    with pytest.raises(UserError, match="part-00001.jsonl: this part of the annotation is missing; annotate again"):
        expand([tmp_path])
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="damaged manifest"):
        expand([tmp_path])


def test_texts_beside_records_are_told_of(tmp_path, capsys):
    write(tmp_path / "a.jsonl", RECORDS[:2])
    (tmp_path / "b.txt").write_text("A fox.")
    assert [path.name for path in expand([tmp_path])] == ["a.jsonl"]
    assert "1 texts beside the files of records are not read" in capsys.readouterr().err


def test_nothing_that_is_read_is_overwritten(tmp_path):
    write(tmp_path / "a.jsonl", RECORDS[:2])
    for out in ("a.jsonl", "part-00000.jsonl", "manifest.json"):
        with pytest.raises(UserError, match=f"{out}: would overwrite what is read"):
            check_apart(tmp_path / out, [tmp_path, tmp_path / "a.jsonl"])
    with pytest.raises(UserError, match="is a folder"):
        check_apart(tmp_path, [])
    check_apart(tmp_path / "report.html", [tmp_path])


def test_parquet_values_without_a_json_type_and_without_a_row(tmp_path):
    table = pa.table({"text": [b"caf\xc3\xa9"], "at": pa.array([0], pa.timestamp("s")), "more": [{"a": [1.5]}]})
    pq.write_table(table, tmp_path / "a.parquet")
    ((_, line),) = read_from(tmp_path / "a.parquet")
    assert load_object(line) == {"text": "café", "at": "1970-01-01 00:00:00", "more": {"a": [1.5]}}
    pq.write_table(table.slice(1), tmp_path / "b.parquet")
    assert list(read_from(tmp_path / "b.parquet")) == []
    pq.write_table(pa.table({"text": [b"caf\xe9"]}), tmp_path / "c.parquet")
    ((_, line),) = read_from(tmp_path / "c.parquet")
    assert load_object(line) == {"text": {"base64": "Y2Fm6Q=="}}


@pytest.mark.parametrize("format", ["jsonl.gz", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_an_error_and_no_end(tmp_path, format, keep):
    path = write(tmp_path / f"a.{format}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match="damaged") as caught:
        list(read_from(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_file_has_no_records_and_garbage_is_named(tmp_path, format):
    path = tmp_path / f"a.{format}"
    path.write_bytes(b"nonsense \xff" * 1000)
    with pytest.raises(UserError, match="damaged|invalid UTF-8"):
        for _, line in read_from(path):
            load_object(line)
    path.write_bytes(b"")
    if format == "parquet":
        with pytest.raises(UserError, match="not a Parquet file"):
            list(read_from(path))
    else:
        assert list(read_from(path)) == []


@pytest.mark.parametrize("format", ["jsonl.gz", "jsonl.zst"])
def test_damage_within_is_an_error(tmp_path, format):
    path = tmp_path / f"a.{format}"
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    compress = gzip.compress if format.endswith("gz") else zstandard.ZstdCompressor(write_checksum=True).compress
    content = bytearray(compress(lines))
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"damaged {'gzip' if format.endswith('gz') else 'zstd'} file"):
        list(read_from(path))


def test_frames_that_follow_each_other_are_one_file(tmp_path):
    first, second = (json.dumps({"text": name * 5000}).encode() + b"\n" for name in "ab")
    frame = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(frame(first) + frame(b"") + frame(second))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(first) + gzip.compress(second))
    for path in tmp_path.iterdir():
        assert [line.data for _, line in read_from(path)] == [first, second]


def test_a_long_line_stops_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "bomb.jsonl.zst"
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
        for _ in range(2 * MAX_LINE_BYTES >> 20):
            writer.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match="bomb.jsonl.zst:1: a line of more than 256 MiB"):
        list(read_from(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"caf\xe9", "invalid UTF-8 at byte 4; save the file as UTF-8"), (b"a\0b", "it has NUL characters")],
)
def test_texts_that_are_none(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path / 'a.txt'}: {message}"):
        list(read_from(tmp_path))


def test_places_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="absent.jsonl: cannot be read: No such file"):
        list(read_lines([tmp_path / "absent.jsonl"]))
    with pytest.raises(UserError, match="no records in this folder; it needs files"):
        expand([tmp_path])
    with pytest.raises(UserError, match="/proc/self/mem: cannot be read: Input/output error"):
        list(read_lines(["/proc/self/mem"]))
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match="its name is not UTF-8; rename it") as caught:
        list(read_lines([tmp_path]))
    assert str(caught.value).isascii()
