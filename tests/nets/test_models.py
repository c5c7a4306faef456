"""models.py: heads of the right width, real weights, and errors that name the nearest model."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from debeton.nets.efficientnet_lite0 import packaged_weights, timm_name
from debeton.nets.models import (
    architecture,
    freeze_batch_norm,
    make_model,
    model_names,
    named_head,
    register_network,
    replace_head,
)
from debeton.nets.networks import MirrorAveraged, add_blurpool
from debeton.system.errors import UsageError

FAMILIES = [
    "resnet18",
    "alexnet",
    "vgg11",
    "squeezenet1_1",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "maxvit_t",
    "googlenet",
    "small_resnet",
    "small_convnet",
    "efficientnet_lite0",
]


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


def test_the_network_without_convolutions_has_the_layers_of_lff_and_takes_its_size():
    model = make_model("mlp28", 10)
    shapes = [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(100, 2352), (100, 100), (100, 100), (10, 100)]
    assert model(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    known = architecture("mlp28")
    assert (known.size, known.sizes) == (28, "images of 28 x 28 pixels")


def test_an_unknown_model_is_an_error_that_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        make_model("resnet5O", 2)
    assert {"resnet18", "small_resnet"} <= set(model_names())
    for name in ("small_resnet", "small_convnet"):
        with pytest.raises(UsageError, match=f"{name} has no published weights"):
            make_model(name, 2, pretrained=True)


@pytest.mark.usefixtures("plugins_end_here")
def test_a_registered_network_says_which_layer_is_its_head_and_what_it_takes():
    class TwoBranches(nn.Module):
        def __init__(self, num_classes: int):
            super().__init__()
            self.classify, self.rotate = nn.Linear(12, num_classes), nn.Linear(12, 4)

        def forward(self, image):
            return self.classify(image.mean((2, 3)).repeat(1, 4))

    register_network("branches", "two branches", head="classify", size=32, multiple=8)(TwoBranches)
    register_network("headless", "no such layer", head="fc")(TwoBranches)
    model = make_model("branches", 3)
    assert named_head(model) == ("classify", model.classify)
    replace_head(model, 5)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    known = architecture("branches")
    assert (known.size, known.multiple, known.sizes) == (32, 8, "sides that are multiples of 8 pixels")
    with pytest.raises(UsageError, match="registered with the head 'fc', but TwoBranches has no layer 'fc'"):
        make_model("headless", 2)
    with pytest.raises(UsageError, match="begins with the word for a library"):
        register_network("timm:mine", "taken")


def test_checkpoints_under_the_older_names_of_efficientnet_lite0_load():
    model, weights = make_model("efficientnet_lite0", 3), packaged_weights()
    older = {name: value for name, value in weights.items() if not name.startswith("_fc.")}
    older |= {"_fc.weight": torch.zeros(3, 1280), "_fc.bias": torch.ones(3)}
    model.load_state_dict(older)
    state = model.state_dict()
    assert set(state) == {timm_name(name) for name in older}
    assert all(torch.equal(state[timm_name(name)], value) for name, value in older.items())


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
        assert torch.equal(full.forward_features(image), small.forward_features(image))
        assert small(image).shape == (1, 3)


@pytest.mark.slow
def test_packaged_efficientnet_lite0_recognises_real_photos():
    archive = Path(os.environ.get("DEBETON_DATA", Path(__file__).parents[3] / "shared/data")) / "in1k_256.zip"
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


# --- blurpool and mirror images ----------------------------------------------------------------


def test_blurpool_blurs_what_strided_convolutions_of_16_channels_are_given():
    torch.manual_seed(0)
    model = make_model("resnet18", 3).eval()
    names = list(model.state_dict())
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs, name=name: seen.setdefault(name, inputs[0]))
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model(image)
        plain, given = dict(seen), {}
        seen.clear()
        add_blurpool(model)
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(lambda module, inputs, name=name: given.setdefault(name, inputs[0]))
        model(image)
    assert list(model.state_dict()) == names
    blurred = {name for name in given if not torch.equal(given[name], seen[name])}
    assert blurred == {f"layer{k}.0.{part}" for k in (2, 3, 4) for part in ("conv1", "downsample.0")}
    assert torch.equal(seen["conv1"], plain["conv1"])  # the stem has stride 2 and three channels
    first = seen["layer2.0.conv1"].numpy().astype(np.float64)
    line = np.array([1.0, 2.0, 1.0]) / 4
    expected = ndimage.convolve(first, np.outer(line, line)[None, None], mode="constant")
    np.testing.assert_allclose(given["layer2.0.conv1"].numpy(), expected, atol=1e-5)


def test_mirror_averaging_is_the_mean_of_both_and_keeps_the_mode():
    torch.manual_seed(0)
    model = make_model("small_convnet", 4).eval()
    both, image = MirrorAveraged(model), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(both(image), (model(image) + model(torch.flip(image, [3]))) / 2)
        torch.testing.assert_close(both(image), both(image.flip(-1)))
    assert not model.training
    both.train(True)
    assert model.training
