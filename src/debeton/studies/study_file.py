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
      fair:
        draws: 16
        seeds: [0]
        search: [common, groupdro, {training.momentum: {uniform: [0.5, 0.95]}}]
        best: {rules: [worst_group, mean_class], seeds: [1, 2, 3]}
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
- ranges: file of published ranges, in parts by name. The search of a variant may be a list of such names and of ranges.
- limits: `{jobs: 200, minutes: 30}`. A study with more jobs is refused. A job that runs longer is stopped and counts
  as failed; a retry continues it.
- slurm: options of sbatch, `{partition: gpu, gres: gpu:1}`.
- published: published numbers, shown beside the measured ones (published.py).

A range is a list of values, or two bounds: uniform, log (log-uniform), integers, log_integers, or log_to_one, where the
distance to 1 is log-uniform. Draw k depends on the names of study and variant alone, so it is the same on every
machine, and more draws leave it as it is. A draw whose training diverges counts among the draws and cannot win.

`best` adds a variant NAME_best, which runs the best setting of the search once per rule and seed, with
training.selection set to the rule. The runs of the search serve every rule: a rule compares the settings at the epochs
that it would select itself, as results.jsonl has them. Where the last phase with epochs does not end in the reported
model (a head that is fitted later), it compares the accuracies of that model. Three seeds of two rules after 16 draws
thus cost 16 + 6 runs, and each number costs 16 + 3.

Placeholders in text: {seed}, {raw}, and the names of axes and values without a dot. {best:VARIANT} is the best
checkpoint of the variant's best setting, for the same seed and axes. The best setting has the highest validation score
by training.selection, averaged over seeds. {run:VARIANT} is the folder of that run. A variant whose own `seeds` has one
seed is shared by all seeds of the variants that use it.
"""

from __future__ import annotations

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
from debeton.studies.jobs import PLACEHOLDER, Point, axis_text, split_placeholder
from debeton.studies.published import read_published
from debeton.studies.search import SELECTION, join_ranges, read_best, read_ranges
from debeton.studies.study import Axis, Study, StudyVariant
from debeton.studies.study_checks import check_study, implied_settings
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
    "ranges": (str,),
    "variants": (dict,),
    "limits": (dict,),
    "slurm": (dict,),
    "published": (dict, list),
}
VARIANT_KEYS: dict[str, tuple[type, ...]] = {
    "configs": (list,),
    "settings": (dict,),
    "axes": (dict,),
    "search": (dict, list),
    "draws": (int,),
    "best": (dict,),
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
    parts = read_ranges(content.get("ranges") or "")
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
            variant
            for name, values in content["variants"].items()
            for variant in _variants(path, str(name), {} if values is None else values, settings, parts)
        ),
    )
    check_study(study, settings, f"study {path}")
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
        texts += [str(value) for _, value in implied_settings({**study.axes, **variant.axes})]
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


def _variants(
    path: Path, name: str, values: Any, given: Point, parts: Mapping[str, Mapping[str, Any]]
) -> list[StudyVariant]:
    """Read one variant of the file, and the variant of its best settings that the key 'best' adds.

    path: the study file.
    name: name of the variant.
    values: its content.
    given: settings from the command line; they replace the variant's.
    parts: ranges by key, by the name of a part of the file of ranges.
    """
    where = f"study {path}, variant '{name}'"
    if not isinstance(values, dict):
        raise UsageError(f"{where} is {values!r}; expected {', '.join(VARIANT_KEYS)}, or nothing")
    check_kinds(values, VARIANT_KEYS, where)
    search, draws = values.get("search") or {}, int(values.get("draws") or 0)
    if bool(search) != (draws > 0):
        raise UsageError(f"{where}: 'search' and 'draws' go together; give the ranges and the number of draws")
    ranges = join_ranges(search, parts, where)
    settings = {key: value for key, value in (values.get("settings") or {}).items() if key not in given}
    seeds = _seeds(values.get("seeds") or (), where)
    variant = StudyVariant(
        name, tuple(values.get("configs") or ()), settings, values.get("axes") or {}, ranges, draws, seeds
    )
    return [variant] if not values.get("best") else _with_best(variant, values["best"], where)


def _with_best(variant: StudyVariant, given: Mapping[str, Any], where: str) -> list[StudyVariant]:
    """Return a variant that searches, and the one that runs its best setting under each rule.

    The runs of the search keep their epochs by the first rule; their other epochs are in results.jsonl.
    """
    rules, seeds = read_best(given, f"{where}: best")
    if not variant.draws:
        raise UsageError(f"{where} has 'best' and no search; give it 'search' and 'draws'")
    if variant.axes:
        raise UsageError(f"{where} has 'best' and axes of its own; put their values into its search")
    if SELECTION in {*variant.settings, *variant.search}:
        raise UsageError(f"{where} sets {SELECTION}, which the rules of 'best' give; remove one of them")
    searching = replace(variant, settings={**variant.settings, SELECTION: rules[0]})
    best = replace(
        variant,
        name=f"{variant.name}_best",
        axes={SELECTION: rules},
        search={},
        draws=0,
        seeds=_seeds(seeds, f"{where}: best"),
        best_of=variant.name,
    )
    return [searching, best]
