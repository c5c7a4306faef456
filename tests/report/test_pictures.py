"""Grad-CAM maps of networks, and pictures of their mistakes with the highest confidence."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tests.toy import stored_image
from torch import nn

from debeton.data.beton.reading import open_beton
from debeton.nets.checkpoint import load_checkpoint
from debeton.nets.models import make_model
from debeton.nets.saliency import grad_cam
from debeton.report.pictures import picture_plots, worst_mistakes
from debeton.report.records import load_runs
from debeton.report.runs import group_settings

CPU = torch.device("cpu")


class Averaged(nn.Module):
    """Network of a convolution, a mean over space and a linear layer, whose Grad-CAM is a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.convolution(image).mean((2, 3)))


def test_grad_cam_of_an_averaged_map_is_its_channels_weighted_by_the_head():
    torch.manual_seed(0)
    model, image, label = Averaged(), torch.randn(5, 3, 6, 8), torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        maps = model.convolution(image).double()  # each place of 48 has the gradient weight / 48
        expected = torch.einsum("bkhw,bk->bhw", maps, model.fc.weight.double()[label] / 48).relu()
    expected /= expected.amax((1, 2), keepdim=True)
    heat = grad_cam(model, image, label)
    assert heat is not None
    torch.testing.assert_close(heat.double(), expected, rtol=1e-4, atol=1e-5)
    assert model.training  # as it was
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_map_of_a_network_that_reads_one_half_is_high_there():
    class LeftHalf(Averaged):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            here = torch.zeros_like(image)
            here[..., : image.shape[3] // 2] = image[..., : image.shape[3] // 2]
            return super().forward(here)

    model = LeftHalf()
    with torch.no_grad():
        model.convolution.weight.fill_(1.0)
        model.convolution.bias.zero_()
        model.fc.weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))
    heat = grad_cam(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 0]))
    assert heat is not None
    assert heat[:, :, :4].mean() > 10 * heat[:, :, 5:].mean()


@pytest.mark.parametrize("arch", ["small_resnet", "small_convnet", "resnet18", "efficientnet_lite0"])
def test_every_convolutional_network_has_a_map(arch):
    heat = grad_cam(make_model(arch, 3), torch.randn(2, 3, 64, 64), torch.tensor([0, 2]))
    assert heat is not None
    assert heat.shape == (2, 64, 64)
    assert float(heat.min()) >= 0
    assert float(heat.max()) <= 1


def test_a_network_without_a_map_has_none():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    assert grad_cam(model, torch.randn(1, 3, 4, 4), torch.tensor([1])) is None


def test_mistakes_agree_with_the_results_and_come_by_confidence(trained_toy, toy_betons):
    folder, _ = trained_toy
    found = worst_mistakes(folder, "test", CPU)
    test = json.loads((folder / "results.json").read_text())["test"]
    rates = {group.group: group.correct / group.total for group in found}
    assert rates == {name: pytest.approx(test["group_accuracy"][name]) for name in rates}
    assert set(rates) == {name for name, accuracy in test["group_accuracy"].items() if accuracy < 1}
    assert list(rates.values()) == sorted(rates.values())
    assert found[0].group == test["worst_group"]

    predicted = load_checkpoint(folder / "results.pt")["results"]["results_standard"]["preds"].numpy()
    beton = open_beton(toy_betons / "toy_test.beton")
    for number, group in enumerate(found):
        assert (group.heat is not None) == (number == 0)
        assert list(group.confidence) == sorted(group.confidence, reverse=True)
        label, attribute = (name.strip() for name in group.group.split(","))
        members = [
            row
            for row in range(len(beton))
            if (beton.spec.classes[beton.label[row]], beton.spec.attributes[beton.attribute[row]]) == (label, attribute)
        ]
        wrong = [stored_image(beton.path, row) for row in members if predicted[row] != beton.label[row]]
        for image, truth, prediction in zip(group.pixels, group.labels, group.predicted, strict=True):
            assert truth == label != prediction
            assert any(np.array_equal(image, other) for other in wrong)


def test_a_figure_is_drawn_for_each_setting_whose_betons_are_there(trained_toy, tmp_path, caplog):
    folder, _ = trained_toy
    (plot,) = picture_plots(group_settings(load_runs([folder])), "test", CPU)
    (tmp_path / "plot.png").write_bytes(plot.png)
    assert plot.name == "mistakes_1"
    assert np.ptp(imread(tmp_path / "plot.png")[..., :3]) > 0.9
    assert "the mistakes with the highest confidence among up to 200 test rows of each group" in plot.caption

    gone = tmp_path / "gone" / "version_0"
    shutil.copytree(folder, gone)
    text = (gone / "config.yaml").read_text()
    (gone / "config.yaml").write_text(text.replace("data_root: /", "data_root: /nowhere/"))
    with caplog.at_level(logging.WARNING):
        assert picture_plots(group_settings(load_runs([gone])), "test", CPU) == []
    assert "no pictures of gone/version_0: " in caplog.text


def test_a_run_without_a_classifier_has_no_pictures_and_no_warning(trained_toy, tmp_path, caplog):
    """An example is a diffusion model among the runs of a study."""
    model = tmp_path / "model" / "version_0"
    shutil.copytree(trained_toy[0], model)
    results = json.loads((model / "results.json").read_text())
    (model / "results.json").write_text(json.dumps(results | {"val": None, "test": None}))
    with caplog.at_level(logging.WARNING):
        assert picture_plots(group_settings(load_runs([model])), "test", CPU) == []
    assert not caplog.text
