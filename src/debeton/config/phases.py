"""The settings of one phase: those of section 'training', with values of its own where a method's section has some."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from debeton.config.checkers import Float, Int, OrNull
from debeton.config.loading import Config
from debeton.config.section import SECTIONS, Setting, declared_field
from debeton.config.sections import Resolution, Training
from debeton.system.seed import derive_seed


@dataclass(frozen=True)
class PhaseSettings(Training):
    """The settings of section 'training' as one phase has them, and its resolution in pixels.

    `dataclasses.replace` changes single values.
    """

    resolution: int = Resolution.val_res

    @property
    def seed_of_order(self) -> int:
        """Return the seed of the order of rows: order_seed, or else seed."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def seed_of_augmentation(self) -> int:
        """Return the seed of crops and augmentations: augment_seed, or else seed."""
        return self.seed if self.augment_seed is None else self.augment_seed

    def reseeded(self, purpose: str) -> PhaseSettings:
        """Return the same settings with seeds of their own for another loader of the phase.

        purpose: the word that tells this loader from others.
        """
        seeds = {name: getattr(self, name) for name in ("seed", "order_seed", "augment_seed")}
        own: dict[str, Any] = {
            name: None if seed is None else derive_seed(seed, purpose) for name, seed in seeds.items()
        }
        return replace(self, **own)


def phase_setting(name: str, phase: str, *, default: Any = None, otherwise: str | None = None) -> Any:
    """Declare a field of a section for a value that one phase has of its own.

    name: the field of PhaseSettings that the value stands for.
    phase: name of the phase, for the help.
    default: the value; None: the phase takes the value of another setting.
    otherwise: key of that other setting; by default 'training.NAME', or 'resolution.val_res'.
    """
    base = SECTIONS["training"].settings.get(name, SECTIONS["resolution"].settings["val_res"])
    own = base.checker.own if isinstance(base.checker, OrNull) else base.checker
    checker = OrNull(own, -1 if isinstance(own, Int | Float) else "auto")
    otherwise = otherwise or (f"training.{name}" if name in SECTIONS["training"].settings else "resolution.val_res")
    text = "resolution of images, pixels" if name == "resolution" else base.help.split("; null:")[0]
    # A phase without the value of `otherwise` is asked for by 0, where that value may be null.
    none = "; 0: none" if isinstance(base.checker, OrNull) else ""
    help = f"{text} (phase '{phase}'){none}; null: {otherwise}"
    return declared_field(Setting(checker, help, checker.check(default), replaces=name, identity=base.identity))


def phase_settings(config: Config, own: object = None) -> PhaseSettings:
    """Return the settings of a phase.

    own: settings of a method's section. Those declared by `phase_setting` replace the training section's, unless None.
    """
    values = {field.name: getattr(config.training, field.name) for field in fields(Training)}
    values["resolution"] = config.resolution.val_res
    for field in fields(own) if own is not None else ():  # type: ignore[arg-type]
        name, value = field.metadata[Setting.__name__].replaces, getattr(own, field.name)
        if name and value is not None:
            base = SECTIONS["training"].settings.get(name)
            values[name] = base.checker.check(value) if base else value
    return PhaseSettings(**values)
