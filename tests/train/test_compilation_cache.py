"""A second start does not compile; a directory that cannot be written is one warning."""

import os
import subprocess
import sys

import pytest

from anchortrain.compilation_cache import directory, enable

SCRIPT = """
import collections, sys, jax
from anchortrain.cli import main
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))
code = main(sys.argv[1:])
print("hits", events["/jax/compilation_cache/cache_hits"], "misses", events["/jax/compilation_cache/cache_misses"])
sys.exit(code)
"""


@pytest.mark.parametrize(
    "option, environ, expected",
    [
        (None, {}, os.path.expanduser("~/.cache/anchortrain/xla")),
        (None, {"XDG_CACHE_HOME": "/x"}, "/x/anchortrain/xla"),
        (None, {"XDG_CACHE_HOME": "/x", "JAX_COMPILATION_CACHE_DIR": "/j"}, "/j"),
        (None, {"ANCHORTRAIN_CACHE": "/a", "JAX_COMPILATION_CACHE_DIR": "/j"}, "/a"),
        (None, {"ANCHORTRAIN_CACHE": "off"}, None),
        ("gs://bucket/xla", {"ANCHORTRAIN_CACHE": "/a"}, "gs://bucket/xla"),
        ("off", {"ANCHORTRAIN_CACHE": "/a"}, None),
    ],
)
def test_where_it_is(option, environ, expected):
    assert directory(option, environ) == expected


def test_a_directory_that_cannot_be_written_is_one_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    enable(str(tmp_path / "file" / "xla"))
    assert (
        capsys.readouterr().err == f"anchortrain: warning: no compilation cache: {tmp_path}/file/xla: not a directory\n"
    )


def test_a_second_start_does_not_compile(base, tmp_path):
    env = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    found = []
    for name in ("first", "second"):
        options = ["--out", str(tmp_path / name), "--compilation_cache", str(tmp_path / "xla")]
        train = [sys.executable, "-c", SCRIPT, "train", "--config", str(base / "config.json"), *options]
        done = subprocess.run(train, capture_output=True, text=True, env=env, timeout=240)
        assert done.returncode == 0, done.stderr
        _, hits, _, misses = done.stdout.splitlines()[-1].split()
        found.append((int(hits), int(misses)))
    (_, first), (hits, misses) = found
    assert first > 0 and misses == 0 and hits >= first
