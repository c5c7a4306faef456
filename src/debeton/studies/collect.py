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
from debeton.studies.jobs import Job
from debeton.studies.published import Published, compare_with_published
from debeton.studies.runner import count_states
from debeton.studies.state import JobStates, rule_of_scores
from debeton.system.errors import DataError
from debeton.system.files import write_text
from debeton.system.log import logger


def collect(
    job_states: JobStates,
    jobs: Sequence[Job],
    out: Path,
    title: str,
    pictures: PicturePlotter | None = None,
    published: Sequence[Published] = (),
) -> Path:
    """Write the report of finished jobs into `out` and return the path of its page.

    Of a random search, only the best setting of each variant and point is reported. The file chosen.md has these
    settings, their scores, and the number of settings that were compared.

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
    reported: list[Job] = []
    best_rows = []
    searched = {key for job in jobs if job.draw is not None for key in job.searched}
    for members in by_variant_and_point(jobs):
        selected = members
        if members[0].draw is not None:
            finished = _with_all_seeds(job_states, members)
            selected = job_states.best(finished) or []
            if selected:
                rule = rule_of_scores([results for job in finished if (results := job_states.results(job))])
                best_rows.append(_best_row(job_states, selected, len(finished) // len(selected), rule))
        reported += [job for job in selected if job_states.state(job).kind == "done"]
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
    page = write_report(folders, out, title=title, searched=sorted(searched), pictures=pictures, tables=tables)
    if tables:
        text = "\n".join(f"{title}\n\n{to_markdown(table)}" for title, table in tables)
        write_text(out / "published.md", "\n".join([text, *remarks]))
    if best_rows:
        write_text(out / "chosen.md", "\n".join([to_markdown(pd.DataFrame(best_rows).fillna("–")), *remarks]))
    return page


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


def _best_row(job_states: JobStates, best: Sequence[Job], compared: int, rule: str) -> dict[str, object]:
    """Return the row of chosen.md for one best setting.

    best: its jobs, one per seed.
    compared: number of settings that were compared.
    rule: selection rule whose score on validation is the best.
    """
    results = [job_states.results(job) for job in best]
    first = best[0]
    row: dict[str, object] = {"variant": first.variant, **first.point, **first.setting}
    row |= {"of": compared, "n": len(best)}
    for split in ("val", "test"):
        for metric in ("worst_group_accuracy", "bias_conflicting_accuracy", "mean_conflicting_group_accuracy"):
            values = [r[split].get(metric) for r in results if r and r.get(split)]
            values = [value for value in values if value is not None]
            row[f"{split} {COLUMNS[metric]}"] = str(make_stat([100 * value for value in values]) or "–")
    return {**row, "chosen by": rule if compared > 1 else "–"}
