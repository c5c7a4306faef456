"""The command `debeton`: the table of commands, and the way from a word to its module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, cast

from debeton import __version__
from debeton.system.errors import UsageError, nearest, run_command


@dataclass(frozen=True)
class Command:
    """A command: its module in `debeton.commands`, and the line about it in `debeton --help`."""

    module: str
    summary: str

    @property
    def main(self) -> Callable[[Sequence[str]], int]:
        """The function that runs the command; its module is imported now and not before."""
        module = importlib.import_module(f"debeton.commands.{self.module}")
        return cast("Callable[[Sequence[str]], int]", module.main)


COMMANDS = {
    "train": Command("train", "train and evaluate one run"),
    "write-betons": Command("write_betons", "write a data set as betons"),
    "generate": Command("generate", "make synthetic images of every group"),
    "groups": Command("groups", "find groups of the training rows, and say how good they are"),
    "sweep": Command("sweep", "run the many runs of a study, here or on a cluster"),
    "report": Command("report", "make tables, figures and one page of finished runs"),
    "evaluate": Command("evaluate", "measure any classifier on any groups, without training"),
    "predict": Command("predict", "classify the images of a folder, CSV or beton, or export a classifier"),
    "captions": Command("captions", "name the bias of synthetic images in words"),
    "probe": Command("probe", "read source and attribute from a network's features"),
    "doctor": Command("doctor", "check this machine, and print what mends it"),
    "list": Command("list_names", "list methods, data sets, triggers, networks, presets, ..."),
}


def help_text() -> str:
    """Return the text of `debeton --help`: the usage, and one line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: debeton COMMAND [OPTIONS]",
            "",
            "Training that does not take the shortcut: an engine for the study of spurious correlations.",
            "",
            "commands:",
            *lines,
            "",
            "'debeton COMMAND --help' shows the options of a command.",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names, and return its exit status; UsageError for an unknown word."""
    if not argv:
        print(help_text(), file=sys.stderr)
        return 2
    word, rest = argv[0], argv[1:]
    if word in ("--help", "-h"):
        print(help_text())
        return 0
    if word == "--version":
        print(f"debeton {__version__}")
        return 0
    if word not in COMMANDS:
        raise UsageError(f"unknown command '{word}'{nearest(word, COMMANDS)} known: {', '.join(COMMANDS)}")
    sys.argv[0] = f"debeton {word}"  # the program's name in usage lines
    return COMMANDS[word].main(rest)


def run() -> NoReturn:
    """Run `debeton` with this process's arguments, and end the process."""
    sys.exit(run_command(lambda: main(sys.argv[1:])))


def run_script(name: str) -> NoReturn:
    """Run the command `name` with this process's arguments, as the scripts of a checkout do, and end the process."""
    sys.exit(run_command(lambda: COMMANDS[name].main(sys.argv[1:])))
