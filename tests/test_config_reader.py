"""gin bindings become frozen dataclasses; whatever does not fit names the field and the place."""

import dataclasses

import pytest

from anchortrain.annotate.config import Annotating
from anchortrain.config_reader import build, read_bindings, sections, typed
from anchortrain.errors import UserError


@dataclasses.dataclass(frozen=True)
class SizeConfig:
    n: int = 3
    share: float = 0.5
    name: str = "x"
    deep: bool = False
    names: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Root:
    size: SizeConfig


def read(*bindings, files=()):
    return build(Root, read_bindings(Root, files, bindings))


def test_defaults_and_bindings_in_order(tmp_path):
    assert read() == Root(SizeConfig()) and sections(Root) == {"size": SizeConfig}
    (tmp_path / "a.gin").write_text("SizeConfig.n = 7\nSizeConfig.share = 2\nSizeConfig.names = {'a': 'b'}\n")
    found = read("SizeConfig.n = 8", "SizeConfig.deep = True", files=[tmp_path / "a.gin"])
    assert found == Root(SizeConfig(8, 2.0, "x", True, {"a": "b"}))
    assert type(found.size.share) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.size.n = 9


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("SizeConfig.n = 3.0", "SizeConfig.n must be of type int, got float 3.0; write 3"),
        ("SizeConfig.n = 3.5", "SizeConfig.n must be of type int, got float 3.5"),
        ("SizeConfig.n = True", "SizeConfig.n must be of type int, got bool True"),
        ("SizeConfig.n = '3'", "SizeConfig.n must be of type int, got str '3'"),
        ("SizeConfig.share = 1e999", "SizeConfig.share must be a finite number, got inf"),
        ("SizeConfig.share = True", "SizeConfig.share must be of type float, got bool True"),
        ("SizeConfig.name = None", "SizeConfig.name must be of type str, got NoneType None"),
        ("SizeConfig.names = ['a']", "SizeConfig.names must be of type dict[str, str], got list ['a']"),
        ("SizeConfig.names = {'a': 1}", "SizeConfig.names['a'] must be of type str, got int 1"),
        ("SizeConfig.names = {1: 'a'}", "a key of SizeConfig.names must be of type str, got int 1"),
        ("SizeConfig.nn = 1", "unknown field 'nn' of SizeConfig; did you mean 'n'?"),
        ("SiteConfig.n = 1", "unknown class 'SiteConfig'; did you mean 'SizeConfig'?"),
    ],
)
def test_mistakes_name_field_and_place(tmp_path, binding, message):
    with pytest.raises(UserError) as caught:
        read(binding)
    assert str(caught.value).endswith(message) and binding in str(caught.value)
    (tmp_path / "a.gin").write_text(f"\n{binding}\n")
    with pytest.raises(UserError) as caught:
        read(files=[tmp_path / "a.gin"])
    assert str(caught.value) == f"{tmp_path}/a.gin:2: {message}"


def test_a_huge_number_is_not_finite():
    with pytest.raises(UserError, match="must be a finite number"):
        typed(10**400, float, "x", None)


def test_every_field_of_annotating_has_a_type_that_gin_can_bind():
    found = build(Annotating, {})
    for name, section in sections(Annotating).items():
        for field in dataclasses.fields(section):
            value = getattr(getattr(found, name), field.name)
            assert typed(value, field.type, field.name, None) == value
