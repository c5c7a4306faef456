"""Depth of parameters in blocks, against timm's own groups, and closed forms of networks without repeated modules."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.models import get_model

from debeton.nets.depth import parameter_depths
from debeton.nets.networks import SmallConvNet, SmallResNet


def depths_by_name(network: nn.Module) -> dict[str, int]:
    depths = parameter_depths(network)
    return {name: depths[parameter] for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_depths_are_those_of_timms_layer_decay(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=2)
    groups = param_groups_layer_decay(network, weight_decay=0.0, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    depths = parameter_depths(network)
    top = max(depths.values())
    assert {n: 0.5 ** (top - depths[p]) for n, p in network.named_parameters()} == {
        n: scale[id(p)] for n, p in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("name", "head", "at_depth"),
    [
        ("resnet18", 9, {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.conv1.weight": 1, "layer4.1.bn2.bias": 8}),
        (
            "vit_b_16",
            13,
            {"class_token": 0, "encoder.pos_embedding": 0, "conv_proj.weight": 0, "encoder.ln.weight": 12}
            | {f"encoder.layers.encoder_layer_{k}.ln_1.weight": k + 1 for k in range(12)},
        ),
        # Blocks by stage: 2, 2, 6, 2; features.2 merges patches before the first block of the second stage.
        ("swin_t", 13, {"features.0.0.weight": 0, "features.1.1.norm1.weight": 2, "features.2.reduction.weight": 3}),
        ("convnext_tiny", 19, {"features.0.0.weight": 0, "features.1.0.block.0.weight": 1, "features.2.1.weight": 4}),
        ("vgg11_bn", 10, {"features.0.weight": 0, "features.1.weight": 0, "features.4.weight": 1}),
    ],
)
def test_a_block_is_one_deeper_than_the_block_before_it(name, head, at_depth):
    with torch.device("meta"):
        network = get_model(name, weights=None, num_classes=2)
    depths = depths_by_name(network)
    assert {key: depths[key] for key in at_depth} == at_depth
    at_top = [key for key, depth in depths.items() if depth == head]
    assert max(depths.values()) == head
    assert [key.rpartition(".")[2] for key in at_top] == ["weight", "bias"]
    assert set(depths.values()) == set(range(head + 1))


def test_the_projects_own_networks_and_a_wrapped_one_have_depths():
    assert max(depths_by_name(SmallResNet(2)).values()) == 4
    plain = depths_by_name(SmallConvNet(2))
    assert [plain[f"features.{k}.weight"] for k in (0, 4, 8, 12, 16)] == [0, 1, 2, 3, 4]
    assert depths_by_name(nn.Sequential(SmallConvNet(2))) == {f"0.{key}": depth for key, depth in plain.items()}
    assert set(parameter_depths(nn.Linear(3, 2)).values()) == {0}
