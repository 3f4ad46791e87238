"""Reading gin: composition, and every mistake with its file and line."""

import pytest

from anchortrain.errors import UserError
from anchortrain.gin_reader import read_gin

SCHEMA = {"Model": ["width", "name"], "Data": ["train", "seed"]}


def values(files, *bindings):
    return {f"{c}.{f}": bound.value for (c, f), bound in read_gin(files, bindings, SCHEMA).items()}


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "a.gin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_bindings_blocks_comments_and_containers(write):
    path = write("# a comment\nModel:\n  width = 3  # three\n  name = 'x' 'y'\nData.train = {'a.b/c': 1, 'd': -0.5}\n")
    assert values([path]) == {"Model.width": 3, "Model.name": "xy", "Data.train": {"a.b/c": 1, "d": -0.5}}


def test_later_overrides_earlier_and_knows_its_place(write):
    first, second = write("Model.width = 1\n"), write("\nModel.width = 2\n", "b.gin")
    bound = read_gin([first, second], [], SCHEMA)["Model", "width"]
    assert bound == (2, f"{second}:2")
    assert read_gin([first], ["Model.width = 3"], SCHEMA)["Model", "width"] == (3, "binding 'Model.width = 3'")


def test_macros_are_resolved_last_in_nested_values_and_keys(write):
    path = write("w = 3\nv = %w\nModel.width = %v\nData.train = {%dir: [%w, (%w, 1)]}\ndir = 'x'\n")
    assert values([path], "w = 5") == {"Model.width": 5, "Data.train": {"x": [5, (5, 1)]}}


def test_include_is_found_beside_the_file_or_as_given(write, tmp_path, monkeypatch):
    write("Model.width = 1\nModel.name = 'base'\n", "base.gin")
    write("Data.seed = 4\n", "elsewhere/c.gin")
    path = write("include 'base.gin'\ninclude 'elsewhere/c.gin'\nModel.width = 2\n", "sub/../d.gin")
    assert values([path]) == {"Model.width": 2, "Model.name": "base", "Data.seed": 4}
    deep = write("include 'elsewhere/c.gin'\n", "deep/e.gin")
    monkeypatch.chdir(tmp_path)
    assert values([deep]) == {"Data.seed": 4}


def test_two_reads_share_nothing(write):
    read_gin([write("w = 1\nModel.width = %w\n")], [], SCHEMA)
    with pytest.raises(UserError, match="unknown macro %w"):
        values([], "Model.width = %w")
    assert values([], "Data.seed = 1") == {"Data.seed": 1}


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("Data.seed = 1\nModle.width = 1\n", 2, "unknown class 'Modle'; did you mean 'Model'?"),
        ("Modle:\n  width = 1\n", 1, "unknown class 'Modle'; did you mean 'Model'?"),
        ("Model.widht = 1\n", 1, "unknown field 'widht' of Model; did you mean 'width'?"),
        ("Model:\n  name = 'a'\n  widht = 1\n", 3, "unknown field 'widht' of Model; did you mean 'width'?"),
        ("Model.zzz = 1\n", 1, "unknown field 'zzz' of Model; there are width, name"),
        ("Model.width = 1\n\nModel.width = 2\n", 3, "Model.width is bound twice, first at"),
        ("Model.width = %w\n", 1, "unknown macro %w; there are none"),
        ("wdith = 1\nModel.width = %width\nz = %wdith\nData.seed = %z", 2, "unknown macro %width; did you mean"),
        ("a = %b\nb = %a\nModel.width = %a\n", 1, "the macro %a refers to itself"),
        ("w = 1\n", 1, "the macro 'w' is not used; use it as %w, or remove it"),
        ("width = 1\n", 1, "the macro 'width' is not used; did you mean Model.width?"),
        ("train/Model.width = 1\n", 1, "scopes such as 'train' have no effect here; remove 'train/'"),
        ("import os\n", 1, "imports have no effect here; remove the line"),
        ("Model.width = @Data()\n", 1, "bad gin syntax: references such as @Data are not used here"),
        ("Model.name = adamw\n", 1, "bad gin syntax: cannot read the value 'adamw'; text needs quotes"),
        ("Data.seed = 1\nModel.width 3\n", 2, "bad gin syntax: "),
        ("Data.seed = 1\nModel.width =\n", 2, "bad gin syntax: "),
        ("Model.width = 3 4\n", 1, "bad gin syntax: Expected newline"),
        ("Data.seed = 1\n$$$\n", 2, "bad gin syntax: "),
        ("Model:\n", 2, "bad gin syntax: Expected indentation"),
        ("include 'none.gin'\n", 1, "no such gin file: none.gin"),
        ("include 'a.gin'\n", 1, "includes itself"),
    ],
)
def test_mistakes_are_named_with_file_and_line(write, text, line, message):
    path = write(text)
    with pytest.raises(UserError) as caught:
        values([path])
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["Data.train = {'a': 1,\n", "Model.name = 'a\n", 'Model.name = """a\n'])
def test_what_is_never_closed_is_bad_syntax(write, text):
    path = write(text)
    with pytest.raises(UserError, match="a.gin:[0-9]+: bad gin syntax: "):
        values([path])


def test_mistakes_in_a_binding_show_it():
    with pytest.raises(UserError, match=r"^binding 'Model\.widht = 1': unknown field"):
        values([], "Model.widht = 1")


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.gin: no such gin file"):
        values([tmp_path / "none.gin"])
    with pytest.raises(UserError, match="cannot read the gin file .*: Is a directory"):
        values([tmp_path])
    (tmp_path / "binary.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        values([tmp_path / "binary.gin"])
