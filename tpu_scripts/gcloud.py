"""The only door to Google Cloud: runs `gcloud`, tells kinds of failure apart, waits and tries again.

Arguments are lists and never pass a local shell. Nothing secret is ever an argument: secrets are named, and fetched by
the machine that needs them.
"""

import contextlib
import enum
import json
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, TypeVar

from anchortrain.errors import UserError

_SHOWN = 160  # characters of an argument that a person is shown
_MAX_PAUSE = 60.0  # seconds between two tries
_END_SECONDS = 10.0  # that a command which is cut off may take to end
T = TypeVar("T")


class Kind(enum.Enum):
    """What a failure of gcloud asks for."""

    TRANSIENT = "try again"
    CAPACITY = "try another zone"
    EXISTS = "it is there already"
    NOT_FOUND = "it is not there"
    PERMANENT = "mend it"


# The first that is found in what gcloud says decides.
_PATTERNS = (
    (Kind.NOT_FOUND, r"NOT_FOUND|was not found|matched no objects|HTTPError 404"),
    (Kind.EXISTS, r"ALREADY_EXISTS|already exists|HTTPError 412|conditionNotMet|pre-conditions you specified"),
    (Kind.PERMANENT, r"PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|HTTPError 40[013]|does not have permission"),
    (Kind.PERMANENT, r"Reauthentication|not currently have an active account|unrecognized arguments"),
    (Kind.CAPACITY, r"RESOURCE_EXHAUSTED|[Qq]uota|no more capacity|[Ss]tockout|enough resources"),
    (Kind.TRANSIENT, r"HTTPError (409|429|5\d\d)|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|INTERNAL|FAILED_PRECONDITION"),
    (Kind.TRANSIENT, r"return code \[255\]|timed out|[Cc]onnection|Could not SSH|Temporary failure"),
    (
        Kind.TRANSIENT,
        r"[Nn]etwork is unreachable|Name or service not known|[Ff]ailed to resolve|Unable to find the server",
    ),
    (Kind.TRANSIENT, r"Max retries exceeded|SSLError|RemoteDisconnected|No route to host"),
)
_HTTP_429 = re.compile(r"HTTPError 429|rateLimitExceeded|RATE_LIMIT_EXCEEDED")


class Result(NamedTuple):
    """How a program ended."""

    code: int
    stdout: str
    stderr: str


class GcloudError(UserError):
    """gcloud failed, and trying again has not helped or would not."""

    def __init__(self, kind: Kind, argv: Sequence[str], result: Result) -> None:
        self.kind, self.code, self.stderr = kind, result.code, result.stderr
        self.reason = reason(result)
        super().__init__(self.reason, where=show(argv), mend=_mend(kind, self.reason))


class Clock:
    """Time in seconds since the epoch. Tests have one that does not wait."""

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came; in a thread: the command that it waited for was cut off for that."""


Execute = Callable[[Sequence[str], str | None, float], Result]
_running: dict[int, Sequence[str]] = {}  # process id, which is that of its group -> arguments
_cut_off: set[int] = set()  # of these


def cut_off(which: Callable[[Sequence[str]], bool]) -> None:
    """Ends running commands by their arguments: threads that wait for them cannot be interrupted. They raise
    Interrupted: that such a command failed says nothing of what it was asked for."""
    for pid, argv in list(_running.items()):
        if which(argv):
            _cut_off.add(pid)
            _kill(pid, signal.SIGTERM)


def results(futures: Sequence[Future[T]]) -> list[T]:
    """What threads return, in order; raises the first error. The thread that waits wakes up now and then: a signal
    may be given to any thread, and only the main one, which would sleep on, handles it."""
    found = []
    for future in futures:
        while not future.done():
            wait([future], timeout=0.5)
        found.append(future.result())
    return found


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may just have ended
        os.killpg(group, number)


def execute(argv: Sequence[str], stdin: str | None, timeout: float) -> Result:
    """Runs a program to its end, at most `timeout` seconds; then it and its children are killed (exit code 124)."""
    try:
        # A session of its own: an interrupt at the terminal reaches us only, and we decide what is cut off.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        what = f"{argv[0]} is not installed"
        raise UserError(what, mend="https://docs.cloud.google.com/sdk/docs/install") from None
    except OSError as error:  # it may not be run, or what it is told is longer than the system allows
        raise UserError(f"{argv[0]} cannot be run: {error.strerror}") from None
    _running[process.pid] = argv
    try:
        stdout, stderr = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        _kill(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return Result(124, stdout, f"{stderr}\ntimed out after {timeout:g} s")
    except BaseException:
        _kill(process.pid, signal.SIGTERM)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process.pid, signal.SIGKILL)
        raise
    finally:
        _running.pop(process.pid, None)
    if process.pid in _cut_off:
        _cut_off.discard(process.pid)
        raise Interrupted
    return Result(process.returncode, stdout, stderr)


class Gcloud:
    """Runs gcloud commands; every method raises GcloudError."""

    def __init__(
        self,
        *,
        execute: Execute = execute,
        clock: Clock | None = None,
        say: Callable[[str], None] = lambda line: None,
        dry_run: bool = False,
    ) -> None:
        """`say` is told of every second try. With `dry_run` what would change something is said instead of done."""
        self._execute, self.clock, self._say, self.dry_run = execute, clock or Clock(), say, dry_run

    def with_clock(self, clock: Clock) -> "Gcloud":
        """The same, but it waits as `clock` does."""
        return Gcloud(execute=self._execute, clock=clock, say=self._say, dry_run=self.dry_run)

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 300.0,
        tries: int = 6,
        changes: bool = False,
    ) -> str:
        """Standard output of `gcloud ARGS --quiet`.

        Args:
          timeout: seconds, of one try.
          tries: at most so many, with growing pauses, while the failure is transient.
          changes: whether it changes anything outside (see `dry_run`).
        """
        argv = ["gcloud", *args, "--quiet"]
        if changes and self.dry_run:
            self._say(f"would run: {show(argv)}")
            return ""
        for attempt in range(1, tries + 1):
            result = self._execute(argv, stdin, timeout)
            if result.code == 0:
                return result.stdout
            error = GcloudError(classify(result), argv, result)
            if error.kind is not Kind.TRANSIENT or attempt == tries:
                raise error
            pause = min(2.0**attempt, _MAX_PAUSE) * random.uniform(0.5, 1.0)
            self._say(f"{error.reason}; trying again in {pause:.0f} s ({show(argv[:5])} ...)")
            self.clock.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    def json(self, args: Sequence[str], **options: Any) -> Any:
        """What `gcloud ARGS --format=json` prints, parsed."""
        text = self.run([*args, "--format=json"], **options)
        try:
            return json.loads(text or "null")
        except ValueError:
            result = Result(0, text, f"did not print JSON: {text[:80]!r}")
            raise GcloudError(Kind.PERMANENT, ["gcloud", *args], result) from None

    def find(self, args: Sequence[str], **options: Any) -> Any:
        """As `json`, but None when what is described does not exist."""
        try:
            return self.json(args, **options)
        except GcloudError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise


def classify(result: Result) -> Kind:
    """The kind of a failure, from what gcloud said; what nobody knows is permanent, so that it is seen."""
    if result.code in (124, 255):
        return Kind.TRANSIENT
    if _HTTP_429.search(result.stderr):  # of the API's rate; the same words are used for the quota of chips
        return Kind.TRANSIENT
    for kind, pattern in _PATTERNS:
        if re.search(pattern, result.stderr):
            return kind
    return Kind.PERMANENT


def reason(result: Result) -> str:
    """What gcloud says is wrong, in one line."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    line = (errors or lines or [f"ended with exit code {result.code}"])[-1]
    return re.sub(r"^ERROR:\s*(\([\w.-]+\)\s*)?", "", line)[:400]


def show(argv: Sequence[str]) -> str:
    """A command for people: quoted, long arguments cut."""
    return shlex.join(one if len(one) <= _SHOWN else f"{one[:60]}...({len(one)} characters)" for one in argv)


def _mend(kind: Kind, text: str) -> str | None:
    if "PERMISSION_DENIED" in text or "does not have permission" in text:
        return "ask for the role, or check project and account; `python -m tpu_scripts doctor` looks for more"
    if "active account" in text or "UNAUTHENTICATED" in text or "Reauthentication" in text:
        return "gcloud auth login"
    return "name more zones, or ask for quota" if kind is Kind.CAPACITY else None
