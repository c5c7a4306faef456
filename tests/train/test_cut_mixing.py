"""CutMix in training: boxes, pairs and the loss in closed form; and seeds of order and augmentation of their own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed
from torch import nn

from debeton.config import load, phase_settings
from debeton.data.beton.reading import open_beton
from debeton.data.loader.augmentations.cut_mix import CutMix
from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.train.cut_mixing import CutMixed, with_cutmix
from debeton.train.objective import CrossEntropy


def batch_of(n: int = 10, size: tuple[int, int] = (12, 16)) -> Batch:
    image = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, *size).clone()
    zeros = torch.zeros(n, dtype=torch.int64)
    return Batch(image, torch.arange(n), torch.arange(n) % 3, zeros, zeros, zeros)


def test_each_image_has_one_box_of_its_partner_and_lam_is_the_share_that_stays():
    objective, batch = CutMixed(CutMix(1.0), seed=3), batch_of()
    shares = set()
    for step in range(20):
        objective.step = step
        mixed, other, lam = objective.mix(batch.image)
        assert sorted(other.tolist()) == list(range(10))
        own, foreign = batch.image == mixed, batch.image[other] == mixed
        assert (own | foreign).all()
        moved = other != torch.arange(10)
        assert own[moved].float().mean().item() == pytest.approx(lam, abs=1e-6)
        assert torch.equal(batch.image[:, 0, 0, 0], torch.arange(10.0))  # the batch itself stays
        shares.add(round(lam, 6))
    assert len(shares) > 10


def test_the_loss_is_the_mean_of_both_labels_by_area():
    objective, batch = CutMixed(CutMix(0.7), seed=1, label_smoothing=0.1), batch_of()
    weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))

    class Linear(nn.Module):
        def forward(self, image):
            return image.mean((2, 3)) @ weights

    mixed, other, lam = objective.mix(batch.image)
    logits = (mixed.mean((2, 3)) @ weights).double()
    targets = lam * nn.functional.one_hot(batch.label, 3) + (1 - lam) * nn.functional.one_hot(batch.label[other], 3)
    smooth = 0.9 * targets.double() + 0.1 / 3
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(objective(Linear(), batch).loss.double(), expected, atol=1e-6, rtol=1e-5)
    assert objective.step == 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_boxes_have_the_drawn_share_of_each_side_unless_an_edge_cuts_them(alpha: float):
    whole = 0
    for k in range(300):
        top, left, bottom, right = CutMix(alpha).draw(np.random.default_rng(k), (400, 200))
        share = np.sqrt(1 - np.random.default_rng(k).beta(alpha, alpha))
        assert bottom - top <= 400 * share
        assert right - left <= 200 * share
        if top > 0 and bottom < 400 and left > 0 and right < 200:
            whole += 1
            assert bottom - top == int(400 * share) // 2 * 2
            assert right - left == int(200 * share) // 2 * 2
    assert whole > 10


def test_only_the_plain_cross_entropy_is_mixed(toy_args, capsys):
    plain = CrossEntropy()
    assert with_cutmix(plain, "flip", 0) is plain
    assert isinstance(with_cutmix(plain, "flip,cutmix:1", 0), CutMixed)
    args = [*toy_args, "--training.augment", "flip,cutmix:1", "--training.method", "groupdro"]
    assert run(args) == 2
    assert "training.augment has cutmix, which mixes the labels" in capsys.readouterr().err


def test_a_run_with_every_augmentation_resumes_to_the_same_numbers(toy_args, tmp_path, monkeypatch):
    text = "random_crop:2,flip,colour_jitter:0.4:0.4:0.4:0.1,grayscale:0.2,blur:0.5,rand_augment:2:9,cutmix:1.0"
    text += ",random_erasing:0.5"
    args = [*toy_args, "--training.augment", text]
    assert run(args) == 0
    stopped_and_resumed([*args, "--training.outdir", tmp_path / "again"], monkeypatch, 11)
    whole, again = (lines_of(folder_of(tmp_path / name)) for name in ("runs", "again"))
    assert [line["metrics"] for line in whole] == [line["metrics"] for line in again]


@pytest.fixture
def view(toy_betons) -> View:
    return View.whole(open_beton(toy_betons / "toy_val.beton"))


def first_batch(view: View, seed: int, augment_seed: int | None) -> Batch:
    options = LoaderOptions(ops="pad_crop:2", augment_seed=augment_seed)
    return next(iter(make_loader(view, 64, seed=seed, options=options)))


def test_order_and_augmentation_have_seeds_of_their_own(view: View):
    base, same, order, pixels = (first_batch(view, *seeds) for seeds in ((0, None), (0, 0), (1, 0), (0, 1)))
    assert torch.equal(base.row, same.row)
    assert torch.equal(base.image, same.image)
    assert not torch.equal(base.row, order.row)
    assert torch.equal(base.row, pixels.row)
    assert not torch.equal(base.image, pixels.image)


def test_null_seeds_are_the_runs_and_further_loaders_get_others():
    settings = phase_settings(load([], ["--training.seed", "7"]))
    assert (settings.seed_of_order, settings.seed_of_augmentation) == (7, 7)
    own = replace(settings, order_seed=0)
    assert (own.seed_of_order, own.seed_of_augmentation) == (0, 7)
    second = own.reseeded("second")
    assert len({second.seed_of_order, second.seed_of_augmentation, 0, 7}) == 4
    assert settings.reseeded("second").seed_of_order == settings.reseeded("second").seed


def test_with_seeds_of_their_own_the_run_seed_decides_weights_alone(toy_args, tmp_path):
    fixed = ["--training.order_seed", "5", "--training.augment_seed", "6", "--training.epochs", "1"]
    losses = []
    for name, extra in (("a", []), ("b", ["--training.seed", "1"]), ("c", ["--training.order_seed", "4"])):
        assert run([*toy_args, *fixed, *extra, "--training.outdir", tmp_path / name]) == 0
        folder = folder_of(tmp_path / name)
        losses.append(lines_of(folder)[0]["metrics"]["loss"])
        assert json.loads((folder / "results.json").read_text())["seed"] == (1 if name == "b" else 0)
    assert len(set(losses)) == 3
