"""What a study found: a report over its finished jobs, and the settings that a random search chose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from debeton.report.runs import make_stat
from debeton.report.tables import to_markdown
from debeton.report.write import PicturePlotter, write_report
from debeton.studies.jobs import Job
from debeton.studies.published import Published, beside
from debeton.studies.runner import counts
from debeton.studies.state import JobStates
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
    """Write the report of these jobs into `out`, of a random search only the best setting's; returns its page.

    What a search chose is in chosen.md: the best setting of each variant and point by its mean score on validation, and
    how many settings were compared. pictures: as of `write_report`. published: numbers to stand beside these, in
    published.md too. DataError when no job is finished.
    """
    states = [job_states.state(job) for job in jobs]
    reported: list[Job] = []
    chosen = []
    searched = {key for job in jobs if job.draw is not None for key in job.searched}
    for members in by_variant_and_point(jobs):
        kept = members
        if members[0].draw is not None:
            finished = [job for job in members if _all_seeds_done(job_states, members, job)]
            kept = job_states.best(finished) or []
            if kept:
                chosen.append(_chosen(job_states, kept, len(finished) // len(kept)))
        reported += [job for job in kept if job_states.state(job).kind == "done"]
    if not reported:
        raise DataError(f"no job of the study is finished ({counts(states)}), so there is nothing to collect")
    logger.info("%s", counts(states))
    tables = _published(job_states, reported, published)
    folders = [folder for job in reported if (folder := job_states.state(job).folder)]
    page = write_report(folders, out, title=title, searched=sorted(searched), pictures=pictures, tables=tables)
    if tables:
        text = "\n".join(f"{title}\n\n{to_markdown(table)}" for title, table in tables)
        write_text(out / "published.md", text)
    if chosen:
        write_text(out / "chosen.md", to_markdown(pd.DataFrame(chosen).fillna("–")))
    return page


def _published(
    job_states: JobStates, jobs: Sequence[Job], published: Sequence[Published]
) -> list[tuple[str, pd.DataFrame]]:
    """(title, table) of what was published and what these finished jobs measured."""
    results: dict[str, list[dict[str, object]]] = {}
    for job in jobs if published else ():
        results.setdefault(job.label, []).append(job_states.results(job) or {})
    return [(f"{table.source}: {table.metric}", beside(table, results)) for table in published]


def by_variant_and_point(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs of one variant at one point of the study's axes, together."""
    found: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.variant, repr(job.point)), []).append(job)
    return list(found.values())


def _all_seeds_done(job_states: JobStates, members: Sequence[Job], job: Job) -> bool:
    same = [other for other in members if (other.draw, other.setting) == (job.draw, job.setting)]
    return all(job_states.state(other).kind == "done" for other in same)


def _chosen(job_states: JobStates, kept: Sequence[Job], compared: int) -> dict[str, object]:
    results = [job_states.results(job) for job in kept]
    first = kept[0]
    row: dict[str, object] = {"variant": first.variant, **first.point, **first.setting, "of": compared, "n": len(kept)}
    for split in ("val", "test"):
        for metric, title in (("worst_group_accuracy", "worst-group"), ("bias_conflicting_accuracy", "conflicting")):
            values = [r[split][metric] for r in results if r and r.get(split) and r[split][metric] is not None]
            row[f"{split} {title}"] = str(make_stat([100 * value for value in values]) or "–")
    return row
