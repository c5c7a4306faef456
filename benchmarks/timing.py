"""Common parts of all benchmarks: interleaved rounds, ratios by round, the machine, and one format of results.

Speeds on a shared machine drift by tens of percent within minutes. So the contenders take turns in one process, a
ratio is computed within each round, and the median over rounds is the result.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from debeton.system.cores import usable_cores
from debeton.system.errors import UsageError
from debeton.system.files import write_text

PACKAGES = ("torch", "torchvision", "numpy", "numba", "ffcv", "opencv-python-headless", "pillow", "simplejpeg")
GIB = 1 << 30


@dataclass(frozen=True)
class Result:
    """Result of a benchmark.

    benchmark: its name.
    values: by row name, one measurement for each round; all rows have as many.
    units: by row name.
    ratios: by ratio name, the rows (numerator, denominator).
    settings: everything else that decides the numbers.
    figures: by name, numbers that were measured apart from the rounds, some times each.
    """

    benchmark: str
    values: Mapping[str, Sequence[float]]
    units: Mapping[str, str]
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return len(next(iter(self.values.values())))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON stores it. A ratio is computed in each round and then summarised."""
        rows = [{"name": name, "unit": self.units[name], **spread(v)} for name, v in self.values.items()]
        ratios = {
            name: spread([a / b for a, b in zip(self.values[over], self.values[under])])
            for name, (over, under) in self.ratios.items()
        }
        return {
            "benchmark": self.benchmark,
            "hardware": hardware(),
            "settings": dict(self.settings),
            "rounds": self.rounds,
            "rows": rows,
            "ratios": ratios,
            **({"figures": {name: spread(values) for name, values in self.figures.items()}} if self.figures else {}),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def rate(work: Callable[[], int]) -> Callable[[], float]:
    """Return a measurement: the number that `work` returns, per second."""

    def measure() -> float:
        start = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - start)

    return measure


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a measurement: the seconds that `work` takes."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


def in_new_process(program: str, argument: Path) -> float:
    """Run a program in a new Python process with this one's path and one argument; return the number it prints."""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}", str(argument)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def whole_numbers(text: str, flag: str, least: int) -> list[int]:
    """Parse the numbers of an option, such as '1000,10000'. UsageError for anything else, or below `least`."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UsageError(f"{flag} {text}: expected whole numbers of at least {least} separated by commas")
    return numbers


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each contender once to warm up, then all in turn `rounds` times; return the values of each round."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    with tqdm(total=(rounds + 1) * len(contenders), leave=False) as bar:
        for k in range(rounds + 1):
            for name, measure in contenders.items():
                bar.set_description(f"round {k} of {rounds}: {name}" if k else f"warming up: {name}")
                value = measure()
                if k:
                    values[name].append(value)
                bar.update()
    return values


def hardware() -> dict[str, Any]:
    """Return the machine and the package versions, without the name of a person, a host or a folder."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpu_model() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write `Result.to_dict()` as JSON; the file is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1) + "\n")


def print_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table of the measurements and one of the ratios."""
    console = console or Console()
    machine = result["hardware"]
    console.print(
        f"[bold]{result['benchmark']}[/bold]: {result['rounds']} interleaved rounds on {machine['cores']} cores "
        f"({machine['cpu']}), {machine['gpu'] or 'no GPU'}, load {machine['load_average']}"
    )
    console.print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in result["settings"].items()))
    measured = Table("", "unit", "min", "median", "max")
    ratios = Table("ratio or figure", "min", "median", "max")
    for table in (measured, ratios):
        for column in table.columns[-3:]:
            column.justify = "right"
    for row in result["rows"]:
        measured.add_row(row["name"], row["unit"], *(f"{row[k]:.4g}" for k in ("min", "median", "max")))
    for name, values in (result["ratios"] | result.get("figures", {})).items():
        ratios.add_row(name, *(f"{values[k]:.2f}" for k in ("min", "median", "max")))
    console.print(measured)
    if ratios.row_count:
        console.print(ratios)
