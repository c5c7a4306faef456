"""What all benchmarks share: interleaved rounds, ratios round by round, the machine, and one form of result.

Speeds on a shared machine drift by tens of percent within minutes. Contenders therefore take turns in one
process, a ratio is taken within each round, and the median over rounds is what counts.
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
    """What a benchmark found.

    values: by row name, one measurement per round; all rows have as many. units: by row name.
    ratios: by ratio name, the rows (numerator, denominator). settings: whatever else decides the numbers. figures: what
    was measured on its own, some times.
    """

    benchmark: str
    values: Mapping[str, Sequence[float]]
    units: Mapping[str, str]
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return len(next(iter(self.values.values())))

    def to_dict(self) -> dict[str, Any]:
        """The form on disk; a ratio is taken in each round and then summarised."""
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
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def rate(work: Callable[[], int]) -> Callable[[], float]:
    """A measurement: how many things a second `work`, which returns how many it did, gets through."""

    def measure() -> float:
        start = time.perf_counter()
        count = work()
        return count / (time.perf_counter() - start)

    return measure


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """A measurement: the seconds that work takes."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


def in_new_process(program: str, argument: Path) -> float:
    """The number that a program prints in a new Python process with this one's path and an argument."""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}", str(argument)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def whole_numbers(text: str, flag: str, least: int) -> list[int]:
    """The numbers in '1000,10000', an option's value; UsageError for anything else."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise UsageError(f"{flag} {text}: expected whole numbers of at least {least} separated by commas")
    return found


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each contender once to warm up, then all of them in turn `rounds` times; the value of each round."""
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
    """The machine and the packages; nothing that names a person, a host or a folder."""
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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write `Result.to_dict()` as JSON; the file is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1) + "\n")


def print_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """A table of the measurements and one of the ratios."""
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
