"""Old names of settings, each read as the settings that took its place, and keys that never had an effect."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from debeton.config.checkers import Bool, Checker, OneOf
from debeton.config.section import Setting, check_value, show
from debeton.system.errors import UsageError
from debeton.system.log import logger


@dataclass(frozen=True)
class OldName:
    """An old name: its checker, and the settings that each of its values stands for."""

    checker: Checker[Any]
    means: Mapping[Any, Mapping[str, Any]]

    @property
    def replaced_by(self) -> list[str]:
        """The keys that took its place, in the order of the table."""
        return list(dict.fromkeys(key for settings in self.means.values() for key in settings))


OLD_NAMES: dict[str, OldName] = {
    "training.disable_logging": OldName(
        Bool(), {True: {"logging.tensorboard": False}, False: {"logging.tensorboard": True}}
    ),
    "training.supercloud": OldName(
        Bool(),
        {
            True: {"training.order": "quasi_random", "loader.os_cache": False},
            False: {"training.order": "random", "loader.os_cache": True},
        },
    ),
    "ddb.validation": OldName(
        OneOf("pseudo", "own"), {"pseudo": {"groups.val": "inferred"}, "own": {"groups.val": "attribute"}}
    ),
}

# Keys in the YAML files of MadryLab/bias-transfer that its own code does not read. The betons say how many classes
# there are, and the decoders resize every image.
WITHOUT_EFFECT = ("logging.do_if_complete", "logging.mmap_logdir", "data.num_classes", "data.upsample")


def without_leftovers(given: Sequence[tuple[str, Any]], where: str) -> list[tuple[str, Any]]:
    """Return the keys and values of one place without WITHOUT_EFFECT, which a note in the log names."""
    leftovers = [key for key, _ in given if key in WITHOUT_EFFECT]
    if leftovers:
        _note_leftovers(where, ", ".join(leftovers))
    return [(key, value) for key, value in given if key not in WITHOUT_EFFECT]


@functools.cache
def _note_leftovers(where: str, keys: str) -> None:
    """Say once in a process that keys have no effect."""
    logger.info("%s: without effect, as in the published bias-transfer code: %s", where, keys)


def without_old_names(
    given: Sequence[tuple[str, Any]], settings: Mapping[str, Setting], where: str, *, is_whole: bool = False
) -> list[tuple[str, Any]]:
    """Return the keys and values of one place, with new names in place of old ones.

    given: dotted keys and values, in order.
    settings: every declared setting.
    where: the place, for messages.
    is_whole: the place gives every setting, as the config.yaml of a run does. Default values of the new names then say
        nothing, and a switch that is off says nothing either.

    Raises: UsageError where an old and a new name have different values.
    """
    values = dict(given)
    meanings: dict[str, Any] = {}
    for key in [key for key in values if key in OLD_NAMES]:
        old = OLD_NAMES[key]
        switch = check_value(Setting(old.checker, "", None), key, values[key], where)
        if not is_whole:
            _note(where, key, " and ".join(old.replaced_by))
        for new, meaning in old.means[switch].items():
            own = check_value(settings[new], new, values[new], where) if new in values else meaning
            if is_whole and new in values and (not switch or own == settings[new].default):
                meaning = meaning if switch else own
            elif own != meaning:
                raise UsageError(
                    f"{where}: {key} is {values[key]!r} and {new} is {values[new]!r}; {key} is an old name and means "
                    f"{new} {show(meaning)} here: give {new} alone"
                )
            meanings[new] = meaning
    new_pairs = [(key, value) for key, value in given if key not in OLD_NAMES and key not in meanings]
    return [*new_pairs, *meanings.items()]


@functools.cache
def _note(where: str, key: str, replaced_by: str) -> None:
    """Say once in a process that a key is an old name."""
    logger.info("%s: %s is an old name; use %s", where, key, replaced_by)
