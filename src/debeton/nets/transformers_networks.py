"""The image models of transformers: `hf:FOLDER`, a folder of save_pretrained, with a linear layer on the features.

Of a model of images and text (CLIP, SigLIP) only the image tower is used. Position embeddings adapt to the image where
the model can do that.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD
from debeton.nets.architecture import Architecture, TowerWithHead
from debeton.system.errors import DataError, UsageError
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null

PREFIX = "hf:"
# Kinds whose pooler is no part of a classifier: it classifies the first token.
FIRST_TOKEN = ("vit", "deit", "vit_msn", "vit_mae", "dinov3_vit", "data2vec-vision")
CLIP_NORMALISATION = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
NORMALISATIONS = {
    "clip": CLIP_NORMALISATION,
    **dict.fromkeys(("siglip", "siglip2", "vit"), ((0.5,) * 3, (0.5,) * 3)),
}


def transformers_architecture(name: str, config: Mapping[str, Any] | None = None) -> Architecture:
    """Return how to build the image model in a folder, or in the local cache of Hugging Face.

    config: of a checkpoint, in place of the folder's.

    UsageError if there is no such folder. DataError if it holds no image model.
    """
    if config is None:
        config = _described(name)
    size = config["size"]
    return Architecture(
        build=lambda num_classes, pretrained: _build(name, config, num_classes, pretrained),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=size,
        crop=config["crop"],
        sizes=f"images of {size} x {size} pixels, or of other multiples of its patch where it adapts",
        names_weights=True,
        config=config,
    )


def _described(name: str) -> dict[str, Any]:
    """Return the plain values that describe the folder's model and its images."""
    from transformers import AutoConfig

    if not name:
        raise UsageError(f"model.arch '{PREFIX}' names no folder; write {PREFIX}FOLDER, a folder of save_pretrained")
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UsageError(f"{PREFIX}{name}: {folder} has no config.json; give a folder that save_pretrained has written")
    try:
        whole = AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        if folder.is_dir():
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{folder / 'config.json'} describes no model of transformers ({reason})") from None
        raise UsageError(
            f"{PREFIX}{name}: there is no folder {name}, and the local cache of Hugging Face has no model of that "
            "name; download it once (save_pretrained writes a folder) and give the folder; nothing is downloaded here"
        ) from None
    vision = getattr(whole, "vision_config", whole)
    kind = str(whole.model_type).removesuffix("_vision_model")
    images = _preprocessing(name)
    mean, std = NORMALISATIONS.get(kind, (IMAGENET_MEAN, IMAGENET_STD))
    size = getattr(vision, "image_size", None) or _side(images.get("crop_size") or images.get("size")) or 224
    side = int(size if isinstance(size, int) else size[0])
    shorter = _side(images.get("size"))
    return {
        "model": json.loads(vision.to_json_string(use_diff=False)),
        "size": side,
        "crop": side / shorter if images.get("do_center_crop") and shorter and shorter >= side else 1.0,
        "mean": list(images.get("image_mean") or mean),
        "std": list(images.get("image_std") or std),
    }


SIDE = or_null(Within(int, 1, 1 << 16))
SIZE = (SIDE[0], Table(may={"shortest_edge": SIDE, "height": SIDE, "width": SIDE}), None)
PREPROCESSING = Table(
    may={
        "image_mean": or_null(ListOf(float, 3)),
        "image_std": or_null(ListOf(float, 3)),
        "crop_size": SIZE,
        "size": SIZE,
        "do_center_crop": or_null(bool),
    }
)


def _preprocessing(name: str) -> Mapping[str, Any]:
    """Return the content of preprocessor_config.json, {} if there is none. DataError if it is damaged."""
    from transformers.utils import cached_file

    try:
        file = cached_file(name, "preprocessor_config.json", local_files_only=True)
    except (OSError, ValueError):
        return {}
    if not file:
        return {}
    remedy = "save the model's image processor again, or remove the file to take the usual normalisation of the model"
    found: Mapping[str, Any] = read_json(Path(file), PREPROCESSING, remedy=remedy)
    return found


def _side(size: Any) -> int | None:
    """Return the side in pixels that an entry such as {"shortest_edge": 224} says; None if it says none."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if isinstance(size, int | float) else None


def _build(name: str, config: Mapping[str, Any], num_classes: int, pretrained: bool) -> nn.Module:
    """Build the image tower, with the folder's weights if `pretrained`, and a fresh linear layer on its features."""
    from transformers import AutoConfig, AutoModel

    values = dict(config["model"])
    kind = values.pop("model_type")
    plain = AutoConfig.for_model(kind, **values)
    options = {"add_pooling_layer": False} if kind in FIRST_TOKEN and _has_pooler_option(plain) else {}
    meta = torch.get_default_device().type == "meta"
    try:
        if pretrained and not meta:
            network = _with_weights(name, plain, options)
        else:
            network = AutoModel.from_config(plain, **options)
    except (ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{PREFIX}{name} is a '{kind}', which is no model of images here ({reason})") from None
    tower = ImageTower(network.float(), kind, config["size"])
    with torch.device("meta"):
        bare = ImageTower(AutoModel.from_config(plain, **options), kind, config["size"]).eval()
        features = bare(torch.empty(1, 3, config["size"], config["size"])).shape[1]
    return TowerWithHead(tower, features, num_classes)


def _has_pooler_option(config: Any) -> bool:
    """Return whether the class of a configuration can leave its pooler out."""
    from transformers import AutoModel

    kind: Any = AutoModel._model_mapping[type(config)]
    return "add_pooling_layer" in inspect.signature(kind.__init__).parameters


def _with_weights(name: str, config: Any, options: Mapping[str, Any]) -> Any:
    """Return the folder's model. DataError if weights are missing or have other shapes."""
    from transformers import AutoModel

    kind: Any = AutoModel._model_mapping[type(config)]
    try:
        network, loaded = kind.from_pretrained(
            name, config=config, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the weights of {PREFIX}{name} cannot be read ({reason}); put model.safetensors into the folder, or give "
            "a file with --model.weights"
        ) from None
    wrong = sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]]))
    if wrong:
        raise DataError(
            f"{PREFIX}{name} does not hold the weights of its config.json: {len(wrong)} are missing or of another "
            f"shape: {', '.join(wrong[:5])}"
        )
    return network


class ImageTower(nn.Module):
    """An image model of transformers that returns features [B, D].

    kind: the model_type of its configuration.
    size: side of the images that its position embeddings are made for.
    """

    def __init__(self, network: nn.Module, kind: str, size: int):
        super().__init__()
        self.network, self.kind, self.size = network, kind, size
        self.adapts = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters

    def forward(self, image: Tensor) -> Tensor:
        """Return features [B, D] of images [B, 3, H, W]: the pooled output, or the first token of a ViT."""
        other = self.adapts and tuple(image.shape[2:]) != (self.size, self.size)
        output = self.network(pixel_values=image, **({"interpolate_pos_encoding": True} if other else {}))
        tokens: Tensor = output.last_hidden_state
        if self.kind in FIRST_TOKEN:
            return tokens[:, 0]
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = tokens.mean(1) if tokens.ndim == 3 else tokens.mean((2, 3))
        return pooled.flatten(1)
