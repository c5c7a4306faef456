"""States of a study's jobs. They are read from the run folders; nothing else stores them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import Config, load
from debeton.nets.checkpoint import BEST_CHECKPOINT
from debeton.studies.choice import best_setting
from debeton.studies.jobs import PLACEHOLDER, Job, Point, split_placeholder
from debeton.studies.search import SELECTION
from debeton.system.errors import UsageError
from debeton.system.files import write_text
from debeton.system.json_files import damage_of, read_json
from debeton.system.json_shapes import Table, or_null
from debeton.system.locks import holder, is_locked
from debeton.system.log import logger
from debeton.system.project import find_preset
from debeton.train.divergence import is_divergence
from debeton.train.result_files import damaged_results, is_finished, read_results
from debeton.train.run_folder import experiment_name, find_folder

STATES = ("done", "running", "failed", "damaged", "unfinished", "waiting", "missing", "queued")
FAILURE = Table(keys={"error": str}, may={"fingerprint": or_null(str)})


@dataclass(frozen=True)
class StudyFolders:
    """Folders that a study uses.

    root: folder of the project.
    runs: folder of the study's runs.
    data: folder of the study's betons.
    """

    root: Path
    runs: Path
    data: Path

    @property
    def logs(self) -> Path:
        """Return the folder of logs, locks, last errors and manifests."""
        return self.runs / ".jobs"

    def error_file(self, job: Job) -> Path:
        """Return the file that stores the last error of a job."""
        return self.logs / f"{job.name}.failed.json"

    def log_file(self, job: Job) -> Path:
        """Return the file that holds the output of a job."""
        return self.logs / f"{job.name}.log"

    def lock_file(self, job: Job) -> Path:
        """Return the lock file that is held while a job is prepared and run."""
        return self.logs / f"{job.name}.lock"


@dataclass(frozen=True)
class State:
    """State of one job.

    kind: one of STATES.
    folder: run folder; None: there is none.
    note: the last error, the process that runs the job, the variants that it waits for, or the file that is damaged; ''
        for none of them.
    """

    kind: str
    folder: Path | None = None
    note: str = ""


class JobStates:
    """States of a study's jobs. They are read again at each call; the configuration of a job is resolved once."""

    def __init__(self, jobs: Sequence[Job], folders: StudyFolders):
        self.jobs, self.folders = jobs, folders
        self._configs: dict[str, Config] = {}
        self._members: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            self._members.setdefault(_place(job.variant, job), []).append(job)

    def at_one_moment(self) -> JobStates:
        """Return the states as they are now: the files of each job are read once, at first use."""
        return _OneLook(self)

    def check(self, jobs: Iterable[Job]) -> None:
        """Check the settings of jobs, also of waiting jobs.

        Log a warning where jobs of two variants are the same run.

        UsageError: main.py would refuse a job, which the message names.
        """
        runs: dict[tuple[str, str, tuple[str, ...]], list[Job]] = {}
        for job in jobs:
            try:
                config = self._load(job, self._words(job, job.settings))
            except UsageError as error:
                raise UsageError(f"job {job.name}: {error}") from None
            self._check_epochs_serve(job, config)
            runs.setdefault((config.identity_hash(), job.data, job.betons), []).append(job)
        same = [members for members in runs.values() if len({job.variant for job in members}) > 1]
        if same:
            logger.warning(
                "warning: %d settings are in more than one variant, first in %s; each runs, and the table of settings "
                "counts one of them",
                len(same),
                " and ".join(job.name for job in same[0]),
            )

    def _check_epochs_serve(self, job: Job, config: Config) -> None:
        """Check that the epochs of a search serve the rule of a job that runs its best setting.

        UsageError: another rule ends the search's training or lowers its learning rate.
        """
        others = {other.settings[SELECTION] for other in self.searched_jobs(job)} - {config.training.selection}
        follows = {"training.patience": config.training.patience is not None}
        follows["training.lr_scheduler plateau"] = config.training.lr_scheduler == "plateau"
        if others and any(follows.values()):
            key = next(key for key, does in follows.items() if does)
            raise UsageError(
                f"job {job.name}: {key} makes the training of '{job.best_of}' depend on {min(others)}, so its runs "
                f"cannot serve the rule {config.training.selection} too; remove it, or give each rule a search of its "
                "own"
            )

    def arguments(self, job: Job) -> list[str] | None:
        """Return the arguments of main.py for a job; None while a variant that it needs is not finished."""
        chosen = self._chosen_setting(job)
        if chosen is None:
            return None
        settings: dict[str, Any] = {}
        for key, value in {**job.settings, **chosen}.items():
            for name in PLACEHOLDER.findall(value) if isinstance(value, str) else []:
                kind, variant = split_placeholder(name)
                folder = self.best_folder(variant, job)
                if folder is None:
                    return None
                path = folder / BEST_CHECKPOINT if kind == "best" else folder
                value = value.replace(f"{{{name}}}", str(path))
            settings[key] = value
        return self._words(job, settings)

    def _words(self, job: Job, settings: Point) -> list[str]:
        """Return the command-line words for the job's configuration files and these settings."""
        settings = dict(settings)
        if job.betons:
            settings["training.data_root"] = self.folders.data / job.data
        settings |= {"training.seed": job.seed, "training.outdir": self.folders.runs, "training.exp_name": job.name}
        words = [word for config in job.configs for word in ("--config-file", str(config))]
        return words + [word for key, value in settings.items() for word in (f"--{key}", _setting_text(value))]

    def config(self, job: Job) -> Config | None:
        """Return the job's resolved configuration; None while it waits for another variant."""
        if job.name not in self._configs:
            arguments = self.arguments(job)
            if arguments is None:
                return None
            self._configs[job.name] = self._load(job, arguments)
        return self._configs[job.name]

    def _load(self, job: Job, arguments: Sequence[str]) -> Config:
        count = 2 * len(job.configs)
        return load([find_preset(file, root=self.folders.root) for file in arguments[1:count:2]], arguments[count:])

    def state(self, job: Job) -> State:
        """Return the state of a job."""
        config = self.config(job)
        if config is None:
            return State("waiting", note=f"for {', '.join(job.needs)}")
        folder = find_folder(config)
        if folder is not None and is_finished(folder):
            return State("done", folder)
        if runner := self._runner_in(folder, job):
            return State("running", folder, runner)
        if folder is not None and (damage := damaged_results(folder)):
            return State("damaged", folder, f"{damage}; 'run' makes the results anew")
        failure = self.folders.error_file(job)
        if failure.exists() and (damage := damage_of(failure, FAILURE)):
            return State("damaged", folder, f"{damage}; 'run' runs the job again")
        if error := self.failure(job):
            return State("failed", folder, error)
        return State("unfinished", folder) if folder is not None else State("missing", note=_note_other_runs(config))

    def is_done(self, job: Job) -> bool:
        """Return whether a job is finished."""
        folder = self._folder(job)
        return folder is not None and is_finished(folder)

    def runner_of(self, job: Job) -> str:
        """Return which process runs a job, and since when; '' if none does on this machine."""
        return self._runner_in(self._folder(job), job)

    def runner_of_folder(self, job: Job) -> str:
        """Return which process trains in the run folder of a job, whoever started it; '' if none does."""
        folder = self._folder(job)
        return holder(folder / ".lock") if folder is not None and is_locked(folder / ".lock") else ""

    def failure(self, job: Job) -> str:
        """Return the last error of a job as the study describes it now; '' for none, and for a damaged file."""
        path = self.folders.error_file(job)
        if not path.exists() or damage_of(path, FAILURE):
            return ""
        stored = read_json(path, FAILURE, remedy="remove the file")
        return stored["error"] if stored.get("fingerprint", self.fingerprint(job)) == self.fingerprint(job) else ""

    def _folder(self, job: Job) -> Path | None:
        """Return the run folder of a job; None if there is none yet."""
        config = self.config(job)
        return None if config is None else find_folder(config)

    def _runner_in(self, folder: Path | None, job: Job) -> str:
        """Return which process trains in a run folder, or else which prepares the job; '' for none."""
        locks = [*([folder / ".lock"] if folder is not None else []), self.folders.lock_file(job)]
        return next((holder(path) for path in locks if is_locked(path)), "")

    def fingerprint(self, job: Job) -> str | None:
        """Return a hash of all that the study says about a job: settings, commands of its betons, and time limit.

        Unlike the identity of a configuration, it changes with settings that change no result, because a job may have
        failed for their sake. None while the job waits for another variant.
        """
        config = self.config(job)
        if config is None:
            return None
        content = [config.nested(), job.betons, job.minutes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def results(self, job: Job) -> dict[str, Any] | None:
        """Return the content of results.json with the run folder under 'folder'; None if the job is not finished."""
        folder = self._folder(job)
        if folder is None or not is_finished(folder):
            return None
        found = read_results(folder)
        return None if found is None else found | {"folder": folder}

    def best(self, jobs: Iterable[Job], rule: str = "") -> list[Job] | None:
        """Return the jobs of the setting with the best validation score, averaged over seeds.

        The score is that of `rule`, or of the rule by which all runs select their epoch (`choice.py`). Among equal
        scores the mean group accuracy decides, then the order of the study file. A draw whose training diverged is out
        of the choice. Returns None while another of the jobs is not finished.

        jobs: jobs of one variant at one point.

        DataError: a run has no validation split, and there are several settings.
        """
        jobs = list(jobs)
        diverged = {job.setting_key for job in jobs if self.has_diverged(job)}
        jobs_of: dict[str, list[Job]] = {}
        results_of: dict[str, list[dict[str, Any]]] = {}
        for job in jobs:
            if job.setting_key not in diverged:
                results = self.results(job)
                if results is None:
                    return None
                jobs_of.setdefault(job.setting_key, []).append(job)
                results_of.setdefault(job.setting_key, []).append(results)
        if len(jobs_of) < 2:  # with one setting there is no choice, so no validation split is needed
            return next(iter(jobs_of.values()), None)
        return jobs_of[best_setting(results_of, rule)]

    def has_diverged(self, job: Job) -> bool:
        """Return whether the job is a draw of a search, and failed because its training diverged."""
        return job.draw is not None and not self.is_done(job) and is_divergence(self.failure(job))

    def searched_jobs(self, job: Job) -> list[Job]:
        """Return the jobs of the search whose best setting a job runs; none for other jobs."""
        return self._members.get(_place(job.best_of, job), []) if job.best_of else []

    def _chosen_setting(self, job: Job) -> Point | None:
        """Return the drawn settings that a job takes from a search; None while they are not known."""
        if not job.best_of:
            return {}
        best = self.best(self.searched_jobs(job), rule=job.settings[SELECTION])
        return None if best is None else best[0].setting

    def best_folder(self, variant: str, job: Job) -> Path | None:
        """Return the run folder of a variant's best setting, for the point and seed of `job`.

        A variant with a single seed gives the same run to all seeds. For a variant with a single setting, only its run
        of this seed must be finished. Returns None while the best setting is not known.
        """
        jobs = self._members.get(_place(variant, job), [])
        seeds = {other.seed for other in jobs}
        seed = min(seeds) if len(seeds) == 1 else job.seed
        if len({other.setting_key for other in jobs}) == 1:
            jobs = [other for other in jobs if other.seed == seed]
        best = self.best(jobs)
        if best is None:
            return None
        (same_seed,) = [other for other in best if other.seed == seed]
        return self._folder(same_seed)

    def record_error(self, job: Job, error: str) -> None:
        """Store the last error of a job and what the job was; an empty text removes it.

        A job that the study describes otherwise by now has not failed: `state` compares the fingerprints.
        """
        path = self.folders.error_file(job)
        if error:
            write_text(path, json.dumps({"error": error, "fingerprint": self.fingerprint(job)}))
        else:
            path.unlink(missing_ok=True)


class _OneLook(JobStates):
    """States of a study's jobs at one moment. Thousands of jobs may wait for one variant, which is read once."""

    def __init__(self, job_states: JobStates):
        self.jobs, self.folders = job_states.jobs, job_states.folders
        self._configs, self._members = job_states._configs, job_states._members
        self._states: dict[str, State] = {}
        self._best: dict[tuple[str, ...], list[Job] | None] = {}
        self._best_folders: dict[tuple[str, str, int], Path | None] = {}

    def state(self, job: Job) -> State:
        if job.name not in self._states:
            self._states[job.name] = super().state(job)
        return self._states[job.name]

    def best(self, jobs: Iterable[Job], rule: str = "") -> list[Job] | None:
        jobs = list(jobs)
        names = (rule, *(job.name for job in jobs))
        if names not in self._best:
            self._best[names] = super().best(jobs, rule)
        return self._best[names]

    def best_folder(self, variant: str, job: Job) -> Path | None:
        key = (*_place(variant, job), job.seed)
        if key not in self._best_folders:
            self._best_folders[key] = super().best_folder(variant, job)
        return self._best_folders[key]


def _place(variant: str, job: Job) -> tuple[str, str]:
    """Return the key of a variant's jobs at the point of `job`."""
    return variant, str(sorted(job.point.items()))


def _note_other_runs(config: Config) -> str:
    """Return a note if runs with the job's name have other configurations; '' if there are none."""
    parent = Path(config.training.outdir) / experiment_name(config)
    others = sorted(folder.name for folder in parent.glob("version_*") if (folder / "config.yaml").exists())
    if not others:
        return ""
    return f"{', '.join(others)} of its name has another configuration: the study or its config.yaml was changed"


def _setting_text(value: Any) -> str:
    """Return a value as a word of the command line; the items of a list are joined by commas."""
    if value is None:
        return "null"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
