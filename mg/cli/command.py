"""What all commands share: reading the command line, and saying what went wrong in one line."""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser

BAD_INPUT = 2
SOME_FAILED = 1
INTERRUPTED = 130

# PyTorch and MindSpore raise a RuntimeError, with one of these in its first line.
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|allocate memory failed", re.I)


class Parser(ArgumentParser):
    """A parser whose errors are one line, of options in full: `_config_first` knows no others."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        lines = [line.strip(" -") for line in message.strip().splitlines()]
        self.exit(BAD_INPUT, f"{self.prog}: error: {' '.join(filter(None, lines))}\n")


def settings_parser(settings: type, description: str, **positional: str) -> Parser:
    """A parser of a dataclass: positional arguments for the fields whose help is given here, an
    option for every other, and `--config` for a YAML of these."""
    parser = Parser(description=description)
    for name, text in positional.items():
        parser.add_argument(name, help=text)
    parser.add_argument("--config", action="config", help="YAML file of the options below.")
    parser.add_class_arguments(settings, skip={*positional})
    return parser


def parse(parser: Parser, settings: type, args: list[str] | None):
    """The dataclass `settings` made from the command line, whose options override the YAML file.

    Raises:
        ValueError: the dataclass refuses a value, or the file is no YAML of options.
    """
    values = parser.parse_args(_config_first(sys.argv[1:] if args is None else args)).as_dict()
    values.pop("config")
    return settings(**values)


def _config_first(args: list[str]) -> list[str]:
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
        _check_config(config.removeprefix("--config="))
    return configs + others


def _check_config(path: str) -> None:
    """Refuse what jsonargparse would refuse without the file's name."""
    if not Path(path).is_file():
        return
    try:
        options = yaml.load(Path(path).read_text(encoding="utf-8"), _Options)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a YAML file of options in UTF-8 ({error})") from None
    if not isinstance(options, dict):
        raise ValueError(f"{path}: expected a YAML file of options, a line `key: value` for each")


class _Options(yaml.SafeLoader):
    """YAML without aliases, which a few lines can repeat without end, and without a key twice."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("there is an alias, expected every value in its place")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [str(key.value) for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.YAMLError(f"the key {twice[0]} stands there twice")
        return super().construct_mapping(node, deep)


def counted(count: int, thing: str) -> str:
    """A number of things: "1 frame", "2 frames"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def run(command: Callable[[list[str] | None], int | None], args: list[str] | None = None) -> int:
    """Run a command; a user's mistake becomes one line on stderr. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        with _interruptible():
            return command(args) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
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
    finally:
        _flush()


def _flush() -> None:
    """Write out what was printed, if anybody reads it: `head`, say, may have read enough."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does: Ctrl-C arrives as SIGTERM while
    MindSpore runs a graph, since it puts a handler of its own in place of Python's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
