"""Reading what a user names; writing files whole or not at all."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anchortrain.errors import UserError


def read_text(path: str | Path, what: str) -> str:
    """The UTF-8 text of a file that a user named, without a byte order mark. Raises UserError naming `what` it is."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {what}: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"{what} is not UTF-8 text", where=str(path)) from None


def is_stream(path: str | Path) -> bool:
    """Whether something is there that is neither a file nor a directory: a device or a pipe."""
    # Not of the resolved path: `/dev/stdout` may lead to a pipe, which has none.
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Writes beside `path`, then renames, so that a reader never sees half a file.

    Parent directories are made; a link stays one; a device or a pipe is written to as it is. Raises UserError when the
    system refuses (no space, no permission); nothing is left behind then.
    """
    try:
        if is_stream(path):
            Path(path).write_bytes(content)
            return
        path = Path(os.path.realpath(path))
        partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write: {error.strerror}", where=str(path), mend="free space or choose another place"
        ) from None


def write_text_atomic(path: str | Path, text: str) -> None:
    """`write_bytes_atomic` for UTF-8 text. Lone surrogates, which no file can hold, become '?'."""
    write_bytes_atomic(path, text.encode("utf-8", errors="replace"))


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Indented JSON with a final newline. Raises ValueError on NaN and infinities: JSON has none."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl_atomic(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, one for each row."""
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
