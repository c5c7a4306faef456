"""Descriptions in checkpoints: the plain values that rebuild a network and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from debeton.config import Config
from debeton.data.beton.sidecar import image_options_of
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.nets.models import architecture, library_of


def describe_network(config: Config, spec: DatasetSpec, arch: str = "") -> dict[str, Any]:
    """Return the values that rebuild a network and the normalisation of its inputs.

    arch: name of the architecture, or of a network that is no classifier; '' takes that of section 'model'.
    """
    arch = arch or config.model.arch
    plain = architecture(arch).config if library_of(arch) is not None else None
    return {
        "arch": arch,
        "num_classes": spec.num_classes,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "blurpool": config.model.blurpool,
        **({} if plain is None else {"config": dict(plain)}),
    }


def describe_inputs(
    config: Config, spec: DatasetSpec, views: Mapping[str, View], resolution: int | None = None
) -> dict[str, Any]:
    """Return the values that describe a classifier's images; a checkpoint has them beside `describe_network`.

    'images' are the options with which the images of the test rows were stored, or None if they are not known.

    views: the views of the run, by split.
    resolution: side in pixels; None takes the setting.
    """
    return {
        "dataset": spec.name,
        "classes": list(spec.classes),
        "resolution": resolution or config.resolution.val_res,
        "decoder": config.training.decoder_val,
        "tta": config.training.tta,
        "images": image_options_of(next(views[s] for s in ("test", "val", "train") if s in views).beton.sidecar),
    }
