"""Benchmarks whose results are recorded, one module each; importing this package registers them all.

A benchmark is a function `run(arguments) -> Result`. To add one, write a new module here that calls
`register_benchmark`; no other file names it. Heavy packages are imported inside the function.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.timing import Result
from debeton.system.registry import Registry

Run = Callable[[argparse.Namespace], Result]


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


@dataclass(frozen=True)
class Benchmark:
    """A registered benchmark.

    run: measures, and returns the result.
    add_arguments: adds its options to those that all benchmarks share (--json, --rounds).
    """

    run: Run
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")


def register_benchmark(
    name: str, summary: str, add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
) -> Callable[[Run], Run]:
    """Return a decorator that registers `run(arguments) -> Result` under `name`."""

    def decorate(run: Run) -> Run:
        BENCHMARKS.add(name, Benchmark(run, add_arguments), summary)
        return run

    return decorate


for _module in pkgutil.iter_modules(__path__):
    if _module.name == "__main__":  # the program, which runs what is registered here
        continue
    importlib.import_module(f"{__name__}.{_module.name}")
