"""Runs the quick start's stages: each is one `anchortrain` command in a process of its own.

Two tracks run side by side, one process a core, because a model of this size keeps one core busy and no more. A
stage whose output exists is not run again, which is all that resuming takes: every command writes its output
whole or continues it by itself.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from anchortrain.errors import UserError

_STATUS_SECONDS = 15.0


class Interrupted(Exception):
    """The other track failed or the user stopped the quick start."""


class Runner:
    """Runs commands, keeps their logs and tells how far things are."""

    def __init__(self, out: Path, costs: dict[str, float], say: Callable[[str], None]) -> None:
        """Args: `costs` maps a stage to the share of the work that it is expected to be, in any unit."""
        self.out, self.costs, self.say = out, costs, say
        self.ended: set[str] = set()
        self._running: dict[str, subprocess.Popen] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._started = time.monotonic()
        self._cost_here = 0.0  # of what this process really ran
        (out / "logs").mkdir(parents=True, exist_ok=True)

    def command(self, name: str, arguments: Sequence[str], output: Path, *, module: str = "anchortrain") -> Path:
        """Runs `python -m MODULE ARGUMENTS` unless `output` exists; returns `output`.

        Raises UserError, with the last line of its log, when the command fails.
        """
        if output.exists():
            self._end(name, ran=False)
            return output
        started = time.monotonic()
        line = [sys.executable, "-m", module, *arguments]
        log_path = self.out / "logs" / f"{name}.log"
        with open(log_path, "a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(line[1:])}\n")
            log.flush()
            process = self._start(name, line, log)
            code = process.wait()
        with self._lock:
            del self._running[name]
        if self._stopping:
            raise Interrupted
        if code:
            last = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            raise UserError(f"stage {name} failed with exit code {code}: {last}", mend=f"see {log_path}")
        self._end(name, ran=True)
        self.say(f"{name}: done in {time.monotonic() - started:.0f}s, {self.estimate()}")
        return output

    def _start(self, name: str, line: list[str], log) -> subprocess.Popen:
        with self._lock:
            if self._stopping:
                raise Interrupted
            # A session of its own: an interrupt at the terminal reaches the stages through `stop`, once.
            process = subprocess.Popen(line, stdout=log, stderr=log, env=environment(self.out), start_new_session=True)
            self._running[name] = process
            return process

    def _end(self, name: str, *, ran: bool) -> None:
        with self._lock:
            self.ended.add(name)
            if ran:
                self._cost_here += self.costs.get(name, 0.0)

    def estimate(self) -> str:
        """How much is left, from what this process has done so far."""
        left = sum(cost for name, cost in self.costs.items() if name not in self.ended)
        if not self._cost_here:
            return "estimating the time left"
        seconds = (time.monotonic() - self._started) * left / self._cost_here
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f}s left"

    def status(self) -> str:
        """The last line that each running stage wrote."""
        with self._lock:
            names = list(self._running)
        lines = []
        for name in names:
            text = (self.out / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
            last = text.strip().splitlines()[-1]
            lines.append(name if last.startswith("$") or "%" not in last else last)
        return " | ".join(lines)

    def stop(self) -> None:
        """Asks every running stage to stop and save, waits for it, and lets no other begin."""
        with self._lock:
            self._stopping = True
            running = list(self._running.values())
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()

    def run_tracks(self, tracks: Sequence[Callable[[], None]], poll: Callable[[], None]) -> None:
        """Runs the tracks side by side, calling `poll` about once a second; raises the first error of any."""
        errors: list[BaseException] = []

        def guarded(track: Callable[[], None]) -> None:
            try:
                track()
            except Interrupted:
                pass
            except BaseException as error:  # told to the user by the main thread
                errors.append(error)
                self.stop()

        threads = [threading.Thread(target=guarded, args=(track,)) for track in tracks]
        for thread in threads:
            thread.start()
        told = time.monotonic()
        try:
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.5)
                poll()
                if time.monotonic() - told > _STATUS_SECONDS and (status := self.status()):
                    self.say(status)
                    told = time.monotonic()
        except BaseException:
            self.stop()
            for thread in threads:
                thread.join()
            raise
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        poll()


def environment(out: Path) -> dict[str, str]:
    """One core a process, CPU only, and compiled programs shared between the stages."""
    ours = "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=1"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {ours}"
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags.strip(),
        "OMP_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str((out / "cache").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
