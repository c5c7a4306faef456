"""Descriptions in checkpoints: the plain values that rebuild a network and its inputs."""

from __future__ import annotations

from typing import Any

from debeton.config import Config
from debeton.data.spec import DatasetSpec


def describe_network(config: Config, spec: DatasetSpec) -> dict[str, Any]:
    """Return the values that rebuild the configured network and the normalisation of its inputs."""
    return {
        "arch": config.model.arch,
        "num_classes": spec.num_classes,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "blurpool": config.model.blurpool,
    }


def describe_inputs(config: Config, spec: DatasetSpec, resolution: int | None = None) -> dict[str, Any]:
    """Return the values that describe a classifier's images; a checkpoint has them beside `describe_network`.

    resolution: side in pixels; None takes the setting.
    """
    return {
        "dataset": spec.name,
        "classes": list(spec.classes),
        "resolution": resolution or config.resolution.val_res,
        "decoder": config.training.decoder_val,
        "tta": config.training.tta,
    }
