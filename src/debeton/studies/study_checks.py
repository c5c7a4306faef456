"""Checks of a study: that each variant's axes, settings and dependences fit together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from debeton.studies.jobs import Point, axis_text, variants_named_in
from debeton.studies.search import SELECTION
from debeton.studies.study import Axis, Study, StudyVariant
from debeton.system.errors import UsageError


def check_study(study: Study, given: Point, where: str) -> None:
    """Check the axes of every variant, and the variants that it depends on.

    study: the study.
    given: settings of the command line.
    where: names the study file, for messages.

    UsageError: axes overlap, an axis or a setting would change nothing, or a variant needs a later one.
    """
    own = {variant.name for variant in study.variants if not variant.best_of}
    if twice := [variant.name for variant in study.variants if variant.best_of and variant.name in own]:
        raise UsageError(f"{where}: 'best' adds a variant '{twice[0]}', and there is one; rename that one")
    for number, variant in enumerate(study.variants):
        _check_variant(study, number, given, f"{where}, variant '{variant.name}'")


def _check_variant(study: Study, number: int, given: Point, where: str) -> None:
    """Check a variant by its number in the study. given: settings of the command line."""
    variant = study.variants[number]
    _check_overlaps(study, variant, given, where)
    if variant.best_of and SELECTION in study.settings:
        raise UsageError(f"{where}: the study sets {SELECTION}, which the rules of 'best' give; remove one of them")
    _check_owned(study, variant, given, where)
    texts = [*study.betons, *(str(value) for value in {**study.settings, **variant.settings}.values())]
    texts += [str(value) for _, value in implied_settings({**study.axes, **variant.axes})]
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
    keys = {*study.settings, *variant.settings, *variant.search, *axes, *(key for key, _ in implied_settings(axes))}
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
    implied = {key for key, _ in implied_settings(axes)}
    if both := sorted(implied & {*variant.settings, *axes, *variant.search}):
        raise UsageError(f"{where}: {both[0]} comes with a value of an axis and is also set elsewhere; remove one")
    if fixed := sorted(set(given) & {*axes, *variant.search, *implied}):
        raise UsageError(f"{where}: {fixed[0]} is an axis, and --set gives it one value; leave one of them out")


def implied_settings(axes: Mapping[str, Axis]) -> list[tuple[str, Any]]:
    """Return the (key, value) pairs of settings that come with values of axes."""
    return [
        pair
        for axis in axes.values()
        if isinstance(axis, Mapping)
        for settings in axis.values()
        if isinstance(settings, Mapping)
        for pair in settings.items()
    ]
