"""Study files: their format, and the reader, which refuses unknown keys and values that change nothing.

    name: scale_ablation
    configs: [dataset_configs/dominoes.yaml]      # used by every job; paths relative to the project
    betons: writers/write_betons.py --dataset dominoes --raw {raw} --spurious-strength {strength} --data-seed {seed}
    settings: {training.epochs: 50}
    axes: {strength: [0.95, 1.0]}                 # all combinations; names with a dot are settings
    seeds: [0, 1, 2]
    variants:
      erm: {configs: [dataset_configs/methods/erm.yaml]}
      scale: {configs: [dataset_configs/methods/scale.yaml], axes: {scale.mapping: [linear, step]}}
      tuned: {configs: [...], draws: 30, search: {training.lr: [0.1, 0.01], training.weight_decay: {log: [1e-5, 1e-3]}}}
      dfr: {configs: [...], settings: {dfr.checkpoint: '{best:erm}'}}

The keys of a study:

- configs: configuration files of every job.
- betons: the command that writes the betons to train on, or a list of commands. {betons} in them stands for the folder
  of the betons; where it does not occur, `--out {betons}` is added.
- settings: settings of every job.
- axes: lists of values; a study has jobs for all combinations. A name with a dot is a setting. A name without a dot is
  a placeholder for text. Such an axis may instead give settings to each value, and these come before the study's:
  `mode: {usb: {synthetic.mode: usb}, ffr: {synthetic.mode: ffr, training.lr: 0.001}}`.
- values: more placeholders, `{name: 0}`; --set may change them.
- seeds: seeds of every variant.
- variants: what differs between the methods that are compared. Each may add configs, settings, axes, a random search
  with a number of draws, and its own seeds.
- limits: `{jobs: 200, minutes: 30}`. A study with more jobs is refused. A job that runs longer is stopped and counts
  as failed; a retry continues it.
- slurm: options of sbatch, `{partition: gpu, gres: gpu:1}`.
- published: published numbers, shown beside the measured ones (published.py).

Placeholders in text: {seed}, {raw}, and the names of axes and values without a dot. {best:VARIANT} is the best
checkpoint of the variant's best setting, for the same seed and axes. The best setting has the highest validation score
by training.selection, averaged over seeds. {run:VARIANT} is the folder of that run. A variant whose own `seeds` has one
seed is shared by all seeds of the variants that use it.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from debeton.config import declared
from debeton.config.loading import check_names
from debeton.config.section import check_value, nearest_key
from debeton.config.yaml_files import check_keys, check_kinds, read_mapping
from debeton.studies.jobs import PLACEHOLDER, Point, axis_text, split_placeholder, variants_named_in
from debeton.studies.published import read_published
from debeton.studies.search import check_range
from debeton.studies.study import Axis, Study, StudyVariant
from debeton.system.errors import UsageError, nearest
from debeton.system.file_names import CONTROL, path_below

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


def load_study(path: Path, settings: Point = MappingProxyType({}), seeds: Sequence[int] = ()) -> Study:
    """Read a study file.

    path: the file.
    settings: settings from the command line; they replace the file's.
    seeds: seeds from the command line; they replace the study's.

    UsageError: the file cannot be read, a key is unknown, axes overlap, or a variant needs a later variant.
    """
    hint = "the project's are in dataset_configs/studies"
    content = read_mapping(path, "study", ", ".join(STUDY_KEYS), hint)
    check_kinds(content, STUDY_KEYS, f"study {path}")
    for key in ("name", "variants"):
        if not content.get(key):
            raise UsageError(f"study {path} has no '{key}'")
    study = Study(
        name=path_below(str(content["name"]), f"study {path}, name", UsageError),
        configs=tuple(content.get("configs") or ()),
        betons=_commands(content.get("betons"), f"study {path}, betons"),
        settings={**(content.get("settings") or {}), **settings},
        axes=content.get("axes") or {},
        seeds=_seeds(seeds or content.get("seeds") or [0], f"study {path}"),
        values=_texts(content.get("values") or {}, f"study {path}, values"),
        limits=_limits(content.get("limits") or {}, f"study {path}, limits"),
        slurm=_texts(content.get("slurm") or {}, f"study {path}, slurm"),
        variants=tuple(
            _variant(path, str(name), {} if values is None else values, settings)
            for name, values in content["variants"].items()
        ),
    )
    _check(path, study, settings)
    axes_of = {variant.name: _axis_texts({**study.axes, **variant.axes}) for variant in study.variants}
    return replace(study, published=read_published(content.get("published"), axes_of, f"study {path}"))


def check_given(study: Study, settings: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Check KEY=VALUE texts of the command line as main.py checks its settings, before any job runs.

    settings: values by a key with a dot, as main.py knows it.
    values: values of placeholders, by a name without a dot.

    UsageError: a setting is unknown or has a wrong value, or a placeholder is in no text of the study.
    """
    known = declared()
    check_names(list(settings), known, "--set")
    for key, value in settings.items():
        if key in known and not PLACEHOLDER.search(value):
            check_value(known[key], key, value, "--set")
    placeholders = _placeholders(study)
    axes = {*study.axes, *(key for variant in study.variants for key in variant.axes)}
    for name in values:
        if name in axes or name in ("seed", "betons"):
            source = {"seed": "--seeds gives the seeds", "betons": "--data gives the folder of the betons"}
            reason = source.get(name, "it is an axis of the study, which gives its values")
            raise UsageError(f"--set {name} would change nothing: {reason}")
        if name not in placeholders:
            hint = nearest_key(name, known)
            hint = hint if hint != ";" else nearest(name, placeholders | axes)
            raise UsageError(
                f"--set {name} would change nothing: a setting has a section (section.key), and no text of the study "
                f"has {{{name}}}{hint} placeholders of the study: {', '.join(sorted(placeholders)) or 'none'}"
            )


def _placeholders(study: Study) -> set[str]:
    """Return the names of the placeholders in the texts of a study that the command line may give values to."""
    texts = [*study.betons, *map(str, study.settings.values())]
    for variant in study.variants:
        texts += map(str, variant.settings.values())
        texts += [str(value) for _, value in _implied({**study.axes, **variant.axes})]
    return {name for text in texts for name in PLACEHOLDER.findall(text) if not split_placeholder(name)[1]} - {
        "seed",
        "betons",
    }


def _axis_texts(axes: Mapping[str, Axis]) -> list[tuple[str, list[str]]]:
    """Return (name, values) of the axes as text, as they stand in the names of jobs."""
    return [(key.rsplit(".", 1)[-1], [axis_text(value) for value in values]) for key, values in axes.items()]


def _seeds(given: Sequence[Any], where: str) -> tuple[int, ...]:
    """Check a list of seeds and return it."""
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UsageError(f"{where}: {seed!r} is among its seeds; expected whole numbers from 0")
    return tuple(given)


def _limits(given: Mapping[str, Any], where: str) -> dict[str, float]:
    """Check the limits and return them."""
    check_keys(given, LIMITS, where)
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UsageError(f"{where}: {key} is {value!r}; expected a number above 0")
    return dict(given)


def _texts(given: Mapping[Any, Any], where: str) -> dict[str, str]:
    """Return values as text. UsageError for one that is a list, a table or null, which would become other words."""
    for key, value in given.items():
        if not isinstance(value, str | int | float):
            raise UsageError(f"{where}: {key} is {value!r:.60}; expected text or a number ('' for none)")
    return {str(key): str(value) for key, value in given.items()}


def _commands(given: Any, where: str) -> tuple[str, ...]:
    """Return the commands that write the betons, each with {betons} for their folder.

    UsageError: one has no word, or a quote that is not closed.
    """
    commands = [given] if isinstance(given, str) else list(given or [])
    for text in map(str, commands):
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(f"{where}: {text!r} is no command ({error}); close its quotes") from None
        if not words or CONTROL.search(text.replace("\n", " ")):
            raise UsageError(f"{where}: {text!r} is no command; expected a script and its options")
    return tuple(text if "{betons}" in text else f"{text} --out {{betons}}" for text in map(str, commands))


def _variant(path: Path, name: str, values: Any, given: Point) -> StudyVariant:
    """Read one variant of the file; `given`, the settings from the command line, replace its settings."""
    where = f"study {path}, variant '{name}'"
    if not isinstance(values, dict):
        raise UsageError(f"{where} is {values!r}; expected {', '.join(VARIANT_KEYS)}, or nothing")
    check_kinds(values, VARIANT_KEYS, where)
    search, draws = values.get("search") or {}, int(values.get("draws") or 0)
    if bool(search) != (draws > 0):
        raise UsageError(f"{where}: 'search' and 'draws' go together; give the ranges and the number of draws")
    for key, candidates in search.items():
        check_range(candidates, f"{where}: search of {key}")
    settings = {key: value for key, value in (values.get("settings") or {}).items() if key not in given}
    seeds = _seeds(values.get("seeds") or (), where)
    return StudyVariant(
        name, tuple(values.get("configs") or ()), settings, values.get("axes") or {}, search, draws, seeds
    )


def _check(path: Path, study: Study, given: Point) -> None:
    """Check the axes of every variant, and the variants that it depends on. given: settings of the command line."""
    for number, variant in enumerate(study.variants):
        where = f"study {path}, variant '{variant.name}'"
        _check_overlaps(study, variant, given, where)
        _check_owned(study, variant, given, where)
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
            texts_of = [axis_text(value) for value in values]
            if twice := [value for k, value in enumerate(values) if texts_of[k] in texts_of[:k]]:
                first = values[texts_of.index(axis_text(twice[0]))]
                raise UsageError(
                    f"{where}: axis {key} has {first!r} and {twice[0]!r}, and both read '{axis_text(first)}' in the "
                    "names of jobs; remove one of them"
                )
            if "." not in key and not any(f"{{{key}}}" in text for text in texts):
                raise UsageError(
                    f"{where}: axis '{key}' changes nothing: it is no setting (section.key), and no text has {{{key}}}"
                )
        earlier = {other.name: other for other in study.variants[:number]}
        for needed in variants_named_in(texts):
            if needed not in earlier:
                raise UsageError(f"{where} depends on '{needed}', which is no variant before it; put that one first")
            _check_seeds(study, variant, earlier[needed], where)


OWNED = {
    "training.seed": "'seeds' of the study, or --seeds",
    "training.outdir": "--runs",
    "training.exp_name": "the names of the variants",
}


def _check_owned(study: Study, variant: StudyVariant, given: Point, where: str) -> None:
    """Check that no setting is given that the study itself gives to every job, because it would have no effect."""
    owned = {**OWNED, **({"training.data_root": "'betons' of the study, or --data"} if study.betons else {})}
    axes = {**study.axes, **variant.axes}
    keys = {*study.settings, *variant.settings, *variant.search, *axes, *(key for key, _ in _implied(axes))}
    if both := sorted(keys & set(owned)):
        source = "--set gives" if both[0] in given else "the file gives"
        raise UsageError(f"{where}: {source} {both[0]}, which comes from elsewhere; use {owned[both[0]]}")


def _check_seeds(study: Study, variant: StudyVariant, needed: StudyVariant, where: str) -> None:
    """Check that the needed variant has a run for every seed: one run per seed, or one that all share."""
    missing = set(variant.seeds or study.seeds) - set(needed.seeds or study.seeds)
    if missing and len(needed.seeds) != 1:
        raise UsageError(
            f"{where} depends on '{needed.name}', which has no seed {min(missing)}; give '{needed.name}' the same "
            "seeds, or one that all share"
        )


def _check_overlaps(study: Study, variant: StudyVariant, given: Point, where: str) -> None:
    """Check that no setting of a variant gets its value from two places."""
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
        raise UsageError(f"{where}: {both[0]} comes with a value of an axis and is also set elsewhere; remove one")
    if fixed := sorted(set(given) & {*axes, *variant.search, *implied}):
        raise UsageError(f"{where}: {fixed[0]} is an axis, and --set gives it one value; leave one of them out")


def _implied(axes: Mapping[str, Axis]) -> list[tuple[str, Any]]:
    """Return the (key, value) pairs of settings that come with values of axes."""
    return [
        pair
        for axis in axes.values()
        if isinstance(axis, Mapping)
        for settings in axis.values()
        if isinstance(settings, Mapping)
        for pair in settings.items()
    ]
