"""A job of a study, and the texts that stand for other values in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from debeton.system.errors import UsageError

PLACEHOLDER_KINDS = ("best", "run")  # what a text takes of a variant: its best checkpoint, or its run folder
PLACEHOLDER = re.compile(rf"\{{([\w.]+|(?:{'|'.join(PLACEHOLDER_KINDS)}):[\w.-]+)\}}")

Point = Mapping[str, Any]  # values of axes, or of a draw, by name


@dataclass(frozen=True)
class Job:
    """One run. name: its exp_name. settings: by key, {best:...} and {run:...} still in them. point: the study's axes.

    setting: what tells it from the variant's other jobs of this point, seeds apart. betons: the commands that write
    what it trains on, {betons} in them their folder; none where the settings say where it is. data: that folder's name.
    draw, searched: its number in a random search, and the keys that were drawn. minutes: it may take; 0 for any.
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
    minutes: float = 0

    @property
    def choice(self) -> str:
        """What is the same for all seeds of one of the variant's settings, and tells it from the others."""
        return f"{self.draw} {self.setting}"

    @property
    def label(self) -> str:
        """The name without seed and number of a draw."""
        name = self.name.removesuffix(f"_seed{self.seed}")
        return name if self.draw is None else name.removesuffix(f"_draw{self.draw}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Variants whose best checkpoint or run folder it takes."""
        return tuple(variants_named_in(self.settings.values()))


def axis_text(value: Any) -> str:
    """The value of an axis as names of jobs have it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def variants_named_in(values: Iterable[Any]) -> list[str]:
    """The variants that {best:...} and {run:...} in these texts name."""
    found = [name for value in values if isinstance(value, str) for name in PLACEHOLDER.findall(value)]
    return list(dict.fromkeys(split_placeholder(name)[1] for name in found if split_placeholder(name)[1]))


def split_placeholder(placeholder: str) -> tuple[str, str]:
    """'best:erm' -> ('best', 'erm'); ('', '') for one that takes nothing of a variant."""
    kind, _, variant = placeholder.partition(":")
    return (kind, variant) if kind in PLACEHOLDER_KINDS and variant else ("", "")


def filled(text: str, values: Mapping[str, str], where: str) -> str:
    """The text with its placeholders filled in, those of variants excepted; UsageError for one that nothing gives."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if split_placeholder(name)[1]:
            return match[0]
        if name not in values:
            raise UsageError(
                f"{where}: nothing says what {{{name}}} is; give it with --set {name}=VALUE"
                + (" (or --raw DIR)" if name == "raw" else "")
            )
        return values[name]

    return PLACEHOLDER.sub(value, text)
