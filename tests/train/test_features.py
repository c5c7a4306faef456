"""Features: equal to the input of the head in a forward pass, and cached for exactly what they depend on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.flips import check_flips
from torch import nn

from debeton.data.beton.reading import open_beton
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.nets.models import make_model
from debeton.train.features import cached_features, extract_features, feature_key, feature_size
from debeton.train.objective import Precision

FP32 = Precision("fp32", torch.device("cpu"))
OPTIONS = LoaderOptions(resolution=16)


def loader_of(view: View, batch_size: int = 50, **options) -> Loader:
    view = replace(view, order="sequential")
    return make_loader(view, batch_size, tail="keep", options=replace(OPTIONS, **options))


@pytest.fixture(scope="module")
def view(toy_betons) -> View:
    return View.whole(open_beton(toy_betons / "toy_val.beton"))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    return make_model("small_resnet", 2).to(memory_format=torch.channels_last)


@pytest.fixture
def passes(model: nn.Module) -> list[int]:
    """Rows of every forward pass that the model has taken."""
    taken: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: taken.append(len(output)))
    return taken


def images(view: View) -> torch.Tensor:
    with loader_of(view).epoch(0) as batches:
        return torch.cat([batch.image for batch in batches])


def test_features_are_the_pooled_maps_of_the_view_in_its_own_order(view, model):
    some = view.subset(np.array([90, 3, 17, 3, 127]))  # neither sorted nor without repeats
    model.train()
    found = extract_features(model, loader_of(some, 2), FP32)
    assert model.training  # left as it was
    model.eval()
    with torch.inference_mode():
        expected = model.stages(model.stem(images(some))).mean((2, 3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], found[3])
    assert not model.fc._forward_pre_hooks


def test_the_head_gives_the_models_logits_for_the_features(view, model):
    features = extract_features(model, loader_of(view), FP32)
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(model.fc(features), model(images(view)), rtol=1e-5, atol=1e-6)


def test_inputs_of_a_convolutional_head_are_averaged_over_space(view):
    torch.manual_seed(0)
    model = make_model("squeezenet1_1", 2).eval()
    found = extract_features(model, loader_of(view, decoder="resized", resolution=32), FP32)
    with torch.inference_mode(), loader_of(view, decoder="resized", resolution=32).epoch(0) as batches:
        expected = model.features(next(batches).image).mean((2, 3))
    assert feature_size(model) == found.shape[1] == 512
    torch.testing.assert_close(found[:50], expected, rtol=1e-5, atol=1e-6)


def test_features_in_bf16_are_kept_in_float32(view, model):
    half = extract_features(model, loader_of(view), Precision("bf16", torch.device("cpu")))
    full = extract_features(model, loader_of(view), FP32)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.05 * full.abs().max()


def test_a_probe_can_be_trained_on_features(view, model):
    features, probe = extract_features(model, loader_of(view), FP32), nn.Linear(128, 2)
    probe(features).sum().backward()
    torch.testing.assert_close(probe.weight.grad, features.sum(0).expand(2, -1))


def test_an_order_that_repeats_rows_is_refused(view, model):
    loader = make_loader(view.resampled_by_group(), 50, options=OPTIONS)
    with pytest.raises(ValueError, match="every row once"):
        extract_features(model, loader, FP32)


def test_the_second_run_takes_no_forward_pass(view, model, passes, tmp_path):
    first = cached_features(model, loader_of(view), FP32, tmp_path / "features")
    assert sum(passes) == 128
    torch.manual_seed(99)
    other = make_model("small_resnet", 2)
    other.load_state_dict(model.state_dict())
    other.fc = nn.Linear(128, 5)  # another head on the same network
    other.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    assert torch.equal(cached_features(other, loader_of(view, 64), FP32, tmp_path / "features"), first)
    assert sum(passes) == 128
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_whatever_changes_a_feature_changes_the_key(view, model, toy_betons, tmp_path):
    keys = [feature_key(model, loader_of(view), FP32)]
    assert feature_key(model, loader_of(view, 64, num_workers=1), FP32) == keys[0]
    other_mean = replace(view, spec=replace(view.spec, mean=(0.4, 0.5, 0.5)))
    train = View.whole(open_beton(toy_betons / "toy_train.beton"))
    for changed in (view.subset(np.arange(127)), view.subset(np.arange(128)[::-1]), other_mean, train):
        keys.append(feature_key(model, loader_of(changed), FP32))
    for options in ({"decoder": "center_crop_0.5"}, {"decoder": "resized", "resolution": 8}, {"channels_last": False}):
        keys.append(feature_key(model, loader_of(view, **options), FP32))
    keys.append(feature_key(model, loader_of(view), Precision("bf16", torch.device("cpu"))))
    with torch.no_grad():
        model.stem[0].weight[0, 0, 0, 0] += 1e-6
    keys.append(feature_key(model, loader_of(view), FP32))
    model.stem[1].running_mean += 1e-6
    keys.append(feature_key(model, loader_of(view), FP32))
    model.stem[2] = nn.GELU()
    keys.append(feature_key(model, loader_of(view), FP32))
    assert len(set(keys)) == len(keys)


def test_a_beton_written_anew_with_other_pixels_is_noticed(view, model, toy_betons, tmp_path):
    for file in toy_betons.glob("toy_val.beton*"):
        shutil.copy(file, tmp_path / file.name)
    path = tmp_path / "toy_val.beton"
    copy = View.whole(open_beton(path))
    assert feature_key(model, loader_of(copy), FP32) == feature_key(model, loader_of(view), FP32)
    content = bytearray(path.read_bytes())
    content[int(copy.beton.offsets[5]) + 7] ^= 1
    path.write_bytes(content)  # same size, same tables: its checksum cannot tell
    assert feature_key(model, loader_of(View.whole(open_beton(path))), FP32) != feature_key(
        model, loader_of(view), FP32
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "another"])
def test_a_damaged_cache_file_is_computed_again(view, model, passes, tmp_path, damage, caplog):
    first = cached_features(model, loader_of(view), FP32, tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 64
    if damage == "another":
        torch.save({"features": torch.zeros(3, 4)}, file)
    else:
        file.write_bytes(content)
    assert torch.equal(cached_features(model, loader_of(view), FP32, tmp_path), first)
    assert sum(passes) == 256
    assert torch.equal(cached_features(model, loader_of(view), FP32, tmp_path), first)
    assert sum(passes) == 256
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_flipped_bit_anywhere_in_a_cache_file_never_changes_the_features(view, model, tmp_path):
    some = loader_of(view.subset(np.arange(4)))
    first = cached_features(model, some, FP32, tmp_path)
    (file,) = tmp_path.iterdir()
    step = 8 * file.stat().st_size // 60 // 2 * 2 + 1
    noticed, harmless = check_flips(
        file, step, lambda: cached_features(model, some, FP32, tmp_path), lambda found: torch.equal(found, first)
    )
    assert (noticed, harmless > 50) == (0, True)


def test_a_file_name_says_which_beton_it_is_of(view, model, tmp_path: Path):
    cached_features(model, loader_of(view), FP32, tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("toy_val_")
