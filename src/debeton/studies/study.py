"""A study and the jobs that it describes. A job depends on the study and its seed alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from debeton.studies.jobs import (
    PLACEHOLDER,
    Job,
    Point,
    axis_piece,
    axis_text,
    fill_command,
    fill_placeholders,
    name_piece,
)
from debeton.studies.published import Published
from debeton.studies.search import draw
from debeton.system.errors import UsageError

Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]  # values, or the settings of each value


@dataclass(frozen=True)
class StudyVariant:
    """Variant of a study; it adds to the study's configs, settings and axes.

    name: name of the variant.
    configs: further configuration files.
    settings: further settings.
    axes: further axes.
    search: by key, a list of choices, or one of RANGES with two bounds.
    draws: number of random points of `search`; 0: no search.
    seeds: seeds in place of the study's; empty: the study's.
    best_of: name of the variant whose best setting each job runs, by its own training.selection; '': none.
    """

    name: str
    configs: tuple[str, ...] = ()
    settings: Point = field(default_factory=dict)
    axes: Mapping[str, Axis] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 0
    seeds: tuple[int, ...] = ()
    best_of: str = ""


@dataclass(frozen=True)
class Study:
    """Content of a study file; `study_file.py` explains the keys."""

    name: str
    configs: tuple[str, ...]
    betons: tuple[str, ...]
    settings: Point
    axes: Mapping[str, Axis]
    seeds: tuple[int, ...]
    variants: tuple[StudyVariant, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    slurm: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    def jobs(self, values: Mapping[str, str] = MappingProxyType({})) -> list[Job]:
        """Return every job, in the order of the file.

        values: values of placeholders from the command line (--set, --raw).

        UsageError: there are more jobs than the limit allows, or a placeholder has no value.
        """
        known = {**self.values, **values}
        jobs = [job for variant in self.variants for job in _variant_jobs(self, variant, known)]
        _check_names(self, jobs)
        limit = self.limits.get("jobs", len(jobs))
        if len(jobs) > limit:
            raise UsageError(
                f"study '{self.name}' describes {len(jobs)} jobs, and its limits allow {limit:g}; shorten its axes, "
                "draws or seeds, or raise the limit"
            )
        return jobs


def _check_names(study: Study, jobs: Sequence[Job]) -> None:
    """Raise UsageError for two jobs of one name, and for two sets of betons in one folder.

    A job's run folder, its log and its state have its name. So one of two such jobs would count as the other.
    """
    named: dict[str, Job] = {}
    writing: dict[str, Job] = {}
    for job in jobs:
        if other := named.get(job.name):
            raise UsageError(
                f"study '{study.name}': two jobs have the name {job.name}: {_described(other)}, and {_described(job)}; "
                "remove one, or give the variants or values names that differ without '/'"
            )
        if (other := writing.get(job.data)) and other.betons != job.betons:
            raise UsageError(
                f"study '{study.name}': the betons of {other.name} and {job.name} would share the folder {job.data}, "
                "and other commands write them; give the values of the axes names that differ without '/'"
            )
        named[job.name], writing[job.data] = job, job


def _described(job: Job) -> str:
    """Return the variant of a job, the values that distinguish it, and its seed, for a message."""
    values = ", ".join(f"{key} {value!r}" for key, value in {**job.point, **job.setting}.items())
    return f"variant {job.variant!r}{f' with {values}' if values else ''}, seed {job.seed}"


def _variant_jobs(study: Study, variant: StudyVariant, values: Mapping[str, str]) -> Iterator[Job]:
    """Yield the jobs of a variant: all combinations of study axes, own axes, draws and seeds."""
    draws: list[int | None] = list(range(variant.draws)) or [None]
    for point, own, number in itertools.product(_grid(study.axes), _grid(variant.axes), draws):
        for seed in variant.seeds or study.seeds:
            yield _job(study, variant, point, own, number, seed, values)


def _job(
    study: Study,
    variant: StudyVariant,
    point: Point,
    own: Point,
    number: int | None,
    seed: int,
    values: Mapping[str, str],
) -> Job:
    """Make one job.

    study: the study.
    variant: the variant.
    point: values of the study's axes.
    own: values of the variant's axes.
    number: number of the draw; None: no search.
    seed: seed of the job.
    values: values of placeholders.
    """
    drawn = {} if number is None else draw(variant.search, study.name, variant.name, number)
    varied = {**point, **own, **drawn}
    known = {**values, "seed": str(seed), **{key: axis_text(value) for key, value in varied.items()}}
    where = f"study '{study.name}', variant '{variant.name}'"
    settings = {**study.settings, **variant.settings, **{key: value for key, value in varied.items() if "." in key}}
    for key, axis in {**study.axes, **variant.axes}.items():
        settings |= axis[varied[key]] if isinstance(axis, Mapping) else {}
    on_axes = {**point, **own}
    pieces = [name_piece(variant.name), *(axis_piece(key, value) for key, value in on_axes.items())]
    pieces += [] if number is None else [f"draw{number}"]
    in_commands = dict.fromkeys(PLACEHOLDER.findall(" ".join(study.betons)))
    varied_in_commands = [name for name in in_commands if name in {*varied, *study.values, "seed"}]
    return Job(
        name="_".join([*pieces, f"seed{seed}"]),
        variant=variant.name,
        configs=(*study.configs, *variant.configs),
        settings={key: fill_placeholders(v, known, where) if isinstance(v, str) else v for key, v in settings.items()},
        point=dict(point),
        setting={**own, **drawn},
        seed=seed,
        betons=tuple(fill_command(command, {**known, "betons": "{betons}"}, where) for command in study.betons),
        data=name_piece("_".join(f"{name}={known[name]}" for name in varied_in_commands))
        if varied_in_commands
        else "all",
        draw=number,
        searched=tuple(drawn),
        best_of=variant.best_of,
        minutes=float(study.limits.get("minutes", 0)),
    )


def _grid(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    """Return all combinations of the axes' values."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
