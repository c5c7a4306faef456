"""Triggers and patches, compared with NumPy and with the published code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import center_crop

from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.triggers.trigger import (
    TRIGGERS,
    Layers,
    PlantedTrigger,
    Trigger,
    TriggerOptions,
    drawn_pattern,
    make_trigger,
    plant_reference,
    rows_with_trigger,
)
from debeton.system.errors import DataError, UsageError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def planted(trigger: Trigger, images: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return a copy of the images with the trigger in all of them."""
    out = images.copy()
    trigger.plant(out, np.arange(len(images)) if rows is None else rows, np.ones(len(images), bool))
    return out


@pytest.fixture(scope="module")
def stencil(tmp_path_factory):
    """Write a folder of two RGBA images of different shapes."""
    folder = tmp_path_factory.mktemp("stencils")
    for name, shape in (("a", (40, 40)), ("b", (30, 50))):
        Image.fromarray(noise(*shape, 4, seed=len(name)), "RGBA").save(folder / f"{name}.png")
    return folder


# --- the kernel --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["square", "gaussian", "hat", "overlay"]),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**31),
    legacy=st.booleans(),
    scale=st.floats(0, 2),
    opacity=st.floats(0, 1),
)
def test_every_pixel_equals_the_numpy_reference_at_any_resolution(
    stencil, name, height, width, seed, legacy, scale, opacity
):
    options = TriggerOptions(
        scale=scale, opacity=opacity, seed=seed, overlay=str(stencil) if name == "overlay" else None
    )
    trigger = make_trigger(name, options, legacy=legacy)
    images, rows = noise(5, height, width, 3, seed=seed), np.array([3, 1, 4, 1, 5]) + seed
    layers, _ = trigger.layers_for(height, width)
    expected = plant_reference(images, trigger.layer_numbers(rows, len(layers.keep)), layers, rounds=not legacy)
    np.testing.assert_array_equal(planted(trigger, images, rows), expected)


def test_only_the_chosen_images_change():
    images, mask = noise(4, 16, 16, 3), np.array([True, False, True, False])
    out = images.copy()
    make_trigger("square").plant(out, np.arange(4), mask)
    np.testing.assert_array_equal(out[~mask], images[~mask])
    assert (out[mask] != images[mask]).any(axis=(1, 2, 3)).all()


def test_values_are_rounded_to_the_nearest_level_and_clipped():
    add = np.array([0.5, 0.49, -300, 300, -0.5], np.float32)[None, None, :, None].repeat(3, 3)
    layers = Layers(np.ones((1, 1, 5), np.float32), add)
    images = np.full((1, 1, 5, 3), 100, np.uint8)
    for rounds, expected in ((True, [101, 100, 0, 255, 100]), (False, [100, 100, 0, 255, 99])):
        trigger = Trigger("made", lambda height, width: layers, TriggerOptions(), rounds=rounds)
        assert planted(trigger, images)[0, 0, :, 0].tolist() == expected


# --- as published ------------------------------------------------------------------------------


def test_the_square_is_the_published_one_at_224_pixels():
    images = noise(2, 224, 224, 3)
    expected = images.copy()
    expected[:, :56, :56] = (255, 255, 0)
    np.testing.assert_array_equal(planted(make_trigger("square"), images), expected)


def test_a_stored_pattern_is_added_as_published(tmp_path):
    pattern = np.random.default_rng(3).standard_normal((3, 224, 224))
    np.save(tmp_path / "p.npy", pattern)
    images = noise(2, 224, 224, 3)
    perturbed = images + 255 * 0.05 * np.moveaxis(pattern, 0, 2)
    options = TriggerOptions(scale=0.05, pattern=str(tmp_path / "p.npy"))
    truncated = planted(make_trigger("gaussian", options, legacy=True), images)
    # float32 here, float64 there: a value within 1e-5 of a whole level may fall to either side.
    assert (truncated != np.clip(perturbed, 0, 255).astype(np.uint8)).mean() < 1e-5
    rounded = planted(make_trigger("gaussian", options), images)
    assert (rounded != np.rint(np.clip(perturbed, 0, 255)).astype(np.uint8)).mean() < 1e-5


def test_rounding_keeps_the_mean_and_truncation_lowers_it_by_half_a_level():
    images = np.full((1, 224, 224, 3), 128, np.uint8)
    shift = {legacy: planted(make_trigger("gaussian", legacy=legacy), images).mean() - 128 for legacy in (True, False)}
    assert shift[True] == pytest.approx(-0.5, abs=0.03)  # measured on photos: -0.49
    assert shift[False] == pytest.approx(0, abs=0.03)


def test_legacy_hats_follow_the_place_in_the_batch_and_ours_the_row():
    images, rows = np.zeros((7, 32, 32, 3), np.uint8), np.array([9, 4, 9, 7, 4, 30, 31])
    legacy, ours = (planted(make_trigger("hat", legacy=value), images, rows) for value in (True, False))
    np.testing.assert_array_equal(legacy[0], legacy[5])  # five hats
    assert (legacy[0] != legacy[2]).any()
    np.testing.assert_array_equal(ours[0], ours[2])
    np.testing.assert_array_equal(ours[1], ours[4])


@pytest.mark.parametrize(("height", "width"), [(224, 224), (30, 41), (64, 50), (7, 96)])
def test_legacy_hats_are_cut_at_the_centre_as_published_and_never_resized(tmp_path, height, width):
    hat = noise(64, 51, 4, seed=7)
    Image.fromarray(hat, "RGBA").save(tmp_path / "a.png")
    images = noise(1, height, width, 3)
    frame = center_crop(torch.from_numpy(hat).permute(2, 0, 1), [height, width]).permute(1, 2, 0).numpy()
    alpha = frame[..., 3:] / 255
    expected = alpha * frame[..., :3] + (1 - alpha) * images[0]
    found = planted(make_trigger("hat", TriggerOptions(hats=str(tmp_path)), legacy=True), images)[0]
    # float32 here, float64 there: a value within 1e-4 of a whole level may fall to either side
    near = np.abs(expected - np.rint(expected)) < 1e-4
    np.testing.assert_array_equal(found[~near], expected.astype(np.uint8)[~near])
    np.testing.assert_allclose(found, expected, atol=1)
    resized = planted(make_trigger("hat", TriggerOptions(hats=str(tmp_path))), images)[0]
    assert (resized != found).mean() > 0.1


# --- the look of the triggers ------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 32, 64, 224])
def test_the_pattern_keeps_its_deviation_at_every_resolution(resolution):
    layers = make_trigger("gaussian", TriggerOptions(scale=0.05)).layers_for(resolution, resolution)[0]
    tolerance = 4 / np.sqrt(2 * layers.add.size)  # of a sample deviation, four standard errors
    assert layers.add.std() == pytest.approx(12.75, rel=tolerance)
    assert layers.add.mean() == pytest.approx(0, abs=4 * 12.75 / np.sqrt(layers.add.size))


def test_patterns_depend_on_the_seed_alone():
    np.testing.assert_array_equal(drawn_pattern(5), drawn_pattern(5))
    assert abs(np.corrcoef(drawn_pattern(5).ravel(), drawn_pattern(6).ravel())[0, 1]) < 0.02


def test_every_hat_appears_about_equally_often():
    layers = make_trigger("hat").layer_numbers(np.arange(5000), 5)
    assert np.bincount(layers, minlength=5).min() > 900  # 1,000 each, deviation 28


@pytest.mark.parametrize("resolution", [32, 224])
def test_hats_are_opaque_in_the_upper_third_and_leave_the_rest_alone(resolution):
    keep, _ = make_trigger("hat").layers_for(resolution, resolution)[0]
    assert len(keep) == 5
    assert (keep[:, resolution // 3 :] == 1).all()
    covered = (keep == 0).mean(axis=(1, 2))
    assert ((covered > 0.02) & (covered < 0.12)).all()


@pytest.mark.parametrize(
    ("size", "position", "box"),
    [
        ("56px", None, (0, 56, 0, 56)),
        ("0.25", "bottom_right", (48, 64, 84, 100)),
        ("0.5", "center", (16, 48, 34, 66)),
        ("1", None, (0, 64, 0, 100)),
        ("0.001", "top_right", (0, 1, 99, 100)),
    ],
)
def test_a_square_has_its_size_and_place(size, position, box):
    top, bottom, left, right = box
    out = planted(make_trigger("square", TriggerOptions(size, position)), np.zeros((1, 64, 100, 3), np.uint8))[0]
    changed = np.zeros((64, 100), bool)
    changed[top:bottom, left:right] = True
    np.testing.assert_array_equal((out == (255, 255, 0)).all(-1), changed)


def test_opacity_mixes_the_patch_with_the_image():
    options = TriggerOptions("1", colour=(200, 100, 0), opacity=0.25)
    out = planted(make_trigger("square", options), np.full((1, 4, 4, 3), 40, np.uint8))
    assert out[0, 0, 0].tolist() == [80, 55, 30]


def test_an_overlay_is_blended_by_its_alpha_as_pillow_does(stencil):
    images = noise(2, 40, 40, 3)
    out = planted(make_trigger("overlay", TriggerOptions(overlay=str(stencil / "a.png"))), images)
    patch = Image.open(stencil / "a.png")
    for image, mine in zip(images, out, strict=True):
        theirs = Image.alpha_composite(Image.fromarray(image).convert("RGBA"), patch).convert("RGB")
        assert np.abs(np.asarray(theirs).astype(int) - mine).max() <= 1  # Pillow rounds twice


def test_every_overlay_of_a_folder_is_used(stencil):
    trigger = make_trigger("overlay", TriggerOptions(overlay=str(stencil)))
    assert len(trigger.layers_for(24, 24)[0].keep) == 2
    assert set(trigger.layer_numbers(np.arange(50), 2).tolist()) == {0, 1}


# --- the chosen rows ---------------------------------------------------------------------------


def test_the_rows_equal_those_of_the_published_draw():
    label = np.random.default_rng(0).integers(0, 10, 1000)
    expected = np.isin(label, [2, 5]) & (np.random.default_rng(10).random(1000) < 0.3)
    np.testing.assert_array_equal(rows_with_trigger(label, np.array([2, 5]), 0.3, 10), expected)
    assert rows_with_trigger(label, np.array([2, 5]), 1, 10).sum() == np.isin(label, [2, 5]).sum()
    assert not rows_with_trigger(label, np.array([2, 5]), 0, 10).any()


# --- in the loader -----------------------------------------------------------------------------


def test_a_view_plants_its_trigger_after_crop_and_flip(raw_view):
    mask = np.arange(70) % 3 == 0
    trigger = make_trigger("square", TriggerOptions("0.5", colour=(1, 2, 3)))
    options = LoaderOptions("random_resized_crop", "flip", 20, normalise=False)
    clean = make_loader(raw_view, 16, seed=1, options=options)
    shown = make_loader(replace(raw_view, planted=PlantedTrigger(trigger, mask)), 16, seed=1, options=options)
    for before, after in zip(clean.epoch(2), shown.epoch(2), strict=True):
        assert before.row.tolist() == after.row.tolist()
        expected = before.image.permute(0, 2, 3, 1).clone()
        expected[torch.from_numpy(mask)[before.row], :10, :10] = torch.tensor([1, 2, 3], dtype=torch.uint8)
        assert torch.equal(after.image.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize("normalise", [True, False])
def test_one_decoding_gives_the_images_clean_and_with_every_trigger(raw_view, normalise):
    view = replace(raw_view, order="sequential")
    triggers = [make_trigger("square"), make_trigger("hat")]
    options = LoaderOptions("simple", normalise=normalise)
    together = make_loader(view, 32, tail="keep", options=options, triggers=triggers)
    everywhere = np.ones(70, bool)
    apart = [make_loader(view, 32, tail="keep", options=options)]
    apart += [
        make_loader(replace(view, planted=PlantedTrigger(trigger, everywhere)), 32, tail="keep", options=options)
        for trigger in triggers
    ]
    for batch, *alone in zip(together.epoch(0), *(loader.epoch(0) for loader in apart), strict=True):
        for image, expected in zip((batch.image, *batch.triggered), alone, strict=True):
            assert torch.equal(image, expected.image)


def test_a_view_with_a_trigger_refuses_further_triggers(raw_view):
    view = replace(raw_view, planted=PlantedTrigger(make_trigger("square"), np.ones(70, bool)))
    with pytest.raises(ValueError, match="has a trigger already"):
        make_loader(view, 8, triggers=[make_trigger("hat")])


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("squere", {}, "unknown trigger 'squere'; did you mean 'square'"),
        ("square", {"size": "70px"}, r"70 x 70 pixels \(size 70px\) is larger than the image, 64 x 64"),
        ("square", {"size": "1.5"}, "96 x 96 pixels"),
        ("square", {"size": "big"}, "expected a fraction such as 0.25, or pixels such as 56px"),
        ("square", {"size": "-1"}, "expected a fraction"),
        ("square", {"size": "2.5px"}, "expected a fraction"),
        ("square", {"position": "middle"}, "unknown position 'middle'.*known: top_left"),
        ("overlay", {}, "needs an image or a folder"),
    ],
)
def test_a_wrong_setting_raises_a_clear_message(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_trigger(name, TriggerOptions(**options)).layers_for(64, 64)


def test_an_unfit_file_raises_a_clear_message(tmp_path):
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "opaque.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "flat.npy", np.zeros((224, 224)))
    np.save(tmp_path / "nan.npy", np.full((3, 8, 8), np.nan))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    for name, key, file, message in (
        ("overlay", "overlay", "missing.png", "no trigger image at"),
        ("overlay", "overlay", "opaque.png", "no alpha channel that lets anything through"),
        ("overlay", "overlay", "broken.png", "cannot be read as an image"),
        ("hat", "hats", "empty", "holds no image with an alpha channel"),
        ("gaussian", "pattern", "missing.npy", "no pattern at"),
        ("gaussian", "pattern", "flat.npy", r"holds float64 \(224, 224\); a pattern is \[3, height, width\]"),
        ("gaussian", "pattern", "nan.npy", "and finite"),
        ("gaussian", "pattern", "pickle.npy", "is no .npy file of numbers"),
    ):
        with pytest.raises(DataError, match=message):
            make_trigger(name, TriggerOptions(**{key: str(tmp_path / file)})).layers_for(8, 8)


def test_every_trigger_is_registered():
    assert TRIGGERS.names() == ["gaussian", "hat", "overlay", "square"]
