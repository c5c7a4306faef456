"""On a GPU the loader gives the batches that it gives on the CPU."""

from __future__ import annotations

import pytest
import torch

from debeton.data.beton import open_beton
from debeton.data.loader import LoaderOptions, make_loader
from debeton.data.view import View

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
