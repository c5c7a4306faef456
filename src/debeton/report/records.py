"""Run folders read back: configuration, results and curve, each checked for what a reader takes for granted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from debeton.system.errors import DataError

FRACTIONS = (
    "accuracy",
    "adjusted_accuracy",
    "mean_group_accuracy",
    "mean_class_accuracy",
    "worst_group_accuracy",
    "bias_aligned_accuracy",
    "bias_conflicting_accuracy",
)
OPTION = "dataset_options."
# Keys that may differ between the seeds of one setting, and the prefixes of such keys.
SEED_KEYS = (
    "training.seed",
    "data.seed",
    "training.exp_name",
    "training.outdir",
    "training.data_root",
    OPTION + "seed",
    OPTION + "data_seed",
)
SEED_PREFIXES = ("logging.",)
# Of the name of the run that a path leads to: a study's axes and draw, the seed, and the hash that goes with it.
RUN_IN_PATH = re.compile(r"(_[\w.]+=[^_/]+)*(_draw\d+)?_seed\d+(_[0-9a-f]{12})?")


@dataclass(frozen=True)
class RunRecord:
    """One run folder.

    config: config.yaml by dotted key ('training.lr').
    results: results.json, or None while the run is unfinished.
    curve: the lines of results.jsonl, in order.
    """

    folder: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any] | None
    curve: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def is_finished(self) -> bool:
        return self.results is not None

    @property
    def seed(self) -> Any:
        return self.results["seed"] if self.results else self.config.get("training.seed")

    @property
    def seeds(self) -> tuple[Any, Any]:
        """(training seed, data seed): what tells the runs of one setting apart."""
        return self.seed, self.config.get("data.seed")

    @property
    def last_epoch(self) -> int:
        """Finished epochs of the latest phase; 0 before the first evaluation."""
        return int(self.curve[-1]["epoch"] or 0) if self.curve else 0

    def metrics(self, split: str) -> Mapping[str, Any]:
        """The final metrics of a split, fractions in [0, 1]; empty where it was not evaluated."""
        return (self.results or {}).get(split) or {}

    @property
    def oracle(self) -> Mapping[str, Any] | None:
        """With training.oracle, the 'rule', 'epoch' and 'test' metrics of the epoch that the test split would keep."""
        return (self.results or {}).get("oracle")

    @property
    def method(self) -> str:
        return str((self.results or {}).get("method") or self.config.get("training.method"))

    @property
    def sections(self) -> set[str]:
        """Sections of the configuration that are its method's."""
        return {self.method, *(self.results or {}).get("method_sections", ())}

    def identity(self, sections: Iterable[str] = ()) -> dict[str, Any]:
        """What this run is, by dotted key, without seeds, names, places, logging and those of `sections`, which are of
        methods, that are not its method's.

        A method that this run's own section names (dfr.base) keeps its section.
        """
        results = self.results or {}
        keys = {"dataset": results.get("dataset"), "selection": results.get("selection"), **self.config}
        keys |= flatten({OPTION[:-1]: results.get("dataset_options") or {}})
        keys["training.method"] = results.get("method")
        own = self.sections | {str(v) for k, v in keys.items() if k.startswith(f"{self.method}.")}
        left_out = (*SEED_PREFIXES, *(f"{section}." for section in sections if section not in own))
        found = {k: v for k, v in keys.items() if k not in SEED_KEYS and not k.startswith(left_out)}
        return {k: RUN_IN_PATH.sub("", v) if isinstance(v, str) and "/" in v else v for k, v in found.items()}


def load_runs(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Every run folder at or below `paths`, in natural order, finished or not.

    Raises: DataError for a missing path, for a file that cannot be understood (named), and when nothing is found.
    """
    places = [Path(path) for path in paths]
    folders: dict[Path, Path] = {}
    for path in places:
        if not path.exists():
            raise DataError(f"no such run or folder: {path}")
        for folder in [path.parent] if path.is_file() else [Path(root) for root, _, _ in os.walk(path)]:
            if (folder / "results.json").is_file() or (folder / "config.yaml").is_file():
                folders.setdefault(folder.resolve(), folder)
    if not folders:
        raise DataError(
            f"no runs at or below {', '.join(map(str, places)) or '(no path given)'}; looked for results.json, or the "
            "config.yaml of an unfinished run, as in OUTDIR/EXP_NAME/version_0/"
        )
    return [_read_run(folder) for folder in sorted(folders, key=natural_key)]


def natural_key(value: object) -> list[Any]:
    """A sort key that puts version_10 after version_9."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", str(value)) if t]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _read_run(folder: Path) -> RunRecord:
    config_file, results_file, curve_file = (folder / n for n in ("config.yaml", "results.json", "results.jsonl"))
    if not config_file.is_file():
        raise DataError(f"{folder} has a results.json but no config.yaml; a run folder has both: leave it out of RUNS")
    try:
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{config_file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, Mapping):
        raise DataError(f"{config_file} holds {type(config).__name__}; expected sections of keys")
    results = None
    if results_file.is_file():
        results = read_json(results_file.read_bytes(), str(results_file))
        for key in ("dataset", "method", "seed"):
            if key not in results:
                raise DataError(f"{results_file} lacks '{key}'; run the training command again to rewrite it")
        if not isinstance(results.get("train_groups") or {}, dict):
            raise DataError(f"{results_file}: train_groups is not counts by group name")
        for split in ("val", "test"):
            _check_metrics(results.get(split), f"{results_file}: {split}")
    return RunRecord(folder, flatten(config), results, tuple(_read_curve(curve_file)))


def _read_curve(file: Path) -> list[dict[str, Any]]:
    lines = file.read_bytes().split(b"\n") if file.is_file() else [b""]
    lines.pop()  # empty, or the unfinished last line of a run that was killed or is writing now
    rows = [read_json(line, f"{file}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    for i, row in enumerate(rows, 1):
        if missing := [key for key in ("epoch", "split", "metrics") if key not in row]:
            raise DataError(f"{file}, evaluation {i} lacks '{missing[0]}'")
        _check_metrics(row["metrics"], f"{file}, evaluation {i}: metrics")
    return rows


def read_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object, with null for NaN and infinities; DataError for anything else."""
    try:
        # NaN and Infinity, which Python writes for a diverged loss, read as null.
        value = json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}; it is cut short or was edited by hand") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} holds {type(value).__name__}; expected an object")
    return value


def _check_metrics(metrics: Any, where: str) -> None:
    if metrics is None:
        return
    for key in ("group_accuracy", "group_count"):
        if not isinstance(metrics, dict) or not isinstance(metrics.get(key) or {}, dict):
            raise DataError(f"{where} is not a set of metrics with '{key}' by group name")
    fractions = {key: metrics.get(key) for key in FRACTIONS}
    fractions |= {f"group_accuracy['{name}']": v for name, v in (metrics.get("group_accuracy") or {}).items()}
    for key, value in fractions.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value <= 1):
            raise DataError(f"{where}.{key} is {value!r}; expected a fraction in [0, 1] or null")
