"""Models by name: heads of the right width, real weights, errors that name the nearest model."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from debeton.errors import UsageError
from debeton.models import architecture, freeze_batch_norm, make_model, model_names, named_head, replace_head

FAMILIES = ["resnet18", "alexnet", "vgg11", "squeezenet1_1", "densenet121", "mobilenet_v2", "mobilenet_v3_small",
            "efficientnet_b0", "shufflenet_v2_x0_5", "mnasnet0_5", "convnext_tiny", "vit_b_16",
            "swin_t", "maxvit_t", "googlenet", "small_resnet", "small_convnet",
            "efficientnet_lite0"]  # fmt: skip


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_gets_a_head_of_the_asked_width_and_takes_a_new_one(arch):
    with torch.device("meta"):  # shapes without memory
        model = make_model(arch, 7).eval()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)
        replace_head(model, 5)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 5)
    assert isinstance(named_head(model)[1], nn.Linear | nn.Conv2d)


def test_a_network_with_side_classifiers_trains_like_any_other():
    model = make_model("googlenet", 3).train()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(("name", "size"), [("small_resnet", 0.3e6), ("small_convnet", 0.4e6)])
def test_small_networks_take_dominoes_and_have_the_stated_size(name, size):
    model = make_model(name, 10)
    assert model(torch.zeros(2, 3, 64, 32)).shape == (2, 10)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(size, rel=0.1)


def test_an_unknown_model_is_an_error_that_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        make_model("resnet5O", 2)
    assert {"resnet18", "small_resnet"} <= set(model_names())
    for name in ("small_resnet", "small_convnet"):
        with pytest.raises(UsageError, match=f"{name} has no published weights"):
            make_model(name, 2, pretrained=True)


def test_frozen_batch_norm_keeps_its_statistics():
    model = make_model("small_resnet", 2).train()
    freeze_batch_norm(model)
    before = model.stem[1].running_mean.clone()
    model(torch.randn(4, 3, 16, 16))
    assert torch.equal(model.stem[1].running_mean, before)


def test_packaged_efficientnet_lite0_has_its_published_size_and_keeps_its_features_under_a_new_head():
    full, small = (make_model("efficientnet_lite0", c, pretrained=True).eval() for c in (1000, 3))
    assert sum(p.numel() for p in full.parameters()) == 4_652_008
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(full._blocks(full._conv_stem(image)), small._blocks(small._conv_stem(image)))
        assert small(image).shape == (1, 3)


def test_packaged_efficientnet_lite0_recognises_real_photos():
    archive = Path(os.environ.get("DEBETON_DATA", Path(__file__).parents[2] / "shared/data")) / "in1k_256.zip"
    if not archive.exists():
        pytest.skip(f"needs 1,000 ImageNet photos, one a class, in {archive.name}; set DEBETON_DATA to their folder")
    arch, images = architecture("efficientnet_lite0"), []
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if n.upper().endswith(".JPEG"))[::10]
        for name in names:
            image = cv2.cvtColor(
                cv2.imdecode(np.frombuffer(file.read(name), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
            )
            side = int(0.875 * min(image.shape[:2]))
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            images.append(
                cv2.resize(image[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
            )
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(arch.mean).view(3, 1, 1)) / torch.tensor(arch.std).view(3, 1, 1)
    with torch.inference_mode():
        predicted = make_model("efficientnet_lite0", 1000, pretrained=True).eval()(pixels).argmax(1)
    assert (predicted == torch.arange(0, 1000, 10)).float().mean() > 0.7
