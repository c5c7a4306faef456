"""Run folders read back, and gathered into settings: runs that agree in everything but their seeds."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from debeton.errors import DataError

FRACTIONS = (
    "accuracy", "adjusted_accuracy", "mean_group_accuracy", "mean_class_accuracy", "worst_group_accuracy",
    "bias_aligned_accuracy", "bias_conflicting_accuracy",
)  # fmt: skip
OPTION = "dataset_options."
# Keys that may differ between the seeds of one setting, and the prefixes of such keys.
SEED_KEYS = (
    "training.seed", "data.seed", "training.exp_name", "training.outdir", "training.data_root", OPTION + "seed",
    OPTION + "data_seed",
)  # fmt: skip
SEED_PREFIXES = ("logging.",)
# Of the name of the run that a path leads to: a study's axes and draw, the seed, and the hash that goes with it.
RUN_IN_PATH = re.compile(r"(_[\w.]+=[^_/]+)*(_draw\d+)?_seed\d+(_[0-9a-f]{12})?")


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (None for n = 1) of one number over n seeds; percent."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


def make_stat(values: Sequence[float]) -> Stat | None:
    """The Stat of `values`; None when there is none, because 0/0 is not 0."""
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


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


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in their seeds.

    parts: the label's pieces: the method, then 'key value' of what tells it from the other settings.
    repeats: runs whose seeds another run of the setting has too; not counted.
    """

    parts: tuple[str, ...]
    identity: Mapping[str, Any]
    runs: tuple[RunRecord, ...]
    repeats: tuple[RunRecord, ...] = ()

    @property
    def label(self) -> str:
        return " · ".join(self.parts)

    @property
    def method(self) -> str:
        return str(self.identity["training.method"])

    @property
    def dataset(self) -> str:
        return str(self.identity["dataset"])

    @property
    def selection(self) -> str:
        return str(self.identity["selection"] or "–")

    @property
    def group_names(self) -> tuple[str, ...]:
        """Every group of the training and test splits, in the data set's order."""
        final = [run.results or {} for run in self.runs]
        names = [name for result in final for name in result.get("train_groups") or {}]
        names += [g for run in self.runs for s in ("test", "val") for g in run.metrics(s).get("group_accuracy") or {}]
        return tuple(dict.fromkeys(names))

    def stat(self, metric: str, split: str) -> Stat | None:
        """A metric in percent over the seeds that define it."""
        return _percent(run.metrics(split).get(metric) for run in self.runs)

    def group_stat(self, group: str, split: str) -> Stat | None:
        """A group's accuracy in percent over the seeds that have a sample of it."""
        return _percent((run.metrics(split).get("group_accuracy") or {}).get(group) for run in self.runs)

    def group_count(self, group: str, split: str) -> float | None:
        """Samples of a group, the mean over seeds (subsets may depend on data.seed); None where unknown."""
        final = [run.results or {} for run in self.runs]
        counts = [r.get("train_groups") if split == "train" else (r.get(split) or {}).get("group_count") for r in final]
        known = [c[group] for c in counts if c and c.get(group) is not None]
        return statistics.fmean(known) if known else None


def _percent(values: Iterable[float | None]) -> Stat | None:
    return make_stat([100 * value for value in values if value is not None])


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
    return [_read_run(folder) for folder in sorted(folders, key=natural)]


def natural(value: object) -> list[Any]:
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


def group_settings(records: Iterable[RunRecord], searched: Sequence[str] = ()) -> list[Setting]:
    """Finished runs by setting, ordered by data set, its options and method (erm first).

    searched: keys whose values were chosen, run by run, by a search, and so tell no settings apart.
    """
    finished = [run for run in records if run.is_finished]
    sections = sorted({section for run in finished for section in run.sections})
    found: dict[str, list[RunRecord]] = {}
    identity_of: dict[str, dict[str, Any]] = {}
    for run in finished:
        identity = {key: value for key, value in run.identity(sections).items() if key not in searched}
        name = json.dumps(identity, sort_keys=True, default=str)
        found.setdefault(name, []).append(run)
        identity_of[name] = identity
    members = list(found.values())
    identities = list(identity_of.values())
    settings = []
    for runs, identity, parts in zip(members, identities, _labels(identities), strict=True):
        kept = {run.seeds: run for run in runs}  # the last version of a seed counts
        counted = sorted(kept.values(), key=lambda run: natural(run.seeds))
        repeats = [run for run in runs if kept[run.seeds] is not run]
        settings.append(Setting(parts, identity, tuple(counted), tuple(repeats)))

    def order(setting: Setting) -> Any:
        options = [
            (k, (0, v) if isinstance(v, int | float) else (1, str(v)))
            for k, v in sorted(setting.identity.items())
            if k.startswith(OPTION)
        ]
        return setting.dataset, options, setting.method != "erm", natural(setting.label)

    return sorted(settings, key=order)


def differing(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose value is not the same everywhere: data set and its options first, paths last."""

    def order(key: str) -> tuple[int, str]:
        is_path = any("/" in str(i.get(key)) for i in identities)
        return 0 if key == "dataset" else 1 if key.startswith(OPTION) else 3 if is_path else 2, key

    keys = dict.fromkeys(key for identity in identities for key in identity)
    return sorted((k for k in keys if len({repr(i.get(k, ...)) for i in identities}) > 1), key=order)


def _labels(identities: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Short names: the method, data set options that vary, then only the keys needed to tell settings apart."""
    chosen = ["training.method"]

    def told_apart(keys: Sequence[str]) -> int:
        return len({tuple(repr(identity.get(key, ...)) for key in keys) for identity in identities})

    def is_option(key: str) -> bool:
        return key == "dataset" or key.startswith(OPTION)

    for key in differing(identities):
        is_varied_option = is_option(key) and len({repr(i[key]) for i in identities if key in i}) > 1
        if key != "training.method" and (is_varied_option or told_apart([*chosen, key]) > told_apart(chosen)):
            chosen.append(key)
    for key in chosen[1:]:  # what a later key tells too, as a learning rate that belongs to a mode
        others = [other for other in chosen if other != key]
        if not is_option(key) and told_apart(others) == told_apart(chosen):
            chosen = others
    leaves = [key.rsplit(".", 1)[-1] for key in chosen]
    names = [leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(chosen, leaves, strict=True)]
    labels = []
    for identity in identities:
        parts = [f"{n} {show(identity[k])}" for k, n in zip(chosen[1:], names[1:], strict=True) if k in identity]
        labels.append((str(identity["training.method"]), *parts))
    return [(*x, f"#{labels[: i + 1].count(x)}") if labels.count(x) > 1 else x for i, x in enumerate(labels)]


def show(value: Any) -> str:
    """A configuration value in a few characters; of a path, its end."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 32 else "…" + text[-31:]
