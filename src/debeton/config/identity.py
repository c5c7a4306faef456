"""Identity of runs: the settings that make two runs the same run, or two runs of one setting.

Each setting declares its part (`Identity` in section.py), and a section does so for all its settings. The rules here
are used by the hash of a configuration, by the search for a run's folder, and by every table of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from debeton.config.section import SECTIONS, Identity, declared


def run_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that make a run the same run: those that may change its results.

    values: of a configuration, by dotted key.
    """
    return {key: value for key, value in values.items() if _part(key) != "none"}


def setting_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that make two runs repetitions of one setting: those of a run without seeds and folders.

    A setting that was declared after a configuration was written has its default there, as when it is loaded.

    values: of a written configuration, by dotted key.
    """
    sections = {key.split(".")[0] for key in values}
    later = {key: one.default for key, one in declared().items() if key.split(".")[0] in sections and key not in values}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in later.items()}
    return {key: value for key, value in {**plain, **values}.items() if _part(key) == "setting"}


def run_seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seeds in which the runs of one setting differ. A seed that is null follows another one.

    values: of a configuration, by dotted key.
    """
    return {key: value for key, value in values.items() if _part(key) == "seed" and value is not None}


def _part(key: str) -> Identity:
    """Return the part of a key in the identity.

    An unknown key may change the results, unless its section says no.
    """
    name, _, one = key.partition(".")
    entry = SECTIONS.get(name)
    if entry is None:
        return "setting"
    known = entry.settings.get(one)
    return (known.identity if known else None) or entry.identity
