"""Reads gin files into values with the place where each was bound.

The grammar is gin's own parser: bindings, blocks, macros and `include`. gin's registry is left aside: it is global,
forgets the line of a binding, and would import whatever module a file names. So there is no state between two reads,
every error has a file and a line, and reading a file executes nothing.
"""

import tokenize
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from anchortrain.errors import UserError
from anchortrain.nearest import suggest

# Classes that one command alone reads, for who gives their file to another.
_ELSEWHERE = {
    "RehearsalConfig": "anchortrain rehearse",
    "TpuConfig": "python -m tpu_scripts",
    "TpuStudyConfig": "python -m tpu_scripts",
}


class Bound(NamedTuple):
    """A value and where it was bound: `file:line`, or the text of a command-line binding."""

    value: Any
    where: str


class _Macro(NamedTuple):
    """`%name` in a value."""

    name: str


class _Values(config_parser.ParserDelegate):
    """What gin's parser makes of `%name` and `@name`."""

    def __init__(self, used: set[str]) -> None:
        self._used = used

    def macro(self, macro_name: str) -> _Macro:
        self._used.add(macro_name)
        return _Macro(macro_name)

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        raise SyntaxError(f"references such as @{scoped_configurable_name} are not used here; write the value itself")


def read_gin(
    files: Sequence[str | Path], bindings: Sequence[str], schema: Mapping[str, Collection[str]]
) -> dict[tuple[str, str], Bound]:
    """Reads files in order, then single bindings; a later one overrides an earlier one.

    Args:
      files: paths of gin files. An `include` is looked for beside the file that has it, then as it is given.
      bindings: statements such as "ModelConfig.d_model = 64".
      schema: class name -> names of its fields.

    Returns:
      (class, field) -> value with its place; macros are resolved.

    Raises:
      UserError: file and line of a missing file, bad syntax, an unknown class, field or macro, a name bound twice in
        one file, or a macro that nothing uses.
    """
    reader = _Reader(schema)
    for file in files:
        reader.read_file(Path(file), None)
    for binding in bindings:
        reader.read_text(binding, lambda line, text=binding: f"binding {text!r}", beside=None)
    return reader.resolved()


class _Reader:
    """What has been read so far."""

    def __init__(self, schema: Mapping[str, Collection[str]]) -> None:
        self._schema = schema
        self._bound: dict[tuple[str, str], Bound] = {}
        self._macros: dict[str, Bound] = {}
        self._used_macros: set[str] = set()
        self._open_files: list[Path] = []

    def read_file(self, path: Path, included_at: str | None) -> None:
        where = included_at or str(path)
        if path.resolve() in self._open_files:
            raise UserError(f"{path} includes itself", where=where, mend="remove the include")
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            what = f"no such gin file: {path}" if included_at else "no such gin file"
            raise UserError(what, where=where, mend="paths are taken from the working directory") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UserError(f"cannot read the gin file {path}: {reason}", where=where) from None
        self._open_files.append(path.resolve())
        self.read_text(text, lambda line: f"{path}:{line}", beside=path.parent)
        self._open_files.pop()

    def read_text(self, text: str, place, beside: Path | None) -> None:
        """Reads statements; `place` maps a line number to what an error shows."""
        seen: dict[tuple[str, str], str] = {}  # of this text, to find what is bound twice
        for statement in self._statements(text, place):
            where = place(statement.location.line_num)
            match statement:
                case config_parser.BindingStatement():
                    self._bind(statement, where, seen)
                case config_parser.BlockDeclaration():
                    self._check_class(statement.scope, statement.selector, where)
                case config_parser.IncludeStatement():
                    near = beside / statement.filename if beside else None
                    self.read_file(near if near and near.exists() else Path(statement.filename), where)
                case _:
                    raise UserError("imports have no effect here", where=where, mend="remove the line")

    def _statements(self, text: str, place):
        try:
            parser = config_parser.ConfigParser(text, _Values(self._used_macros))
        except (SyntaxError, tokenize.TokenError) as error:
            raise _syntax_error(error, place, 1) from None
        while True:
            line = parser.current_token.start[0]
            try:
                statement = parser.parse_statement()
            except (SyntaxError, tokenize.TokenError, ValueError, StopIteration) as error:
                raise _syntax_error(error, place, line) from None
            if statement is None:
                return
            yield statement

    def _bind(self, statement: config_parser.BindingStatement, where: str, seen: dict[tuple[str, str], str]) -> None:
        key = (statement.selector, statement.arg_name)
        name = ".".join(filter(None, key))
        if key in seen:
            raise UserError(f"{name} is bound twice, first at {seen[key]}", where=where, mend="remove one of the two")
        seen[key] = where
        if statement.arg_name:
            self._check_class(statement.scope, statement.selector, where)
            fields = self._schema[statement.selector]
            if statement.arg_name not in fields:
                what = f"unknown field {statement.arg_name!r} of {statement.selector}"
                raise UserError(what, where=where, mend=suggest(statement.arg_name, fields))
            self._bound[key] = Bound(statement.value, where)
        else:
            _refuse_scope(statement.scope, where)
            self._macros[statement.selector] = Bound(statement.value, where)

    def _check_class(self, scope: str, selector: str, where: str) -> None:
        _refuse_scope(scope, where)
        if selector in self._schema:
            return
        if command := _ELSEWHERE.get(selector):
            raise UserError(f"{selector} belongs to `{command}`", where=where, mend="use that command")
        raise UserError(f"unknown class {selector!r}", where=where, mend=suggest(selector, self._schema))

    def resolved(self) -> dict[tuple[str, str], Bound]:
        for name, macro in self._macros.items():
            if name not in self._used_macros:
                raise UserError(f"the macro {name!r} is not used", where=macro.where, mend=self._meant(name))
        return {key: Bound(self._resolve(b.value, b.where, ()), b.where) for key, b in self._bound.items()}

    def _meant(self, name: str) -> str:
        """A field bound without its class looks like a macro."""
        owners = [f"{owner}.{name}" for owner, fields in self._schema.items() if name in fields]
        return f"did you mean {' or '.join(owners)}?" if owners else f"use it as %{name}, or remove it"

    def _resolve(self, value: Any, where: str, within: tuple[str, ...]) -> Any:
        if isinstance(value, _Macro):
            if value.name not in self._macros:
                raise UserError(f"unknown macro %{value.name}", where=where, mend=suggest(value.name, self._macros))
            if value.name in within:
                raise UserError(f"the macro %{value.name} refers to itself", where=self._macros[value.name].where)
            return self._resolve(self._macros[value.name].value, where, (*within, value.name))
        if isinstance(value, dict):
            return {self._resolve(k, where, within): self._resolve(v, where, within) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._resolve(v, where, within) for v in value)
        return value


def _refuse_scope(scope: str, where: str) -> None:
    if scope:
        raise UserError(f"scopes such as {scope!r} have no effect here", where=where, mend=f"remove '{scope}/'")


def _syntax_error(error: Exception, place, line: int) -> UserError:
    """gin's or Python's complaint as one line."""
    message = str(error.args[0]) if error.args else "the statement is not finished"
    if isinstance(error, SyntaxError):
        line, message = error.lineno or line, error.msg
    if "Failed to parse token" in message:
        token = message.rpartition("Failed to parse token")[2].strip()
        message = f"cannot read the value {token}; text needs quotes, a macro a % before it"
    elif isinstance(error, tokenize.TokenError):
        message = f"{message} (an unclosed bracket or quote?)"
    return UserError(f"bad gin syntax: {message.strip().rstrip('.')}", where=place(line))
