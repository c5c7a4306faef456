"""Plain values that checkpoints carry: what rebuilds a network and its inputs."""

from __future__ import annotations

from typing import Any

from debeton.config import Config
from debeton.data.spec import DatasetSpec


def describe_network(config: Config, spec: DatasetSpec) -> dict[str, Any]:
    """What rebuilds the configured network and its inputs' normalisation, as checkpoints carry it."""
    return {
        "arch": config.model.arch,
        "num_classes": spec.num_classes,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "blurpool": config.model.blurpool,
    }


def describe_inputs(config: Config, spec: DatasetSpec, resolution: int | None = None) -> dict[str, Any]:
    """What a classifier of this configuration is shown, as checkpoints carry it beside `describe_network`."""
    return {
        "dataset": spec.name,
        "classes": list(spec.classes),
        "resolution": resolution or config.resolution.val_res,
        "decoder": config.training.decoder_val,
        "tta": config.training.tta,
    }
