"""`anchortrain <command>`: the table of commands, and how their errors end.

Each command is a module with `add_arguments(parser)` and `run(args) -> int`. It is imported only when it is the
chosen one, so that `anchortrain --help` stays fast.
"""

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from anchortrain import __version__
from anchortrain.devices import ignore_absent_tpus
from anchortrain.errors import UserError
from anchortrain.nearest import suggest

_FULL = (errno.ENOSPC, errno.EDQUOT)
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "quickstart": Command("anchortrain.commands.quickstart", "mode collapse and its prevention on the story world"),
    "storyworld": Command("anchortrain.commands.storyworld", "write the corpus of the story world"),
    "fairytale": Command("anchortrain.commands.fairytale", "write an annotated corpus from FairytaleQA"),
    "annotate": Command("anchortrain.commands.annotate", "write annotations into documents or instructions"),
    "annotate report": Command(
        "anchortrain.commands.annotate_report", "tell whether annotations are worth training on"
    ),
    "tokenizer": Command("anchortrain.commands.tokenizer", "train a byte-level BPE tokenizer"),
    "prepare": Command("anchortrain.commands.prepare", "turn records into tokens with roles, on disk"),
    "inspect": Command("anchortrain.commands.inspect", "print packed rows by role and loss weight"),
    "plan": Command("anchortrain.commands.plan", "compile a run for TPU slices on any machine: does it fit, how fast"),
    "train": Command("anchortrain.commands.train", "pretrain or post-train from a gin file"),
    "draw": Command("anchortrain.commands.draw", "draw annotations from a reference for the KL anchor"),
    "sample": Command("anchortrain.commands.sample", "sample annotation, then response"),
    "serve": Command("anchortrain.commands.serve", "an OpenAI-compatible server for a run, and a page to play with it"),
    "harvest": Command("anchortrain.commands.harvest", "draw plans, write responses, keep what checkers confirm"),
    "rehearse": Command("anchortrain.commands.rehearse", "post-train in rounds on what the model itself wrote well"),
    "evaluate": Command("anchortrain.commands.evaluate", "measure the diversity of samples, write the report"),
    "scaling": Command("anchortrain.commands.scaling", "sizes x methods x seeds: a resumable study and its curves"),
    "scaling report": Command("anchortrain.commands.scaling_report", "curves, fits and claims from a study's rows"),
}


class _Parser(argparse.ArgumentParser):
    """Options may not be abbreviated, and every mistake is one line."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, mend=f"see {self.prog} --help")

    def parse_args(self, args: Sequence[str]) -> argparse.Namespace:
        known, unknown = self.parse_known_args(args)
        for argument in unknown:
            if argument.startswith("-"):
                option = argument.partition("=")[0]
                raise UserError(f"unknown option {option}", mend=suggest(option, self._option_string_actions))
            self.error(f"unexpected argument {argument!r}")
        return known


def usage() -> str:
    """The text of `anchortrain --help`."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: anchortrain [--help | --version] COMMAND ...",
            "",
            "Language models that stay diverse after post-training.",
            "",
            "commands:",
            *(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()),
            "",
            "`anchortrain COMMAND --help` shows the options of one.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. Errors of the user end in one line on stderr, without a traceback."""
    argv = sys.argv[1:] if argv is None else list(argv)
    # Python has none where the shell closed it (`>&-`).
    sys.stdout, sys.stderr = sys.stdout or open(os.devnull, "w"), sys.stderr or open(os.devnull, "w")
    args = argparse.Namespace()
    try:
        code = _dispatch(argv, args)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:
        print(f"\nanchortrain: {str(error) or 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # the reader (head, less) is gone
        return EXIT_BROKEN_PIPE
    except OSError as error:
        line = _os_error_line(error, args)
        if line is None:
            raise
        if error.errno in _FULL and error.filename is None:
            _drop_output()
        return _fail(line)


def _dispatch(argv: Sequence[str], args: argparse.Namespace) -> int:
    """Finds the command and runs it; `args` is filled with its options on the way."""
    if not argv:
        print(usage(), file=sys.stderr)
        return EXIT_USER_ERROR
    name, *rest = argv
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"anchortrain {__version__}")
        return 0
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        raise UserError(f"unknown {kind} {name!r}", mend=suggest(name, COMMANDS))
    ignore_absent_tpus()
    module = importlib.import_module(COMMANDS[name].module)
    parser = _Parser(f"anchortrain {name}", module.__doc__)
    module.add_arguments(parser)
    try:
        vars(args).update(vars(parser.parse_args(rest)))
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return module.run(args)


def _drop_output() -> None:
    """What is still buffered must not raise again at exit."""
    with contextlib.suppress(OSError):  # an output without a file, as in a program that calls `main`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(line: str) -> int:
    print(f"anchortrain: error: {line}", file=sys.stderr)
    return EXIT_USER_ERROR


def _os_error_line(error: OSError, args: argparse.Namespace) -> str | None:
    """One line for what the file system refused; None when it is not about a path or space."""
    # A failing write does not know its file's name; the output of the command is the best there is to say.
    full = error.errno in _FULL
    where = error.filename or (getattr(args, "out", None) if full else None)
    if where is None and not full:
        return None
    what = "no space left on device" if full else (error.strerror or str(error)).lower()
    return str(UserError(what, where=None if where is None else os.fsdecode(where)))
