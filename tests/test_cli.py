"""The command line: what it imports, and how its errors end."""

import errno
import importlib.util
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from anchortrain import cli
from anchortrain.cli import COMMANDS, Command, main
from anchortrain.devices import ignore_absent_tpus, tpu_chips
from anchortrain.errors import UserError

HEAVY = ("jax", "flax", "tensorflow", "seqio", "grain", "orbax", "numpy", "matplotlib", "gin", "torch")


def python(*arguments: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **kwargs)


@pytest.fixture
def fake(monkeypatch):
    """Registers a command `fake` whose run is the given function."""

    def register(run, add_arguments=lambda parser: parser.add_argument("--out")) -> None:
        module = types.ModuleType("anchortrain_fake_command", "A fake.")
        module.run, module.add_arguments = run, add_arguments
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "fake", Command(module.__name__, "a fake"))

    return register


def raiser(error: BaseException):
    def run(args):
        raise error

    return run


def test_import_and_help_load_nothing_heavy():
    for arguments in (["-c", "import anchortrain"], ["-m", "anchortrain", "--help"]):
        done = python("-X", "importtime", *arguments)
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert "anchortrain" in imported
        assert not [name for name in imported if name.split(".")[0] in HEAVY]
        assert not [name for name in imported if name.startswith("anchortrain.commands")]


def test_help_is_quick():
    started = time.monotonic()
    assert python("-m", "anchortrain", "--help").returncode == 0
    assert time.monotonic() - started < 2.0  # 0.1 s alone; the machine may be busy


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text and command.help in text for name, command in COMMANDS.items())


def test_no_command_shows_the_usage_and_fails(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "usage: anchortrain" in captured.err and not captured.out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("anchortrain 0.")


@pytest.mark.parametrize(
    "argv, message",
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["xyzzy"], "unknown command 'xyzzy'; there are quickstart, storyworld,"),
        (["--verison"], "unknown option '--verison'"),
        (["fake", "--uot", "x"], "unknown option --uot; did you mean '--out'?"),
        (["fake", "--ou=x"], "unknown option --ou; did you mean '--out'?"),
        (["fake", "x"], "unexpected argument 'x'; see anchortrain fake --help"),
        (["fake", "--n", "x"], "argument --n: invalid int value: 'x'; see anchortrain fake --help"),
    ],
)
def test_mistakes_are_one_line(fake, capsys, argv, message):
    def add_arguments(parser):
        parser.add_argument("--out")
        parser.add_argument("--n", type=int)

    fake(lambda args: 0, add_arguments)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"anchortrain: error: {message}") and err.count("\n") == 1


def test_run_gets_its_arguments_and_gives_the_code(fake):
    fake(lambda args: 7 if args.out == "x" else 0)
    assert main(["fake", "--out", "x"]) == 7


def test_help_of_a_command(fake, capsys):
    fake(lambda args: 1)
    assert main(["fake", "--help"]) == 0
    assert "usage: anchortrain fake" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("is empty", where="a.jsonl", mend="add a line"), "a.jsonl: is empty; add a line"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "a: no such file or directory"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"a"), "a: is a directory"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "a: no space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "o: no space left on device"),
    ],
)
def test_errors_of_the_user(fake, capsys, error, line):
    fake(raiser(error))
    assert main(["fake", "--out", "o"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"anchortrain: error: {line}\n" and not captured.out


def test_other_errors_keep_their_traceback(fake):
    fake(raiser(OSError("no path in it")))
    with pytest.raises(OSError, match="no path in it"):
        main(["fake"])


def test_a_full_disk(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "anchortrain", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.stderr == "anchortrain: error: no space left on device\n" and done.returncode == 2


@pytest.mark.parametrize("error, line", [(KeyboardInterrupt(), "interrupted"), (KeyboardInterrupt("saved"), "saved")])
def test_interrupted(fake, capsys, error, line):
    fake(raiser(error))
    assert main(["fake"]) == 130
    assert capsys.readouterr().err == f"\nanchortrain: {line}\n"


def test_a_reader_that_leaves_is_not_an_error():
    script = (
        "import sys, types; from anchortrain import cli\n"
        "module = types.ModuleType('m', ''); module.add_arguments = lambda parser: None\n"
        "module.run = lambda args: [print('x' * 1000) for _ in range(1000)] and 0\n"
        "sys.modules['m'] = module; cli.COMMANDS['m'] = cli.Command('m', '')\n"
        "sys.exit(cli.main(['m']))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=60) == cli.EXIT_BROKEN_PIPE


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_without_heavy_imports(name):
    done = python("-X", "importtime", "-m", "anchortrain", name, "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"usage: anchortrain {name}" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert not imported & {"jax", "tensorflow", "seqio", "grain", "orbax", "torch", "matplotlib"}


def test_without_a_tpu_its_compiler_is_left_alone(monkeypatch):
    """`pip install anchortrain[plan]` must not make every command warn of TPUs that are not there."""
    if importlib.util.find_spec("libtpu") is None or tpu_chips() or Path("/dev/nvidia0").exists():
        pytest.skip("needs libtpu and no accelerator")
    monkeypatch.delenv("JAX_PLATFORMS")
    ignore_absent_tpus()
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    ignore_absent_tpus()
    assert os.environ["JAX_PLATFORMS"] == "tpu"
