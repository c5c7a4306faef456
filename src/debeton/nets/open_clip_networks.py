"""The image towers of open_clip: `open_clip:NAME` or `open_clip:NAME@WEIGHTS`, with a linear layer on the embedding.

NAME is open_clip's, a JSON file of a model's configuration, or a folder of a saved model. WEIGHTS is a tag of open_clip
or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from debeton.nets.architecture import Architecture, TowerWithHead
from debeton.nets.weight_files import read_weight_file
from debeton.nets.weight_fitting import fit_weights
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null

PREFIX = "open_clip:"
FOLDER_CONFIG, FOLDER_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def open_clip_names() -> list[str]:
    """Return open_clip's networks with each tag of weights, as model.arch takes them."""
    import open_clip

    return [f"{PREFIX}{name}@{tag}" for name, tag in open_clip.list_pretrained()]


def open_clip_architecture(name: str, config: Mapping[str, Any] | None = None) -> Architecture:
    """Return how to build an image tower. UsageError for an unknown name or tag; DataError for a damaged file.

    config: of a checkpoint, in place of open_clip's or a file's.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    model, _, weights = name.partition("@")
    published: Mapping[str, Any] = {}
    if config is None:
        cfg, published = _config(model)
        if weights and not Path(weights).is_file():
            published = _published(model, weights)
        config = {
            "embed_dim": int(cfg["embed_dim"]),
            "vision_cfg": dict(cfg["vision_cfg"]),
            "quick_gelu": bool(cfg.get("quick_gelu") or published.get("quick_gelu")),
            "mean": list(published.get("mean") or OPENAI_DATASET_MEAN),
            "std": list(published.get("std") or OPENAI_DATASET_STD),
        }
    size = config["vision_cfg"].get("image_size", 224)
    size = int(size if isinstance(size, int) else size[0])
    return Architecture(
        build=lambda num_classes, pretrained: _build(name, config, num_classes, pretrained),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=size,
        crop=1.0,
        sizes=f"images of {size} x {size} pixels",
        names_weights=bool(weights) or Path(model).is_dir(),
        config=config,
    )


SIDE = Within(int, 1, 1 << 16)
TOWER = Table(
    keys={
        "embed_dim": SIDE,
        "vision_cfg": Table(may={"image_size": (SIDE, ListOf(SIDE, 2)), "width": SIDE, "patch_size": object}),
    },
    may={"quick_gelu": or_null(bool)},
)
CHANNELS = or_null(ListOf(float, 3))
WHOLE = Table(
    keys={"model_cfg": TOWER}, may={"preprocess_cfg": or_null(Table(may={"mean": CHANNELS, "std": CHANNELS}))}
)


def _config(model: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a model's configuration and that of its images, from open_clip, a file or a folder."""
    import open_clip

    path = Path(model)
    if path.is_dir():
        path = path / FOLDER_CONFIG
    if path.suffix == ".json" and path.is_file():
        remedy = "expected 'embed_dim' and 'vision_cfg' of an open_clip model, alone or under 'model_cfg'"
        shape = WHOLE if "model_cfg" in read_json(path, remedy=remedy) else TOWER
        content = read_json(path, shape, remedy=remedy)
        return content.get("model_cfg", content), content.get("preprocess_cfg") or {}
    known = open_clip.list_models()
    if model not in known:
        hint = nearest(model, known).replace("'", f"'{PREFIX}", 1)
        raise UsageError(
            f"unknown model '{PREFIX}{model}'{hint} it is neither a network of open_clip ({len(known)}; see debeton "
            "list open_clip), nor a .json file, nor a folder"
        )
    cfg = open_clip.get_model_config(model)
    assert cfg is not None
    return cfg, {}


def _published(model: str, tag: str) -> Mapping[str, Any]:
    """Return open_clip's record of published weights. UsageError for an unknown tag."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise UsageError(
            f"{PREFIX}{model} has no weights '{tag}', and there is no file of that name{nearest(tag, tags)} its tags: "
            f"{', '.join(tags) or 'none'}"
        )
    found: Mapping[str, Any] = open_clip.get_pretrained_cfg(model, tag)
    return found


def _build(name: str, config: Mapping[str, Any], num_classes: int, pretrained: bool) -> nn.Module:
    """Build the image tower with a fresh linear layer on its embedding."""
    from open_clip.model import _build_vision_tower

    tower = _build_vision_tower(config["embed_dim"], dict(config["vision_cfg"]), config["quick_gelu"])
    model = TowerWithHead(tower, config["embed_dim"], num_classes)
    if pretrained and not next(model.parameters()).is_meta:
        fit_weights(model, read_weight_file(_weights_of(name)), PREFIX + name, head="head")
    return model


def _weights_of(name: str) -> Path:
    """Return the file of published weights, downloaded by open_clip if need be. DataError if it cannot be had."""
    import open_clip

    model, _, weights = name.partition("@")
    if weights and Path(weights).is_file():
        return Path(weights)
    if not weights and (Path(model) / FOLDER_WEIGHTS).is_file():
        return Path(model) / FOLDER_WEIGHTS
    if not weights:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise UsageError(
            f"{PREFIX}{name} names no weights; write {PREFIX}{model}@WEIGHTS with a file or one of: "
            f"{', '.join(tags) or 'no tag'}, or give a file with --model.weights"
        )
    try:
        return Path(open_clip.download_pretrained(_published(model, weights)))
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the weights of {PREFIX}{name} could not be had ({reason}); give their file with --model.weights FILE, or "
            "download them once on a machine with a network and copy the cache of Hugging Face (HF_HOME)"
        ) from None
