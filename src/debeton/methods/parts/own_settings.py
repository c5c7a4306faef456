"""Settings of a phase that differ from those of section 'training': how sections declare them, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastargs import Param

from debeton.config.checkers import Float, Int, OneOf, OrElsewhere, Text

_CHECKERS = {
    "epochs": Int(0),
    "batch_size": Int(1),
    "resolution": Int(1),
    "lr": Float(0),
    "weight_decay": Float(0),
    "warmup_epochs": Float(0),
    "clip_grad": Float(0),
    "ema": Float(0, 1),
    "optimizer": OneOf("sgd", "adam", "adamw"),
    "precision": OneOf("fp32", "bf16", "fp16"),
    "lr_scheduler": OneOf("steplr", "multisteplr", "cyclic", "cosine", "constant"),
    "augment": Text(),
    "decoder_train": Text(),
}
_ELSEWHERE = {"resolution": "resolution.val_res"}


def own_params(
    phase: str, names: Sequence[str], elsewhere: Mapping[str, str] = MappingProxyType({}), **defaults: Any
) -> dict[str, Param]:
    """Parameters of a section for what the phase may have of its own; without a default, as section 'training' says,
    or the setting that `elsewhere` names."""
    found = {}
    for name in names:
        checker, like = OrElsewhere(_CHECKERS[name]), {**_ELSEWHERE, **elsewhere}.get(name, f"training.{name}")
        default = defaults.get(name, checker.elsewhere)
        found[name] = Param(checker, f"of {phase}; {checker.elsewhere}: {like}", default=default)
    return found


def own_settings(section: Any, names: Sequence[str]) -> dict[str, Any]:
    """The named settings that a section has of its own, as `Run.fit` takes them."""
    found = {name: getattr(section, name) for name in names}
    return {name: value for name, value in found.items() if value not in (-1, "auto")}
