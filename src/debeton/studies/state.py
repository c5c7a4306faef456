"""Where the jobs of a study stand, read from their run folders: nothing else remembers it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import Config, load
from debeton.nets.checkpoint import BEST_CHECKPOINT
from debeton.report.records import read_json
from debeton.studies.jobs import PLACEHOLDER, Job, Point, of_variant
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.project import find_preset
from debeton.train.metrics import selection_score
from debeton.train.run_folder import experiment_name, find_folder

STATES = ("done", "running", "failed", "unfinished", "waiting", "missing", "queued")


@dataclass(frozen=True)
class Places:
    """root: the project. runs: folder of the study's runs. data: folder of its betons."""

    root: Path
    runs: Path
    data: Path

    @property
    def notes(self) -> Path:
        """Folder of logs, locks, last errors and manifests."""
        return self.runs / ".jobs"

    def failure(self, job: Job) -> Path:
        """Where the last error of a job is kept."""
        return self.notes / f"{job.name}.failed.json"

    def log(self, job: Job) -> Path:
        """What a job printed."""
        return self.notes / f"{job.name}.log"

    def lock(self, job: Job) -> Path:
        """What is held while a job is prepared and run."""
        return self.notes / f"{job.name}.lock"


@dataclass(frozen=True)
class State:
    """kind: one of STATES. folder: of the run, where there is one. note: the last error, or what it waits for."""

    kind: str
    folder: Path | None = None
    note: str = ""


class Board:
    """The states of a study's jobs, asked again each time. What a job is given is resolved once."""

    def __init__(self, jobs: Sequence[Job], places: Places):
        self.jobs, self.places = jobs, places
        self._configs: dict[str, Config] = {}

    def check(self, jobs: Iterable[Job]) -> None:
        """UsageError, naming the job, for settings that main.py would refuse; of jobs that wait too."""
        for job in jobs:
            try:
                self._load(job, self._words(job, job.settings))
            except UsageError as error:
                raise UsageError(f"job {job.name}: {error}") from None

    def arguments(self, job: Job) -> list[str] | None:
        """What main.py is given; None while a variant that it needs is not finished."""
        settings: dict[str, Any] = {}
        for key, value in job.settings.items():
            for name in PLACEHOLDER.findall(value) if isinstance(value, str) else []:
                kind, variant = of_variant(name)
                folder = self.best_folder(variant, job)
                if folder is None:
                    return None
                best = folder / BEST_CHECKPOINT if kind == "best" else folder
                value = value.replace(f"{{{name}}}", str(best))
            settings[key] = value
        return self._words(job, settings)

    def _words(self, job: Job, settings: Point) -> list[str]:
        settings = dict(settings)
        if job.betons:
            settings["training.data_root"] = self.places.data / job.data
        settings |= {"training.seed": job.seed, "training.outdir": self.places.runs, "training.exp_name": job.name}
        words = [word for config in job.configs for word in ("--config-file", str(config))]
        return words + [word for key, value in settings.items() for word in (f"--{key}", _shown(value))]

    def config(self, job: Job) -> Config | None:
        """The job's resolved configuration; None while it waits."""
        if job.name not in self._configs:
            arguments = self.arguments(job)
            if arguments is None:
                return None
            self._configs[job.name] = self._load(job, arguments)
        return self._configs[job.name]

    def _load(self, job: Job, arguments: Sequence[str]) -> Config:
        count = 2 * len(job.configs)
        return load([find_preset(file, root=self.places.root) for file in arguments[1:count:2]], arguments[count:])

    def state(self, job: Job) -> State:
        """Where a job stands."""
        config = self.config(job)
        if config is None:
            return State("waiting", note=f"for {', '.join(job.needs)}")
        folder = find_folder(config)
        if folder is not None and (folder / "results.json").exists():
            return State("done", folder)
        if folder is not None and is_locked(folder / ".lock"):
            return State("running", folder)
        failure = self.places.failure(job)
        if failure.exists():
            return State("failed", folder, json.loads(failure.read_text())["error"])
        return State("unfinished", folder) if folder is not None else State("missing", note=_others(config))

    def results(self, job: Job) -> dict[str, Any] | None:
        """results.json of a finished job."""
        found = self.state(job)
        if found.kind != "done":
            return None
        assert found.folder is not None
        path = found.folder / "results.json"
        return read_json(path.read_bytes(), str(path)) | {"folder": found.folder}

    def best(self, jobs: Iterable[Job]) -> list[Job] | None:
        """Of jobs of one variant and point, those of the setting with the best mean score on validation over seeds.

        None while one of them is not finished. Where every score is the same (all 0, say), and among ties, the mean
        group accuracy decides, then the order of the file.
        """
        by_setting: dict[str, list[tuple[Job, dict[str, Any]]]] = {}
        for job in jobs:
            results = self.results(job)
            if results is None:
                return None
            by_setting.setdefault(job.choice, []).append((job, results))
        if not by_setting:
            return None
        if len(by_setting) == 1:  # nothing to choose, and so no need of a validation split
            return [job for members in by_setting.values() for job, _ in members]
        scores = {name: [_score(found) for _, found in members] for name, members in by_setting.items()}
        chosen = max(scores, key=lambda name: tuple(sum(part) / len(part) for part in zip(*scores[name])))
        return [job for job, _ in by_setting[chosen]]

    def best_folder(self, variant: str, job: Job) -> Path | None:
        """The run folder of the variant's best setting at this job's point and seed; None while it is not known.

        A variant of one setting has nothing to choose, and its run of this seed alone is waited for. One of a single
        seed is shared by all.
        """
        jobs = [other for other in self.jobs if other.variant == variant and other.point == job.point]
        seeds = {other.seed for other in jobs}
        seed = min(seeds) if len(seeds) == 1 else job.seed
        if len({other.choice for other in jobs}) == 1:
            jobs = [other for other in jobs if other.seed == seed]
        chosen = self.best(jobs)
        if chosen is None:
            return None
        (same,) = [other for other in chosen if other.seed == seed]
        return self.state(same).folder

    def note_failure(self, job: Job, error: str) -> None:
        """Remember the last error of a job; an empty one forgets it."""
        path = self.places.failure(job)
        if error:
            write_text(path, json.dumps({"error": error}))
        else:
            path.unlink(missing_ok=True)


def _others(config: Config) -> str:
    """That runs of a job's name have other configurations than it, where there are any."""
    parent = Path(config.training.outdir) / experiment_name(config)
    others = sorted(folder.name for folder in parent.glob("version_*") if (folder / "config.yaml").exists())
    if not others:
        return ""
    return f"{', '.join(others)} of its name has another configuration: the study was changed since, or config.yaml was"


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_locked(path: Path) -> bool:
    """Whether a process holds this lock file, as `run_folder.locked` does."""
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _score(results: Mapping[str, Any]) -> tuple[float, float]:
    """What a finished run counts for among settings, by its own selection rule."""
    if results["val"] is None:
        raise DataError(f"{results['folder']} has no validation split, so no best setting can be told from it")
    return selection_score(results["val"], "worst_group" if results["selection"] == "last" else results["selection"])
