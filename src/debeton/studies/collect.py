"""Report of a study: the finished jobs, and the best settings of a random search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from debeton.report.columns import COLUMNS
from debeton.report.records import load_runs
from debeton.report.runs import make_stat
from debeton.report.same_data import find_different_data
from debeton.report.tables import to_markdown
from debeton.report.write import PicturePlotter, write_report
from debeton.studies.choice import metrics_under, rule_of_scores
from debeton.studies.jobs import Job
from debeton.studies.published import Published, compare_with_published
from debeton.studies.runner import count_states
from debeton.studies.search import SELECTION
from debeton.studies.state import JobStates
from debeton.system.errors import DataError
from debeton.system.files import write_text
from debeton.system.log import logger
from debeton.train.metrics import SELECTION_RULES


def collect(
    job_states: JobStates,
    jobs: Sequence[Job],
    out: Path,
    title: str,
    pictures: PicturePlotter | None = None,
    published: Sequence[Published] = (),
) -> Path:
    """Write the report of finished jobs into `out` and return the path of its page.

    Of a random search, only the best setting of each variant and point is reported: by the runs of the study that
    repeat it under each rule where there are any, and else by the search's own. The file chosen.md has these settings,
    their scores, and the number of settings that were compared. Tables have the number of runs that each number cost.

    job_states: states of the study's jobs.
    jobs: jobs to report.
    out: folder of the report.
    title: title of the page.
    pictures: as of `write_report`.
    published: published numbers, shown beside the measured ones on the page and in published.md.

    DataError: no job is finished.
    """
    job_states = job_states.at_one_moment()
    states = [job_states.state(job) for job in jobs]
    reported, best_rows, costs = _reported(job_states, jobs)
    searched = sorted({key for job in jobs for one in (job, *job_states.searched_jobs(job)) for key in one.searched})
    if not reported:
        raise DataError(
            f"no job of the study is finished ({count_states(states)}), so there is nothing to collect; run the study "
            "first"
        )
    logger.info("%s", count_states(states))
    tables = _published_tables(job_states, reported, published)
    folders = [folder for job in reported if (folder := job_states.state(job).folder)]
    remarks = remarks_on_data(folders)
    for remark in remarks if tables or best_rows else ():
        logger.warning("warning: %s", remark)
    page = write_report(
        folders, out, title=title, searched=searched, pictures=pictures, tables=tables, costs=costs if best_rows else {}
    )
    if tables:
        text = "\n".join(f"{title}\n\n{to_markdown(table)}" for title, table in tables)
        write_text(out / "published.md", "\n".join([text, *remarks]))
    if best_rows:
        write_text(out / "chosen.md", "\n".join([to_markdown(pd.DataFrame(best_rows).fillna("–")), *remarks]))
    return page


def _reported(job_states: JobStates, jobs: Sequence[Job]) -> tuple[list[Job], list[dict[str, object]], dict[Path, str]]:
    """Return the finished jobs to report, the rows of chosen.md, and the runs that each setting cost, by run folder."""
    reported: list[Job] = []
    rows: list[dict[str, object]] = []
    costs: dict[Path, str] = {}
    done = {job.name for job in jobs if job_states.state(job).kind == "done"}
    repeated = {(job.best_of, repr(job.point)) for job in jobs if job.best_of and job.name in done}
    for members in by_variant_and_point(jobs):
        first, selected = members[0], [job for job in members if job.name in done]
        if (first.variant, repr(first.point)) in repeated:
            continue
        if first.draw is not None:
            finished = _with_all_seeds(job_states, members)
            selected = job_states.best(finished) or []
            if selected:
                rule = rule_of_scores([results for job in finished if (results := job_states.results(job))])
                rows.append(_best_row(job_states, selected, len(finished) // len(selected), rule))
        elif first.best_of:
            rules = dict.fromkeys(job.settings[SELECTION] for job in selected)
            rows += [
                _repeated_row(job_states, [job for job in selected if job.settings[SELECTION] == rule], rule)
                for rule in rules
            ]
        reported += selected
        costs |= _costs(job_states, members, selected)
    return reported, rows, costs


def remarks_on_data(folders: Sequence[Path]) -> list[str]:
    """Return a sentence for each split of which runs of one name have different data.

    Tables of published numbers and of chosen settings average over seeds, whatever their data.

    folders: run folders of the reported jobs.
    """
    return [
        f"Runs on different '{split}' data stand in one number here; the report keeps them apart, and names them."
        for split, _ in find_different_data(load_runs(folders))
    ]


def _published_tables(
    job_states: JobStates, jobs: Sequence[Job], published: Sequence[Published]
) -> list[tuple[str, pd.DataFrame]]:
    """Return (title, table) for each published table, with the numbers of these finished jobs beside it."""
    results: dict[str, list[dict[str, object]]] = {}
    for job in jobs if published else ():
        results.setdefault(job.label, []).append(job_states.results(job) or {})
    return [(f"{table.source}: {table.metric}", compare_with_published(table, results)) for table in published]


def by_variant_and_point(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs by variant and by point of the study's axes."""
    by_key: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        by_key.setdefault((job.variant, repr(job.point)), []).append(job)
    return list(by_key.values())


def _with_all_seeds(job_states: JobStates, members: Sequence[Job]) -> list[Job]:
    """Return the jobs whose setting is finished for every seed, of the jobs of one variant and point."""
    unfinished = {job.setting_key for job in members if job_states.state(job).kind != "done"}
    return [job for job in members if job.setting_key not in unfinished]


def _costs(job_states: JobStates, members: Sequence[Job], selected: Sequence[Job]) -> dict[Path, str]:
    """Return how many runs the number of each setting cost, by run folder.

    members: jobs of one variant and point.
    selected: those whose numbers are reported.
    """
    costs: dict[Path, str] = {}
    for job in selected:
        own = sum(other.setting_key == job.setting_key for other in selected)
        search = job_states.searched_jobs(job) or [other for other in members if other.draw is not None]
        ran = sum(job_states.is_done(other) or job_states.has_diverged(other) for other in search)
        folder = job_states.state(job).folder
        if folder is not None:
            costs[folder] = f"{ran} + {own}" if job.best_of else str(ran if search else own)
    return costs


def _repeated_row(job_states: JobStates, repeats: Sequence[Job], rule: str) -> dict[str, object]:
    """Return the row of chosen.md for the best setting of a search that was run again under a rule.

    repeats: the finished runs, one per seed.
    rule: the rule that chose the setting and the epochs.
    """
    search = job_states.searched_jobs(repeats[0])
    best = job_states.best(search, rule) or []
    found = [metrics_under(rule, results) for job in best if (results := job_states.results(job))]
    values = [metrics[SELECTION_RULES[rule].metric] for metrics in found]
    score = sum(values) / len(values)
    row: dict[str, object] = {"variant": repeats[0].variant, **repeats[0].point, "chosen by": rule}
    row |= {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in best[0].setting.items()}
    row["of"] = len({job.setting_key for job in search})
    if diverged := len({job.setting_key for job in search if job_states.has_diverged(job)}):
        row["diverged"] = diverged
    row["score in the search"] = f"{score:.4f}" if rule == "loss" else f"{100 * score:.1f}"
    row |= {"runs": _costs(job_states, repeats, repeats).popitem()[1], "n": len(repeats)}
    return row | _accuracies(job_states, repeats)


def _best_row(job_states: JobStates, best: Sequence[Job], compared: int, rule: str) -> dict[str, object]:
    """Return the row of chosen.md for one best setting.

    best: its jobs, one per seed.
    compared: number of settings that were compared.
    rule: selection rule whose score on validation is the best.
    """
    first = best[0]
    row: dict[str, object] = {"variant": first.variant, **first.point, **first.setting}
    row |= {"of": compared, "n": len(best), **_accuracies(job_states, best)}
    return {**row, "chosen by": rule if compared > 1 else "–"}


def _accuracies(job_states: JobStates, jobs: Sequence[Job]) -> dict[str, object]:
    """Return the columns of chosen.md with accuracies of finished jobs on validation and test, over seeds."""
    results = [job_states.results(job) for job in jobs]
    row: dict[str, object] = {}
    for split in ("val", "test"):
        for metric in ("worst_group_accuracy", "bias_conflicting_accuracy", "mean_conflicting_group_accuracy"):
            values = [r[split].get(metric) for r in results if r and r.get(split)]
            values = [value for value in values if value is not None]
            row[f"{split} {COLUMNS[metric]}"] = str(make_stat([100 * value for value in values]) or "–")
    return row
