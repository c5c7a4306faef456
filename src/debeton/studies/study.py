"""A study file, read strictly, and the jobs that it describes. A job is a pure function of the file and its seed.

    name: scale_ablation
    configs: [dataset_configs/dominoes.yaml]      # of every job, relative to the project
    betons: writers/write_betons.py --dataset dominoes --raw {raw} --spurious-strength {strength} --data-seed {seed}
    settings: {training.epochs: 50}
    axes: {strength: [0.95, 1.0]}                 # all combinations; names with a dot are settings
    seeds: [0, 1, 2]
    variants:
      erm: {configs: [dataset_configs/methods/erm.yaml]}
      scale: {configs: [dataset_configs/methods/scale.yaml], axes: {scale.mapping: [linear, step]}}
      tuned: {configs: [...], draws: 30, search: {training.lr: [0.1, 0.01], training.weight_decay: {log: [1e-5, 1e-3]}}}
      dfr: {configs: [...], settings: {dfr.checkpoint: '{best:erm}'}}

`betons` is the command that writes what is trained on, or a list of them; {betons} in them is the folder, and where
it does not occur, --out names it. In text, {seed}, {raw} and the names of axes without a dot stand for their values;
`values: {name: 0}` adds more such names, which --set may change. An axis without a dot may also give every value the
settings that come with it, before the study's: `mode: {usb: {synthetic.mode: usb}, ffr: {synthetic.mode: ffr,
training.lr: 0.001}}`. {best:VARIANT} is the best checkpoint, of the same
seed and axes, of the variant's best setting: the one with the highest mean over seeds of what training.selection
looks at, on validation. {run:VARIANT} is that run's folder. A variant with `seeds` of its own, one seed, is shared by
every seed of those that take something of it.

`limits: {jobs: 200, minutes: 30}`: more jobs than that are refused, and one that runs longer is stopped and counts as
failed; it goes on where it was when it is retried. `slurm: {partition: gpu, gres: gpu:1}`: options of sbatch.
`published`: numbers to stand beside what was measured (published.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from debeton.config.yaml_files import check_keys, check_kinds, read_mapping
from debeton.studies.jobs import PLACEHOLDER, Job, Point, axis_text, filled, variants_named_in
from debeton.studies.published import Published, read_published
from debeton.studies.search import check_range, draw
from debeton.system.errors import UsageError

STUDY_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str, int),
    "configs": (list,),
    "betons": (str, list),
    "values": (dict,),
    "settings": (dict,),
    "axes": (dict,),
    "seeds": (list,),
    "variants": (dict,),
    "limits": (dict,),
    "slurm": (dict,),
    "published": (dict, list),
}
VARIANT_KEYS: dict[str, tuple[type, ...]] = {
    "configs": (list,),
    "settings": (dict,),
    "axes": (dict,),
    "search": (dict,),
    "draws": (int,),
    "seeds": (list,),
}
LIMITS = ("jobs", "minutes")

Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]  # values, or what settings each of them stands for


@dataclass(frozen=True)
class StudyVariant:
    """One line of a study: what it adds to the study's own configs, settings and axes.

    search: lists of choices, or one of RANGES with two bounds; `draws` random points of it are jobs. seeds: instead of
    the study's; empty for those.
    """

    name: str
    configs: tuple[str, ...] = ()
    settings: Point = field(default_factory=dict)
    axes: Mapping[str, Axis] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    draws: int = 0
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study file; see the module."""

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
        """Every job, in the file's order. values: what --set and --raw say, by placeholder.

        UsageError for more than the study's limits allow.
        """
        known = {**self.values, **values}
        jobs = [job for variant in self.variants for job in _variant_jobs(self, variant, known)]
        most = self.limits.get("jobs", len(jobs))
        if len(jobs) > most:
            raise UsageError(
                f"study '{self.name}' describes {len(jobs)} jobs, and its limits allow {most:g}; shorten its axes, "
                "draws or seeds, or raise the limit"
            )
        return jobs


def load_study(path: Path, settings: Point = MappingProxyType({}), seeds: Sequence[int] = ()) -> Study:
    """Read a study; `settings` and `seeds`, of the command line, take the place of the file's.

    UsageError for a file that cannot be read, unknown keys, overlapping axes and variants that need a later one.
    """
    hint = "the project's are in dataset_configs/studies"
    content = read_mapping(path, "study", ", ".join(STUDY_KEYS), hint)
    check_kinds(content, STUDY_KEYS, f"study {path}")
    for key in ("name", "variants"):
        if not content.get(key):
            raise UsageError(f"study {path} has no '{key}'")
    study = Study(
        name=str(content["name"]),
        configs=tuple(content.get("configs") or ()),
        betons=_commands(content.get("betons")),
        settings={**(content.get("settings") or {}), **settings},
        axes=content.get("axes") or {},
        seeds=_seeds(seeds or content.get("seeds") or [0], f"study {path}"),
        values={str(key): str(value) for key, value in (content.get("values") or {}).items()},
        limits=_limits(content.get("limits") or {}, f"study {path}, limits"),
        slurm={str(key): str(value) for key, value in (content.get("slurm") or {}).items()},
        variants=tuple(
            _variant(path, name, {} if values is None else values, settings)
            for name, values in content["variants"].items()
        ),
    )
    _check(path, study, settings)
    axes_of = {variant.name: _axes_shown({**study.axes, **variant.axes}) for variant in study.variants}
    return replace(study, published=read_published(content.get("published"), axes_of, f"study {path}"))


def _axes_shown(axes: Mapping[str, Axis]) -> list[tuple[str, list[str]]]:
    """(name, values) of axes as jobs' names have them."""
    return [(key.rsplit(".", 1)[-1], [axis_text(value) for value in among]) for key, among in axes.items()]


def _seeds(given: Sequence[Any], where: str) -> tuple[int, ...]:
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"{where}: {seed!r} is among its seeds; expected whole numbers from 0")
    return tuple(given)


def _limits(given: Mapping[str, Any], where: str) -> dict[str, float]:
    check_keys(given, LIMITS, where)
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UsageError(f"{where}: {key} is {value!r}; expected a number above 0")
    return dict(given)


def _commands(given: Any) -> tuple[str, ...]:
    """The commands that write the betons, each with {betons} for their folder."""
    commands = [given] if isinstance(given, str) else list(given or [])
    return tuple(text if "{betons}" in text else f"{text} --out {{betons}}" for text in map(str, commands))


def _variant(path: Path, name: str, values: Any, given: Point) -> StudyVariant:
    """One variant of the file; `given`, of the command line, takes the place of its settings."""
    where = f"study {path}, variant '{name}'"
    if not isinstance(values, dict):
        raise UsageError(f"{where} is {values!r}; expected {', '.join(VARIANT_KEYS)}, or nothing")
    check_kinds(values, VARIANT_KEYS, where)
    search, draws = values.get("search") or {}, int(values.get("draws") or 0)
    if bool(search) != (draws > 0):
        raise UsageError(f"{where}: 'search' and 'draws' go together, ranges and how many points of them are tried")
    for key, among in search.items():
        check_range(among, f"{where}: search of {key}")
    settings = {key: value for key, value in (values.get("settings") or {}).items() if key not in given}
    seeds = _seeds(values.get("seeds") or (), where)
    return StudyVariant(
        name, tuple(values.get("configs") or ()), settings, values.get("axes") or {}, search, draws, seeds
    )


def _check(path: Path, study: Study, given: Point) -> None:
    for number, variant in enumerate(study.variants):
        where = f"study {path}, variant '{variant.name}'"
        _check_overlaps(study, variant, given, where)
        texts = [*study.betons, *(str(value) for value in {**study.settings, **variant.settings}.values())]
        texts += [str(value) for _, value in _implied({**study.axes, **variant.axes})]
        for key, values in {**study.axes, **variant.axes}.items():
            if isinstance(values, dict) and "." not in key and all(isinstance(v, dict) for v in values.values()):
                continue
            if not isinstance(values, list) or not values or len({repr(v) for v in values}) < len(values):
                raise UsageError(
                    f"{where}: axis {key} is {values!r}; expected a list of different values, or, of a name without a "
                    "dot, the settings of each value"
                )
            if "." not in key and not any(f"{{{key}}}" in text for text in texts):
                raise UsageError(
                    f"{where}: axis '{key}' changes nothing: it is no setting (section.key), and no text has {{{key}}}"
                )
        earlier = {other.name: other for other in study.variants[:number]}
        for needed in variants_named_in(texts):
            if needed not in earlier:
                raise UsageError(f"{where} takes something of '{needed}', which is no variant before it")
            _check_seeds(study, variant, earlier[needed], where)


def _check_seeds(study: Study, variant: StudyVariant, needed: StudyVariant, where: str) -> None:
    """Every seed of a variant finds what it takes of another: its own run, or the one that all share."""
    missing = set(variant.seeds or study.seeds) - set(needed.seeds or study.seeds)
    if missing and len(needed.seeds) != 1:
        raise UsageError(
            f"{where} takes something of '{needed.name}', which has no seed {min(missing)}; give '{needed.name}' the "
            "same seeds, or one that all share"
        )


def _check_overlaps(study: Study, variant: StudyVariant, given: Point, where: str) -> None:
    sources = {
        "axes of the study": study.axes,
        "axes": variant.axes,
        "search": variant.search,
        "settings": variant.settings,
    }
    for (first, left), (second, right) in itertools.combinations(sources.items(), 2):
        if both := sorted(set(left) & set(right)):
            raise UsageError(f"{where}: {both[0]} is in its {first} and in its {second}; a job can have one value")
    axes = {**study.axes, **variant.axes}
    implied = {key for key, _ in _implied(axes)}
    if both := sorted(implied & {*variant.settings, *axes, *variant.search}):
        raise UsageError(f"{where}: {both[0]} comes with a value of an axis, and it is given otherwise too")
    if fixed := sorted(set(given) & {*axes, *variant.search, *implied}):
        raise UsageError(f"{where}: {fixed[0]} is an axis, and --set gives it one value; leave one of them out")


def _implied(axes: Mapping[str, Axis]) -> list[tuple[str, Any]]:
    """The settings that values of axes stand for."""
    return [
        pair
        for among in axes.values()
        if isinstance(among, Mapping)
        for chosen in among.values()
        if isinstance(chosen, Mapping)
        for pair in chosen.items()
    ]


def _variant_jobs(study: Study, variant: StudyVariant, values: Mapping[str, str]) -> Iterator[Job]:
    """Combinations of the study's axes x the variant's own x its draws x the seeds."""
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
    drawn = {} if number is None else draw(variant.search, study.name, variant.name, number)
    varied = {**point, **own, **drawn}
    known = {**values, "seed": str(seed), **{key: axis_text(value) for key, value in varied.items()}}
    where = f"study '{study.name}', variant '{variant.name}'"
    settings = {**study.settings, **variant.settings, **{key: value for key, value in varied.items() if "." in key}}
    for key, among in {**study.axes, **variant.axes}.items():
        settings |= among[varied[key]] if isinstance(among, Mapping) else {}
    pieces = [
        variant.name,
        *(f"{key.rsplit('.', 1)[-1]}={axis_text(value)}" for key, value in {**point, **own}.items()),
    ]
    pieces += [] if number is None else [f"draw{number}"]
    in_commands = dict.fromkeys(PLACEHOLDER.findall(" ".join(study.betons)))
    told_apart = [name for name in in_commands if name in {*varied, *study.values, "seed"}]
    return Job(
        name="_".join([*pieces, f"seed{seed}"]).replace("/", "-"),
        variant=variant.name,
        configs=(*study.configs, *variant.configs),
        settings={key: filled(v, known, where) if isinstance(v, str) else v for key, v in settings.items()},
        point=dict(point),
        setting={**own, **drawn},
        seed=seed,
        betons=tuple(filled(command, {**known, "betons": "{betons}"}, where) for command in study.betons),
        data="_".join(f"{name}={known[name]}" for name in told_apart) or "all",
        draw=number,
        searched=tuple(drawn),
        minutes=float(study.limits.get("minutes", 0)),
    )


def _grid(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
