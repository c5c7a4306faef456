"""Reader of run folders: configuration, results and curve, each checked before use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from debeton.config import as_of_now, run_seeds, setting_identity
from debeton.config.yaml_files import parse_yaml, read_text
from debeton.report.older_results import with_group_means
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.train.remarks import remarks_of
from debeton.train.result_files import EVALUATION, LOG_NAME, read_log, read_results

OPTION = "dataset_options."
OPTION_SEEDS = (OPTION + "seed", OPTION + "data_seed")  # seeds that a beton was written with
BETON_PATHS = {f"data.{split}_path": split for split in ("train", "val", "test", "target", "synthetic")}
# The part of a run's name, in a path, that differs between seeds: axes and draw of a study, seed, and hash.
RUN_IN_PATH = re.compile(r"(_[\w.]+=[^_/]+)*(_draw\d+)?_seed\d+(_[0-9a-f]{12})?")


@dataclass(frozen=True)
class RunRecord:
    """Content of one run folder.

    folder: the run folder.
    config: config.yaml by dotted key ('training.lr').
    results: results.json; None while the run is unfinished.
    curve: the lines of results.jsonl, in order.
    cost: number of runs that were trained for the run's setting, as a table shows it; '' if not known.
    """

    folder: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any] | None
    curve: tuple[Mapping[str, Any], ...] = ()
    cost: str = ""

    @property
    def name(self) -> str:
        """Return EXP_NAME/version_K."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def is_finished(self) -> bool:
        """Return whether the run has its results."""
        return self.results is not None

    @property
    def seed(self) -> Any:
        """Return the training seed."""
        return self.results["seed"] if self.results else self.config.get("training.seed")

    @property
    def seeds(self) -> tuple[Any, ...]:
        """Return the training seed, then the other seeds that differ between the runs of one setting."""
        others = {k: v for k, v in run_seeds(self.config).items() if k != "training.seed"}
        others |= {k: v for k, v in self._options.items() if k in OPTION_SEEDS}
        return self.seed, *(others[key] for key in sorted(others))

    @property
    def _options(self) -> dict[str, Any]:
        """Return the options that the training beton was written with, by 'dataset_options.NAME'."""
        return flatten({OPTION[:-1]: (self.results or {}).get("dataset_options") or {}})

    @property
    def last_epoch(self) -> int:
        """Return the number of finished epochs of the latest phase; 0 before the first evaluation."""
        return int(self.curve[-1]["epoch"] or 0) if self.curve else 0

    def metrics(self, split: str) -> Mapping[str, Any]:
        """Return the final metrics of a split, fractions in [0, 1]; empty if it was not evaluated."""
        return (self.results or {}).get(split) or {}

    @property
    def selection(self) -> str | None:
        """Return the rule that selected the epoch, and the rule that it stands for or the groups without rows."""
        results = self.results or {}
        return (results.get("selected_by") or {}).get("text", results.get("selection"))

    @property
    def remarks(self) -> list[str]:
        """Return the remarks on the results that every table repeats."""
        return remarks_of(self.results or {})

    @property
    def oracle(self) -> Mapping[str, Any] | None:
        """Return 'rule', 'epoch' and 'test' metrics of the epoch that the test split would choose.

        None without training.oracle.
        """
        return (self.results or {}).get("oracle")

    @property
    def method(self) -> str:
        """Return the name of the method."""
        return str((self.results or {}).get("method") or self.config.get("training.method"))

    @property
    def sections(self) -> set[str]:
        """Return the names of the configuration sections that belong to the run's method."""
        return {self.method, *(self.results or {}).get("method_sections", ())}

    def identity(self, sections: Iterable[str] = ()) -> dict[str, Any]:
        """Return the settings that identify this run among others, by dotted key: data set, options, configuration.

        Left out are the settings that `setting_identity` leaves out, the seeds of the betons, and the sections of other
        methods. If a section of the run names another method (dfr.base), the section of that method stays.

        sections: names of all sections that belong to methods.
        """
        results = self.results or {}
        asked = (results.get("selected_by") or {}).get("asked", results.get("selection"))
        keys = {"dataset": results.get("dataset"), "selection": asked}
        keys |= setting_identity(self.config)
        keys |= {key: self._beton_name(split) for key, split in BETON_PATHS.items()}
        keys |= {key: value for key, value in self._options.items() if key not in OPTION_SEEDS}
        keys["training.method"] = results.get("method")
        if "evaluated" in results:  # a model that was measured again is no repetition of its run
            keys["evaluated"] = results["evaluated"]["model"]
        own = self.sections | {str(v) for k, v in keys.items() if k.split(".")[0] in self.sections}
        left_out = tuple(f"{section}." for section in sections if section not in own)
        settings = {k: v for k, v in keys.items() if not k.startswith(left_out)}
        return {k: RUN_IN_PATH.sub("", v) if isinstance(v, str) and "/" in v else v for k, v in settings.items()}

    def _beton_name(self, split: str) -> str | None:
        """Return the path of a split's beton below the folder of betons; None for the name by the data set.

        Machines keep the same betons in different folders. A path outside of the folder stays as it is.
        """
        given = self.config.get(f"data.{split}_path")
        if not given:
            return None
        root = os.path.normpath(str(self.config.get("training.data_root") or ""))
        path = os.path.normpath(str(given))
        path = path.removeprefix(root + os.sep) if os.path.isabs(root) else path
        return None if path == f"{self.config.get('data.dataset')}_{split}.beton" else path


def load_runs(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Read every run folder at or below `paths`, finished or not, in natural order.

    DataError: a path is missing, a file cannot be read (the message names it), or there is no run folder.
    """
    roots = [Path(path) for path in paths]
    folders: dict[Path, Path] = {}
    for path in roots:
        if not path.exists():
            raise DataError(f"no such run or folder: {path}")
        for folder in [path.parent] if path.is_file() else [Path(name) for name, _, _ in os.walk(path)]:
            if (folder / "results.json").is_file() or (folder / "config.yaml").is_file():
                folders.setdefault(folder.resolve(), folder)
    if not folders:
        raise DataError(
            f"no runs at or below {', '.join(map(str, roots)) or '(no path given)'}; looked for results.json, or the "
            "config.yaml of an unfinished run, as in OUTDIR/EXP_NAME/version_0/"
        )
    return [_read_run(folder) for folder in sorted(folders, key=natural_key)]


def natural_key(value: object) -> list[Any]:
    """Return a sort key that puts version_10 after version_9."""
    return [(0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"(\d+)", str(value)) if t]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections into one mapping with dotted keys; `prefix` is put before every key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _read_run(folder: Path) -> RunRecord:
    """Read and check one run folder. DataError names a file that is malformed."""
    config_file = folder / "config.yaml"
    if not config_file.is_file():
        raise DataError(f"{folder} has a results.json but no config.yaml; a run folder has both: leave it out of RUNS")
    try:
        config = parse_yaml(read_text(config_file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{config_file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, Mapping):
        raise DataError(f"{config_file} holds {type(config).__name__}; expected sections of keys")
    results = read_results(folder)
    for split in ("val", "test") if results else ():
        if results and results.get(split):
            results[split] = with_group_means(results[split], results.get("train_groups") or {})
    curve = tuple(read_log(folder / LOG_NAME, EVALUATION))
    if results and len(curve) < results.get("evaluations", 0):  # older versions did not count them
        logger.warning(
            "warning: %s has %d evaluations of %d; the others were cut off, and the curve of the run lacks them",
            folder / LOG_NAME,
            len(curve),
            results["evaluations"],
        )
    return RunRecord(folder, as_of_now(flatten(config)), results, curve)
