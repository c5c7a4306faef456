"""The loader on a GPU: the same batches as on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from debeton.data.beton.reading import open_beton
from debeton.data.loader.decoders import scale_and_shift
from debeton.data.loader.gather import gather
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.loader.pixels import Moves
from debeton.data.views.view import View

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_gpu_gets_the_pixels_and_labels_of_the_cpu(toy_betons, channels_last, normalise):
    view = View.whole(open_beton(toy_betons / "toy_train.beton"))
    batches = []
    for device in ("cpu", "cuda"):
        options = LoaderOptions(
            ops="flip,pad_crop:2", device=torch.device(device), channels_last=channels_last, normalise=normalise
        )
        batches.append(list(make_loader(view, 100, options=options)))
    for ours, theirs in zip(*batches):
        assert theirs.image.is_cuda
        assert theirs.image.stride() == ours.image.stride()
        torch.testing.assert_close(theirs.image.cpu(), ours.image, atol=1e-5, rtol=1e-5)
        assert theirs.row.tolist() == ours.row.tolist()
        assert theirs.group.tolist() == ours.group.tolist()


def test_bf16_batches_are_normalised_in_float32_first(toy_betons):
    view = View.whole(open_beton(toy_betons / "toy_val.beton"))
    options = LoaderOptions(device=torch.device("cuda"), dtype=torch.bfloat16)
    batch = next(make_loader(view, 64, options=options).epoch(0))
    reference = next(make_loader(view, 64).epoch(0))
    assert batch.image.dtype == torch.bfloat16
    # Half a unit in the last place of bf16, and the last bit of float32 in which fused multiply-adds differ; bf16
    # arithmetic is off by more near 0, where the shift cancels the product.
    torch.testing.assert_close(batch.image.cpu().float(), reference.image, rtol=2.0**-8 * 1.0001, atol=1e-6)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ops", ["flip,pad_crop:2,cutout:4", "none"])
def test_images_that_stay_on_the_device_are_those_of_the_file_in_every_epoch(toy_betons, channels_last, dtype, ops):
    view = View.whole(open_beton(toy_betons / "toy_train.beton"))
    options = LoaderOptions(ops=ops, device=torch.device("cuda"), channels_last=channels_last, dtype=dtype)
    loaders = [make_loader(view, 100, options=replace(options, residency=where)) for where in ("device", "disk")]
    for _ in range(2):
        for ours, theirs in zip(*loaders, strict=True):
            assert ours.image.stride() == theirs.image.stride()
            torch.testing.assert_close(ours.image, theirs.image, atol=1e-5, rtol=2.0**-7)
            assert torch.equal(ours.row, theirs.row)
    ((_, _, device),) = view.beton.decoded
    assert device.type == "cuda"


def test_augmentations_that_do_not_fuse_keep_the_images_in_memory_instead(toy_betons):
    view = View.whole(open_beton(toy_betons / "toy_train.beton"))
    options = LoaderOptions(ops="cutout:4,flip", device=torch.device("cuda"))
    loaders = [make_loader(view, 100, options=replace(options, residency=where)) for where in ("device", "disk")]
    for ours, theirs in zip(*loaders, strict=True):
        assert torch.equal(ours.image, theirs.image)
    ((_, _, device),) = view.beton.decoded
    assert device is None


@pytest.mark.parametrize("patched", [True, False])
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_kernel_gathers_as_torch_does(channels_last, moved, patched):
    rng = np.random.default_rng(0)
    images, row = torch.from_numpy(rng.integers(0, 256, (50, 33, 41, 3), dtype=np.uint8)), rng.integers(50, size=16)
    moves = Moves(
        rng.integers(-1, 33, (16, 33), dtype=np.int32) if moved else None,
        rng.integers(-1, 41, (16, 41), dtype=np.int32) if moved else None,
        np.sort(rng.integers(0, 34, (16, 2, 2)), axis=1).reshape(16, 4) if patched else None,
        127,
    )
    scales = torch.from_numpy(scale_and_shift((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    here, there = (
        gather(images.to(d), row, moves, scales.to(d), channels_last=channels_last, dtype=torch.float32)[0]
        for d in ("cpu", "cuda")
    )
    assert there.stride() == here.stride()
    torch.testing.assert_close(there.cpu(), here, atol=1e-6, rtol=1e-6)
