"""Objects of a run in its bucket. Writing one is all or nothing, as Cloud Storage has it."""

import json
import re
from typing import Any, NamedTuple

from anchortrain.errors import UserError
from tpu_scripts.gcloud import Gcloud, GcloudError, Kind


class Object(NamedTuple):
    """One line of `gcloud storage ls --long`."""

    url: str
    size: int  # bytes
    updated: str  # RFC 3339, UTC


class Storage:
    """Reads and writes `gs://` URLs. Methods raise GcloudError."""

    def __init__(self, gcloud: Gcloud) -> None:
        self._gcloud = gcloud

    def read(self, url: str) -> str | None:
        """The text of an object; None when there is none."""
        try:
            return self._gcloud.run(["storage", "cat", url])
        except GcloudError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise

    def read_json(self, url: str) -> Any:
        """The value of a JSON object; None when there is none."""
        text = self.read(url)
        try:
            return None if text is None else json.loads(text)
        except ValueError:
            raise UserError("is damaged: not JSON", where=url, mend="remove the object, or mend it by hand") from None

    def read_record(self, url: str, **fields: type | tuple[type, ...]) -> dict[str, Any] | None:
        """As `read_json`, of an object that has fields of such types. Raises UserError where it has not."""
        found = self.read_json(url)
        if found is None:
            return None
        wrong = [name for name, kind in fields.items() if not isinstance(found, dict) or not _is(found.get(name), kind)]
        if wrong:
            what = f"is damaged: {wrong[0]} is missing or of the wrong type"
            raise UserError(what, where=url, mend="remove the object, or mend it by hand")
        return found

    def write(self, url: str, text: str) -> None:
        self._gcloud.run(["storage", "cp", "-", url], stdin=text, changes=True)

    def create(self, url: str, text: str) -> bool:
        """Writes an object that must be new; False when another one is there. One written by a try that was cut off
        counts as ours if it holds the same text."""
        try:
            self._gcloud.run(["storage", "cp", "-", url, "--if-generation-match=0"], stdin=text, changes=True)
        except GcloudError as error:
            if error.kind is not Kind.EXISTS:
                raise
            return self.read(url) == text
        return not self._gcloud.dry_run or self.read(url) is None

    def upload(self, path: str, url: str) -> None:
        """Copies a local file."""
        self._gcloud.run(["storage", "cp", path, url], timeout=600, changes=True)

    def objects(self, pattern: str) -> list[Object]:
        """Objects that match; `**` crosses slashes. Folders are left out."""
        try:
            text = self._gcloud.run(["storage", "ls", pattern, "--long"])
        except GcloudError as error:
            if error.kind is Kind.NOT_FOUND:
                return []
            raise
        found = re.findall(r"^\s*(\d+)\s+(\S+Z)\s+(gs://.*?)\s*$", text, re.MULTILINE)
        return [Object(url, int(size), updated) for size, updated, url in found]

    def folders(self, url: str) -> list[str]:
        """Names of what lies directly below a folder `gs://.../`, without slashes."""
        try:
            text = self._gcloud.run(["storage", "ls", url])
        except GcloudError as error:
            if error.kind is Kind.NOT_FOUND:
                return []
            raise
        return [line.strip().rstrip("/").rpartition("/")[2] for line in text.splitlines() if line.strip() != url]


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
