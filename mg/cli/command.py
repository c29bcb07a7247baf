"""What all commands share: reading the command line, and saying what went wrong in one line."""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from io import TextIOWrapper
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from mg.interruption import signals_to
from mg.options import parse_options

BAD_INPUT = 2
SOME_FAILED = 1
INTERRUPTED = 130
_LONGEST_LINE = 2000

# What jsonargparse says of a value of a wrong type names Python's types and is long.
_ILL_TYPED = re.compile(r'Parser key "(\w+)":.*(?:Got|Given) value: (.*)', re.DOTALL)
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    type(None): "null",
}

# PyTorch and MindSpore raise a RuntimeError, with one of these in its first line.
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|allocate memory failed", re.I)


class Parser(ArgumentParser):
    """A parser whose errors are one line. It takes no abbreviated options, which `_config_first`
    would not know."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.positional: list[str] = []
        self._types: dict[str, Any] = {}

    def add_class_arguments(self, theclass, *args, **kwargs):
        self._types |= get_type_hints(theclass)
        return super().add_class_arguments(theclass, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        found = _ILL_TYPED.match(message.strip())
        if found and found[1] in self._types:
            message = f"{found[1]} is {found[2]!r}, expected {_kind(self._types[found[1]])}"
        lines = [line.strip(" -") for line in message.strip().splitlines()]
        self.exit(BAD_INPUT, f"{self.prog}: error: {shown(' '.join(filter(None, lines)))}\n")


def _kind(hint: Any) -> str:
    """What values of a type are, to those who write options."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"[{', '.join(map(_kind, get_args(hint)))}]"
    return _KINDS.get(hint) or " or ".join(map(_kind, get_args(hint)))


def settings_parser(settings: type, description: str, **positional: str) -> Parser:
    """A parser of a dataclass: positional arguments for the fields whose help is given here, an
    option for every other, and `--config` for a YAML of these."""
    required = [
        f"--{field.name} {field.name.upper()}"
        for field in fields(settings)
        if field.default is field.default_factory is MISSING and field.name not in positional
    ]
    # What argparse would write lists every option.
    usage = " ".join(["%(prog)s", *required, "[OPTIONS]", *positional])
    parser = Parser(description=description, usage=usage)
    for name, text in positional.items():
        parser.add_argument(name, help=text)
        parser.positional.append(name)
    parser.add_argument("--config", action="config", help="YAML file of the options below.")
    parser.add_class_arguments(settings, skip={*positional})
    return parser


def parse(parser: Parser, settings: type, args: list[str] | None):
    """The dataclass `settings` made from the command line, whose options override the YAML file.

    Raises:
        ValueError: the dataclass refuses a value, or the file is no YAML of options.
    """
    args = _config_first(sys.argv[1:] if args is None else args, parser, settings)
    flags = {f"--{field.name}" for field in fields(settings) if field.type in (bool, bool | None)}
    values = parser.parse_args(_with_values(args, flags)).as_dict()
    values.pop("config")
    return settings(**values)


def _with_values(args: list[str], flags: set[str]) -> list[str]:
    """The arguments, with `--flag=True` for a flag that no value follows."""
    return [
        f"{arg}=True" if arg in flags and after.startswith("-") else arg
        for arg, after in pairwise([*args, "-"])
    ]


def _config_first(args: list[str], parser: Parser, settings: type) -> list[str]:
    """The arguments with `--config` first, since of two values of an option the later counts."""
    configs, others = [], []
    rest = iter(args)
    for arg in rest:
        if arg == "--config":
            configs += [arg, *islice(rest, 1)]
        elif arg.startswith("--config="):
            configs.append(arg)
        else:
            others.append(arg)
    for config in configs:
        if config != "--config":
            _check_config(config.removeprefix("--config="), parser, settings)
    return configs + others


def _check_config(path: str, parser: Parser, settings: type) -> None:
    """Refuse what jsonargparse would refuse without the file's name, or would ignore."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file of options")
    try:
        options = parse_options(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a YAML file of options in UTF-8 ({error})") from None
    if "config" in options:
        raise ValueError(f"{path}: it has a key config, expected options, not another file")
    names = {field.name for field in fields(settings)}
    for name in options:
        if name in parser.positional:
            raise ValueError(f"{path}: it has a key {name}, expected that on the command line")
        if name not in names:
            raise ValueError(f"{path}: it has a key {name}, which is no option of {parser.prog}")


def counted(count: int, thing: str) -> str:
    """A number of things: "1 frame", "2 frames"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def shown(text: str) -> str:
    """A text made safe for a terminal, since names and files of strangers may be in it: shortened,
    and its control characters escaped."""
    if len(text) > _LONGEST_LINE:
        text = f"{text[:_LONGEST_LINE]}..."
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class _Formatter(logging.Formatter):
    def formatMessage(self, record):
        lines = super().formatMessage(record).splitlines()
        return "\n  ".join(map(shown, lines))  # indented: a message starts no line like another's


def run(command: Callable[[list[str] | None], int | None], args: list[str] | None = None) -> int:
    """Run a command; a user's mistake becomes one line on stderr. Returns the exit code."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if isinstance(sys.stdout, TextIOWrapper):  # a file's name need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # SIGTERM too: as that, Ctrl-C arrives while MindSpore runs a graph, since it puts a handler
        # of its own in place of Python's.
        with signals_to(signal.default_int_handler):
            try:
                return command(args) or 0
            finally:
                _flush()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("MG_TRACEBACK"):
            raise
        print(f"error: {shown(' '.join(str(error).split()))}", file=sys.stderr)
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(reason):
            raise
        print(": ".join(filter(None, ("error: out of memory", reason))), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _flush() -> None:
    """Write out what was printed, if anybody reads it: `head`, say, may have read enough.

    Raises:
        OSError: it cannot be written.
    """
    if sys.stdout is None:  # closed before the program began
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OSError(f"standard output: {error.strerror}") from None
