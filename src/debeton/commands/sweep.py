"""Studies: many runs from one YAML file, here or through SLURM, resumed at will, read as tables and pictures.

debeton sweep list                                                       the project's studies
debeton sweep dry-run dataset_configs/studies/scale_ablation.yaml --raw DIR
debeton sweep run     dataset_configs/studies/scale_ablation.yaml --raw DIR --workers 2
debeton sweep submit  dataset_configs/studies/scale_ablation.yaml --raw DIR --throttle 8
debeton sweep status  dataset_configs/studies/scale_ablation.yaml --raw DIR
debeton sweep collect dataset_configs/studies/scale_ablation.yaml --raw DIR --out report
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from debeton.system import plugins
from debeton.system.errors import UsageError
from debeton.system.project import find_preset, presets_folder, project_root
from debeton.system.wording import count

if TYPE_CHECKING:
    from debeton.studies.jobs import Job
    from debeton.studies.state import JobStates, State

ACTIONS = {
    "list": "the study's jobs with their numbers, and what they take of others; without STUDY, the project's studies",
    "dry-run": "print every job and its command; run nothing",
    "run": "run what is not finished; a job that was stopped goes on where it was",
    "submit": "the same as SLURM array jobs, and a last one that collects",
    "status": "say where every job stands, with the last error of those that failed",
    "retry": "run, and what failed too",
    "collect": "tables and figures over the finished jobs; of a random search the best setting of each variant",
}
OF_STUDY = ("runs", "data", "raw", "settings", "seeds")  # options that a manifest has settled


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="actions:\n" + "\n".join(f"  {name:<9} {text}" for name, text in ACTIONS.items()),
    )
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="the study's YAML file, or a manifest")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/STUDY")
    parser.add_argument("--data", type=Path, help="folder of the betons that the study writes; default: data/STUDY")
    parser.add_argument("--raw", help="folder of the raw data, for {raw} in the study")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of every job, or a {placeholder} of the study; may be repeated",
    )
    parser.add_argument("--seeds", help="instead of the study's, separated by commas")
    parser.add_argument("--only", help="variants, separated by commas")
    parser.add_argument("--jobs", help="numbers of jobs as 'list' shows them, such as 0,3-5")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time; default: %(default)s")
    parser.add_argument("--retry", action="store_true", help="of run and submit: jobs that failed too")
    parser.add_argument("--out", type=Path, help="of collect: folder of the report; default: RUNS/report")
    parser.add_argument("--pictures", action="store_true", help="of collect: images of the surest mistakes too")
    slurm = parser.add_argument_group("SLURM")
    slurm.add_argument("--throttle", type=int, default=0, metavar="M", help="tasks of an array at a time; default: all")
    slurm.add_argument("--per-task", type=int, default=1, metavar="K", help="jobs of one task; default: %(default)s")
    slurm.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="options",
        help="an option of sbatch, such as partition=gpu; may be repeated",
    )
    slurm.add_argument(
        "--print",
        action="store_true",
        dest="only_print",
        help="of submit: write the manifest and print the commands as a shell takes them",
    )
    slurm.add_argument("--task", type=int, help="of run: only the jobs of this task, K of them, counted from 0")
    plugins.add_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Do with the study what the words of the command say; return the exit status."""
    arguments = parse(argv)
    plugins.use_plugins(argv)
    for name in ("workers", "per_task"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(arguments, name)} runs nothing; use 1 or more")
    if arguments.study is None:
        if arguments.action != "list":
            raise UsageError(f"{arguments.action} which study? 'list' names the project's")
        return list_studies()

    from debeton.system.log import set_up_logging

    set_up_logging(is_main=True)
    job_states = _board(arguments)
    jobs = _chosen(job_states.jobs, arguments)
    if arguments.action in ("dry-run", "run", "submit", "retry"):
        job_states.check(jobs)
    action = {
        "list": list_jobs,
        "dry-run": dry_run,
        "run": run,
        "submit": submit,
        "status": status,
        "retry": run,
        "collect": collect,
    }[arguments.action]
    return action(job_states, jobs, arguments)


def list_studies() -> int:
    """Print the project's studies, each with the first line of its file."""
    for path in sorted((presets_folder() / "studies").glob("*.yaml")):
        print(f"{path.stem:<32} {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
    return 0


def list_jobs(job_states: JobStates, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Print the jobs with their numbers, and the variants whose results they take."""
    numbers = {job.name: number for number, job in enumerate(job_states.jobs)}
    for job in jobs:
        print(f"{numbers[job.name]:>4} {job.name}" + (f"  takes of {', '.join(job.needs)}" if job.needs else ""))
    print(count(len(jobs), "job"))
    return 0


def dry_run(job_states: JobStates, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Print the command of every job, and run none."""
    now = job_states.at_one_moment()
    for job in jobs:
        command = now.arguments(job)
        text = f"waits for {', '.join(job.needs)}" if command is None else shlex.join(["main.py", *command])
        print(f"{job.name}: {text}")
    sets = len({job.data for job in jobs if job.betons})
    print(f"{count(len(jobs), 'job')}, {count(sets, 'set')} of betons to write")
    return 0


def run(job_states: JobStates, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Run the jobs that are not finished; return 0 when all are, else 1.

    A run that a signal stops returns 128 and its number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    from debeton.studies.runner import Runner, count_states

    runner = Runner(job_states, arguments.workers, lambda line: print(line, flush=True))
    with runner.stopping_on_signals():
        finished = runner.run(jobs, retry=arguments.retry or arguments.action == "retry")
    now = job_states.at_one_moment()
    states = [now.state(job) for job in jobs]
    print(count_states(states))
    _print_failed(states)
    if runner.stopped and not finished:
        return 128 + runner.stopped
    return 0 if finished else 1


def submit(job_states: JobStates, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Submit the jobs to SLURM and print the commands."""
    from debeton.studies.slurm import Submission, submit

    submission = Submission(
        throttle=arguments.throttle,
        per_task=arguments.per_task,
        workers=arguments.workers,
        retry=arguments.retry,
        options=arguments.slurm | _pairs("--slurm", arguments.options),
    )
    commands = submit(
        job_states, arguments.name, jobs, submission, only_print=arguments.only_print, published=arguments.published
    )
    print("\n".join(commands) or "nothing to submit: every job is finished, queued or has failed ('--retry')")
    if not arguments.retry:
        now = job_states.at_one_moment()
        _print_failed([now.state(job) for job in jobs])
    return 0


def _print_failed(states: Sequence[State]) -> None:
    """Say how many jobs failed, and the command that runs them again; nothing where none did."""
    if failed := sum(state.kind == "failed" for state in states):
        print(
            f"{count(failed, 'job')} failed: 'retry' runs failed jobs again, as they are or continued; a job whose "
            "settings or betons you change in the study runs again without it"
        )


def status(job_states: JobStates, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Print the state of every job, and the number of jobs in each state."""
    from debeton.studies.runner import count_states
    from debeton.studies.slurm import states_with_queue

    states = states_with_queue(job_states, jobs)
    for job, state in zip(jobs, states):
        print(f"{state.kind:<10} {job.name}" + (f"  {state.note}" if state.note else ""))
    print(count_states(states))
    _print_failed(states)
    return 0


def collect(job_states: JobStates, jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Write the report of the finished jobs."""
    from debeton.report.pictures import picture_plotter
    from debeton.studies.collect import collect

    out = arguments.out or job_states.folders.runs / "report"
    shown = picture_plotter() if arguments.pictures else None
    print(f"report written to {collect(job_states, jobs, out, arguments.name, shown, arguments.published)}")
    return 0


def _board(arguments: argparse.Namespace) -> JobStates:
    """Return the study's jobs and their folders. Sets its name and SLURM options in `arguments`."""
    from debeton.studies.manifest import load_manifest
    from debeton.studies.state import JobStates, StudyFolders
    from debeton.studies.study_file import check_given, load_study

    if arguments.study.suffix == ".json":
        if given := [name for name in OF_STUDY if getattr(arguments, name)]:
            option = "set" if given[0] == "settings" else given[0]
            raise UsageError(
                f"--{option}: manifest {arguments.study} has settled it; give the study's YAML file instead"
            )
        manifest = load_manifest(arguments.study)
        arguments.name, arguments.slurm, arguments.published = manifest.study, {}, manifest.published
        return JobStates(manifest.jobs, manifest.folders)
    pairs = _pairs("--set", arguments.settings)
    settings = {key: value for key, value in pairs.items() if "." in key}
    values = {key: value for key, value in pairs.items() if "." not in key}
    study = load_study(find_preset(arguments.study, kind="study", below="studies"), settings, _seeds(arguments.seeds))
    check_given(study, settings, values)
    if arguments.raw:
        values["raw"] = str(Path(arguments.raw).resolve())
    runs, data = arguments.runs or Path("runs") / study.name, arguments.data or Path("data") / study.name
    arguments.name, arguments.slurm, arguments.published = study.name, dict(study.slurm), study.published
    return JobStates(study.jobs(values), StudyFolders(project_root(), runs.resolve(), data.resolve()))


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Return KEY=VALUE texts as a dictionary."""
    given: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {text}: expected KEY=VALUE")
        if given.get(key, value) != value:
            raise UsageError(f"{option} gives {key} twice, as {given[key]} and as {value}; give it once")
        given[key] = value
    return given


def _seeds(text: str | None) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"--seeds {text}: expected whole numbers separated by commas") from None


def _chosen(jobs: Sequence[Job], arguments: argparse.Namespace) -> Sequence[Job]:
    """Return the jobs that --only, --jobs and --task choose."""
    from debeton.studies.manifest import parse_numbers

    chosen = [jobs[number] for number in parse_numbers(arguments.jobs, len(jobs))] if arguments.jobs else list(jobs)
    if arguments.only:
        names = [name.strip() for name in arguments.only.split(",")]
        known = dict.fromkeys(job.variant for job in jobs)
        for name in names:
            if name not in known:
                raise UsageError(f"--only: the study has no variant '{name}'; it has {', '.join(known)}")
        chosen = [job for job in chosen if job.variant in names]
    if arguments.task is not None:
        tasks = -(-len(chosen) // arguments.per_task)
        if not 0 <= arguments.task < tasks:
            raise UsageError(
                f"--task {arguments.task}: {len(chosen)} jobs, {arguments.per_task} a task, make {tasks} tasks"
            )
        first = arguments.task * arguments.per_task
        chosen = chosen[first : first + arguments.per_task]
    return chosen
