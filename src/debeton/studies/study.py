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
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from debeton.errors import UsageError
from debeton.seed import make_rng
from debeton.yaml_files import check_keys, read_mapping

STUDY_KEYS = ("name", "configs", "betons", "values", "settings", "axes", "seeds", "variants")
VARIANT_KEYS = ("configs", "settings", "axes", "search", "draws", "seeds")
RANGES = ("uniform", "log", "integers", "log_integers")
OF_VARIANTS = ("best", "run")  # what a text takes of a variant: its best checkpoint, or its run folder
PLACEHOLDER = re.compile(rf"\{{([\w.]+|(?:{'|'.join(OF_VARIANTS)}):[\w.-]+)\}}")

Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]  # values, or what settings each of them stands for
Point = Mapping[str, Any]  # values of axes, or of a draw, by name


@dataclass(frozen=True)
class Variant:
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
class Job:
    """One run. name: its exp_name. settings: by key, {best:...} and {run:...} still in them. point: the study's axes.

    setting: what tells it from the variant's other jobs of this point, seeds apart. betons: the commands that write
    what it trains on, {betons} in them their folder; none where the settings say where it is. data: that folder's name.
    draw, searched: its number in a random search, and the keys that were drawn.
    """

    name: str
    variant: str
    configs: tuple[str, ...]
    settings: Point
    point: Point
    setting: Point
    seed: int
    betons: tuple[str, ...] = ()
    data: str = ""
    draw: int | None = None
    searched: tuple[str, ...] = ()

    @property
    def choice(self) -> str:
        """What is the same for all seeds of one of the variant's settings, and tells it from the others."""
        return f"{self.draw} {self.setting}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Variants whose best checkpoint or run folder it takes."""
        return tuple(variants_in(self.settings.values()))


@dataclass(frozen=True)
class Study:
    """A study file; see the module."""

    name: str
    configs: tuple[str, ...]
    betons: tuple[str, ...]
    settings: Point
    axes: Mapping[str, Axis]
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    values: Mapping[str, str] = field(default_factory=dict)

    def jobs(self, values: Mapping[str, str] = MappingProxyType({})) -> list[Job]:
        """Every job, in the file's order. values: what --set and --raw say, by placeholder."""
        known = {**self.values, **values}
        return [job for variant in self.variants for job in _variant_jobs(self, variant, known)]


def load_study(path: Path, settings: Point = MappingProxyType({}), seeds: Sequence[int] = ()) -> Study:
    """Read a study; `settings` and `seeds`, of the command line, take the place of the file's.

    UsageError for a file that cannot be read, unknown keys, overlapping axes and variants that need a later one.
    """
    hint = "the project's are in dataset_configs/studies"
    content = read_mapping(path, "study", ", ".join(STUDY_KEYS), hint)
    check_keys(content, STUDY_KEYS, f"study {path}")
    for key in ("name", "variants"):
        if not content.get(key):
            raise UsageError(f"study {path} has no '{key}'")
    study = Study(
        name=str(content["name"]),
        configs=tuple(content.get("configs") or ()),
        betons=_commands(content.get("betons")),
        settings={**(content.get("settings") or {}), **settings},
        axes=content.get("axes") or {},
        seeds=tuple(int(seed) for seed in (seeds or content.get("seeds") or [0])),
        values={str(key): str(value) for key, value in (content.get("values") or {}).items()},
        variants=tuple(_variant(path, name, values or {}, settings) for name, values in content["variants"].items()),
    )
    _check(path, study, settings)
    return study


def _commands(given: Any) -> tuple[str, ...]:
    """The commands that write the betons, each with {betons} for their folder."""
    commands = [given] if isinstance(given, str) else list(given or [])
    return tuple(text if "{betons}" in text else f"{text} --out {{betons}}" for text in map(str, commands))


def _variant(path: Path, name: str, values: Mapping[str, Any], given: Point) -> Variant:
    """One variant of the file; `given`, of the command line, takes the place of its settings."""
    where = f"study {path}, variant '{name}'"
    check_keys(values, VARIANT_KEYS, where)
    search, draws = values.get("search") or {}, int(values.get("draws") or 0)
    if bool(search) != (draws > 0):
        raise UsageError(f"{where}: 'search' and 'draws' go together, ranges and how many points of them are tried")
    for key, among in search.items():
        _check_range(among, f"{where}: search of {key}")
    settings = {key: value for key, value in (values.get("settings") or {}).items() if key not in given}
    seeds = tuple(int(seed) for seed in values.get("seeds") or ())
    return Variant(name, tuple(values.get("configs") or ()), settings, values.get("axes") or {}, search, draws, seeds)


def _check_range(among: Any, where: str) -> None:
    if isinstance(among, list) and among:
        return
    if isinstance(among, dict) and len(among) == 1:
        ((kind, bounds),) = among.items()
        if kind in RANGES and isinstance(bounds, list) and len(bounds) == 2:
            low, high = (float(bound) for bound in bounds)
            if low < high and (low > 0 or not kind.startswith("log")):
                return
    raise UsageError(
        f"{where} is {among!r}; expected a list of values, or one of {', '.join(RANGES)} with two bounds, the lower "
        "first (above 0 for the logarithmic ones)"
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
        for needed in variants_in(texts):
            if needed not in earlier:
                raise UsageError(f"{where} takes something of '{needed}', which is no variant before it")
            _check_seeds(study, variant, earlier[needed], where)


def _check_seeds(study: Study, variant: Variant, needed: Variant, where: str) -> None:
    """Every seed of a variant finds what it takes of another: its own run, or the one that all share."""
    missing = set(variant.seeds or study.seeds) - set(needed.seeds or study.seeds)
    if missing and len(needed.seeds) != 1:
        raise UsageError(
            f"{where} takes something of '{needed.name}', which has no seed {min(missing)}; give '{needed.name}' the "
            "same seeds, or one that all share"
        )


def _check_overlaps(study: Study, variant: Variant, given: Point, where: str) -> None:
    sources = {"axes of the study": study.axes, "axes": variant.axes, "search": variant.search,
               "settings": variant.settings}  # fmt: skip
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
        pair for among in axes.values() if isinstance(among, Mapping) for chosen in among.values()
        if isinstance(chosen, Mapping) for pair in chosen.items()
    ]  # fmt: skip


def variants_in(values: Iterable[Any]) -> list[str]:
    """The variants that {best:...} and {run:...} in these texts name."""
    found = [name for value in values if isinstance(value, str) for name in PLACEHOLDER.findall(value)]
    return list(dict.fromkeys(of_variant(name)[1] for name in found if of_variant(name)[1]))


def of_variant(placeholder: str) -> tuple[str, str]:
    """'best:erm' -> ('best', 'erm'); ('', '') for one that takes nothing of a variant."""
    kind, _, variant = placeholder.partition(":")
    return (kind, variant) if kind in OF_VARIANTS and variant else ("", "")


def _variant_jobs(study: Study, variant: Variant, values: Mapping[str, str]) -> Iterator[Job]:
    """Combinations of the study's axes x the variant's own x its draws x the seeds."""
    draws: list[int | None] = list(range(variant.draws)) or [None]
    for point, own, draw in itertools.product(_grid(study.axes), _grid(variant.axes), draws):
        for seed in variant.seeds or study.seeds:
            yield _job(study, variant, point, own, draw, seed, values)


def _job(
    study: Study, variant: Variant, point: Point, own: Point, draw: int | None, seed: int, values: Mapping[str, str]
) -> Job:
    drawn = {} if draw is None else _draw(study, variant, draw)
    varied = {**point, **own, **drawn}
    known = {**values, "seed": str(seed), **{key: _text(value) for key, value in varied.items()}}
    where = f"study '{study.name}', variant '{variant.name}'"
    settings = {**study.settings, **variant.settings, **{key: value for key, value in varied.items() if "." in key}}
    for key, among in {**study.axes, **variant.axes}.items():
        settings |= among[varied[key]] if isinstance(among, Mapping) else {}
    pieces = [variant.name, *(f"{key.rsplit('.', 1)[-1]}={_text(value)}" for key, value in {**point, **own}.items())]
    pieces += [] if draw is None else [f"draw{draw}"]
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
        draw=draw,
        searched=tuple(drawn),
    )


def filled(text: str, values: Mapping[str, str], where: str) -> str:
    """The text with its placeholders filled in, those of variants excepted; UsageError for one that nothing gives."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if of_variant(name)[1]:
            return match[0]
        if name not in values:
            raise UsageError(
                f"{where}: nothing says what {{{name}}} is; give it with --set {name}=VALUE"
                + (" (or --raw DIR)" if name == "raw" else "")
            )
        return values[name]

    return PLACEHOLDER.sub(value, text)


def _grid(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _draw(study: Study, variant: Variant, k: int) -> dict[str, Any]:
    """Point k of the variant's random search: the same whatever the number of draws."""
    rng = make_rng("study", study.name, variant.name, k)
    drawn: dict[str, Any] = {}
    for key, among in variant.search.items():
        if isinstance(among, list):
            drawn[key] = among[int(rng.integers(len(among)))]
            continue
        ((kind, bounds),) = among.items()
        low, high = (float(bound) for bound in bounds)
        if kind.startswith("log"):
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        drawn[key] = min(max(round(value), math.ceil(low)), math.floor(high)) if kind.endswith("integers") else value
    return drawn
