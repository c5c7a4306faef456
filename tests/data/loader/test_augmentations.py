"""The augmentations against torchvision at the drawn parameters, and the distributions of what is drawn."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from tests.pages import ROOT, commands_of, run_block
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from debeton.data.draws import sample_keys
from debeton.data.loader.augment import OPS, as_moves, make_ops, register_augmentation, split_mixing
from debeton.data.loader.augmentations.blurs import Blur, blur, filter_width
from debeton.data.loader.augmentations.colours import ColourJitter, jitter
from debeton.data.loader.augmentations.patches import RandomErasing
from debeton.data.loader.augmentations.policies import NAMES, apply_operations, draw_operations, magnitudes
from debeton.system.errors import UsageError
from debeton.system.registry import Registry

SIZE = (24, 40)


def noise(n: int = 6, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Images of smooth colours and noise: every value and many equal ones occur."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, size[1])[None, None, :, None] * rng.random((n, 1, 1, 3))
    images = np.clip(smooth + rng.normal(0, 30, (n, *size, 3)), 0, 255).astype(np.uint8)
    images[:, :6, :6] = 77
    return images


def torch_image(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def assert_near(ours: np.ndarray, theirs: torch.Tensor, *, differing: float = 0.02) -> None:
    """Values differ by one of 255 at most, because sums have another order, and few do."""
    distance = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy().astype(int))
    assert distance.max() <= 1
    assert (distance > 0).mean() <= differing


FACTORS = (0.0, 0.35, 1.0, 1.7)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("change", range(3), ids=["brightness", "contrast", "saturation"])
def test_changes_of_colour_are_torchvisions(change: int, factor: float):
    images = noise()
    theirs = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)[change]
    expected = [theirs(torch_image(image), factor) for image in images]
    factors = np.array([[1, 1, 1, 0]] * len(images), np.float32)
    factors[:, change] = factor
    jitter(images, np.tile(np.arange(4), (len(images), 1)), factors)
    for ours, one in zip(images, expected, strict=True):
        assert_near(ours, one)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.03, 0.4])
def test_hue_is_torchvisions(turn: float):
    images = noise()
    expected = [reference.adjust_hue(torch_image(image), turn) for image in images]
    jitter(images, np.tile(np.arange(4), (len(images), 1)), np.array([[1, 1, 1, turn]] * len(images), np.float32))
    for ours, one in zip(images, expected, strict=True):
        assert_near(ours, one)


def test_jitter_applies_its_four_changes_in_the_drawn_order():
    images, keys = noise(16), sample_keys(0, 0, np.arange(16))
    op = ColourJitter(0.4, 0.4, 0.4, 0.1)
    orders, factors = op.draw(keys)
    assert len({tuple(order) for order in orders.tolist()}) > 8
    changes = (
        reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue
    )  # fmt: skip
    expected = [torch_image(image) for image in images]
    for i, order in enumerate(orders):
        for change in order:
            expected[i] = changes[change](expected[i], float(factors[i, change]))
    for ours, one in zip(op(images, keys, keys.astype(np.int64)), expected, strict=True):
        distance = np.abs(ours.astype(int) - one.permute(1, 2, 0).numpy().astype(int))
        assert distance.max() <= 12  # a difference of one before the hue is turned grows with its saturation
        assert (distance > 1).mean() < 0.01


def test_factors_are_even_over_their_ranges():
    _, factors = ColourJitter(0.4, 2.0, 0.0, 0.1).draw(sample_keys(0, 0, np.arange(4000)))
    for column, (low, high) in zip(factors.T, ((0.6, 1.4), (0, 3), (1, 1), (-0.1, 0.1)), strict=True):
        assert low - 1e-6 <= column.min() <= low + 0.01 * (high - low) + 1e-6
        assert column.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low) + 1e-6)


def test_greyscale_is_torchvisions_for_its_share_of_the_images():
    images, keys = noise(400, (8, 9)), sample_keys(0, 0, np.arange(400))
    (op,) = make_ops("grayscale:0.3")
    found = op(images.copy(), keys, keys.astype(np.int64))
    grey = (found[..., 0] == found[..., 1]).all(axis=(1, 2)) & (found[..., 1] == found[..., 2]).all(axis=(1, 2))
    assert 0.22 < grey.mean() < 0.38
    np.testing.assert_array_equal(found[~grey], images[~grey])
    for i in np.flatnonzero(grey)[:20]:
        assert_near(found[i], reference.rgb_to_grayscale(torch_image(images[i]), num_output_channels=3))


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_is_torchvisions(sigma: float):
    images = noise()
    taps = 7
    expected = [reference.gaussian_blur(torch_image(image), [taps, taps], [sigma, sigma]) for image in images]
    blur(images, np.full(len(images), sigma), taps)
    for ours, one in zip(images, expected, strict=True):
        assert_near(ours, one)


def test_the_blur_is_a_tenth_of_the_image_wide_and_leaves_its_share_as_it_is():
    assert [filter_width((side, 300)) for side in (8, 32, 96, 224)] == [3, 3, 9, 23]
    sigmas = Blur(0.25).draw(sample_keys(0, 0, np.arange(2000)))
    assert (sigmas > 0).mean() == pytest.approx(0.25, abs=0.03)
    assert sigmas[sigmas > 0].min() >= 0.1
    assert sigmas.max() < 2


def operation_of_torchvision(name: str, image: torch.Tensor, amount: float) -> torch.Tensor:
    """One operation as torchvision's policies call it, with their geometry."""
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    degrees = math.degrees(math.atan(amount))
    return {
        "identity": lambda: image,
        "shear_x": lambda: reference.affine(image, **{**affine, "shear": [degrees, 0.0]}, center=[0, 0]),
        "shear_y": lambda: reference.affine(image, **{**affine, "shear": [0.0, degrees]}, center=[0, 0]),
        "translate_x": lambda: reference.affine(image, **{**affine, "translate": [int(amount), 0]}),
        "translate_y": lambda: reference.affine(image, **{**affine, "translate": [0, int(amount)]}),
        "rotate": lambda: reference.rotate(image, amount),
        "brightness": lambda: reference.adjust_brightness(image, 1 + amount),
        "color": lambda: reference.adjust_saturation(image, 1 + amount),
        "contrast": lambda: reference.adjust_contrast(image, 1 + amount),
        "sharpness": lambda: reference.adjust_sharpness(image, 1 + amount),
        "posterize": lambda: reference.posterize(image, int(amount)),
        "solarize": lambda: reference.solarize(image, amount),
        "auto_contrast": lambda: reference.autocontrast(image),
        "equalize": lambda: reference.equalize(image),
    }[name]()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("policy", ["rand_augment", "trivial_augment"])
@pytest.mark.parametrize("name", NAMES)
def test_operations_of_policies_are_torchvisions(name: str, policy: str, sign: int):
    for level in (0, 9, 17, 30):
        amount = magnitudes(policy, SIZE)[NAMES.index(name), level]
        if name not in ("posterize", "solarize"):
            amount *= sign
        images = noise(2)
        expected = [operation_of_torchvision(name, torch_image(image), amount) for image in images]
        apply_operations(images, np.full((2, 1), NAMES.index(name)), np.full((2, 1), amount))
        for ours, one in zip(images, expected, strict=True):
            if name.startswith(("shear", "rotate")):  # a source halfway between two pixels may be either
                same = (ours == one.permute(1, 2, 0).numpy()).all(axis=2)
                assert same.mean() > 0.985
            else:
                assert_near(ours, one)


@pytest.mark.parametrize(
    ("policy", "theirs"), [("rand_augment", v2.RandAugment()), ("trivial_augment", v2.TrivialAugmentWide())],
    ids=["RandAugment", "TrivialAugmentWide"],
)  # fmt: skip
def test_magnitudes_are_torchvisions(policy: str, theirs: v2.Transform):
    ours = magnitudes(policy, SIZE)
    for name, (of_bins, signed) in theirs._AUGMENTATION_SPACE.items():
        snake = "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
        expected = of_bins(31, *SIZE)
        expected = torch.zeros(31) if expected is None else expected.double()
        if snake == "solarize":
            expected = 255 * expected
        if snake.startswith("translate"):
            expected = (expected + 1e-4).trunc()  # in float32 torchvision's 16 may be 15.999998
        np.testing.assert_allclose(ours[NAMES.index(snake)], expected, atol=1e-4, err_msg=name)
        _, amounts = draw_operations(policy, sample_keys(0, 0, np.arange(3000)), 1, None, SIZE)
        operations, _ = draw_operations(policy, sample_keys(0, 0, np.arange(3000)), 1, None, SIZE)
        assert bool((amounts[operations == NAMES.index(snake)] < 0).any()) == signed
    assert len(theirs._AUGMENTATION_SPACE) == len(NAMES)


def test_each_operation_is_drawn_equally_often():
    operations, _ = draw_operations("rand_augment", sample_keys(1, 0, np.arange(14000)), 2, 9, SIZE)
    assert np.abs(np.bincount(operations.ravel(), minlength=14) - 2000).max() < 200


def test_random_crop_is_torchvisions_crop_of_the_padded_image():
    images, keys = noise(200, (9, 11)), sample_keys(0, 0, np.arange(200))
    (op,) = make_ops("random_crop:3")
    found, places = op(images, keys, keys.astype(np.int64)), set()
    for ours, image in zip(found, images, strict=True):
        padded = reference.pad(torch_image(image), [3, 3, 3, 3])
        matches = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if torch.equal(reference.crop(padded, top, left, 9, 11), torch_image(ours))
        ]
        assert len(matches) == 1
        places.add(matches[0])
    assert len(places) > 40  # of 49


def test_random_erasing_fills_torchvisions_rectangles():
    images, keys = noise(2000, (20, 30)), sample_keys(0, 0, np.arange(2000))
    patches = RandomErasing(0.5).patches(keys, (20, 30))
    height, width = patches[:, 2] - patches[:, 0], patches[:, 3] - patches[:, 1]
    erased = height * width > 0
    assert erased.mean() == pytest.approx(0.5, abs=0.04)
    share, ratio = height[erased] * width[erased] / 600, height[erased] / width[erased]
    assert 0.012 < share.min() < 0.04
    assert 0.28 < share.max() < 0.36
    assert 0.2 < ratio.min() < 0.45
    assert 2.2 < ratio.max() < 4.5
    found = RandomErasing(0.5)(images.copy(), keys, keys.astype(np.int64))
    for i in range(100):
        top, left, bottom, right = patches[i].tolist()
        expected = reference.erase(torch_image(images[i]), top, left, bottom - top, right - left, torch.zeros(1).byte())
        assert torch.equal(torch_image(found[i]), expected)


@pytest.mark.parametrize("text", ["random_crop:3,flip,random_erasing:0.7", "flip,random_crop:2,pad_crop:1,cutout:5"])
def test_black_padding_stays_black_where_moves_are_fused(text: str):
    images, keys = noise(60, (12, 10)), sample_keys(0, 0, np.arange(60))
    expected = images.copy()
    for op in make_ops(text):
        expected = op(expected, keys, keys.astype(np.int64))
    moves = as_moves(make_ops(text), keys, (12, 10))
    rows, columns = moves.rows[:, :, None], moves.columns[:, None, :]
    found = images[np.arange(60)[:, None, None], np.maximum(rows, 0), np.maximum(columns, 0)]
    found[(rows < 0) | (columns < 0)] = 0
    for i, (top, left, bottom, right) in enumerate(moves.patches.tolist()):
        found[i, top:bottom, left:right] = moves.fill
    np.testing.assert_array_equal(found, expected)


ALL = "random_crop:2,colour_jitter:.4:.4:.4:.1,grayscale:.2,blur:.5,rand_augment:2:9,trivial_augment,random_erasing:.5"


def test_pixels_depend_on_the_position_alone_and_not_on_the_batch():
    images, keys = noise(12), sample_keys(3, 1, np.arange(12))

    def augmented(part: slice) -> np.ndarray:
        found = images[part].copy()
        for op in make_ops(ALL):
            found = op(found, keys[part], np.arange(12)[part])
        return found

    whole = augmented(slice(None))
    assert (whole != images).mean() > 0.5
    np.testing.assert_array_equal(np.concatenate([augmented(slice(0, 5)), augmented(slice(5, 12))]), whole)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grayscale:1.5", "P is 1.5; expected 0 to 1"),
        ("pad_crop:2.5", "pad is 2.5; expected a whole number"),
        ("colour_jitter:0.4:0.4:0.4:0.7", "hue is 0.7; expected 0 to 0.5"),
        ("rand_augment:2:31", "M is 31; expected 0 to 30"),
        ("random_erasing:half", "'half' is no number"),
        ("blur:nan", "'nan' is no finite number"),
        ("trivial_augment:3", "'trivial_augment:3' is malformed"),
        ("colour_jiter:1", "did you mean 'colour_jitter'"),
        ("flip,cutmix:1", "'cutmix:1' mixes the labels"),
    ],
)
def test_wrong_arguments_are_one_sentence(text: str, words: str):
    with pytest.raises(UsageError, match=words):
        make_ops(text)


def test_cutmix_is_taken_out_of_the_loaders_augmentations_once():
    rest, mixing = split_mixing("flip, cutmix:0.5,random_crop:4")
    assert rest == "flip,random_crop:4"
    assert mixing is not None
    assert mixing.alpha == 0.5
    assert split_mixing("flip,random_crop:4") == ("flip,random_crop:4", None)
    with pytest.raises(UsageError, match="names cutmix 2 times"):
        split_mixing("cutmix,flip,cutmix")


def test_a_users_augmentation_takes_whole_and_broken_numbers(monkeypatch: pytest.MonkeyPatch):
    registry: Registry = OPS
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    @register_augmentation("darken", "darken:F:N multiplies by F, N times")
    class Darken:
        def __init__(self, factor: float, times: int):
            self.factor, self.times = factor, times

        def __call__(self, images, keys, rows):
            return (images * self.factor**self.times).astype(np.uint8)

    (op,) = make_ops("darken:0.5:2")
    assert (op.factor, op.times) == (0.5, 2)
    assert isinstance(op.times, int)
    assert op(np.full((1, 2, 2, 3), 200, np.uint8), None, None).max() == 50


# --- docs/augmentations.md ---------------------------------------------------------------------------------------


def test_the_page_names_every_augmentation_with_its_defaults():
    table = {}
    for line in (ROOT / "docs" / "augmentations.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`") and not cells[0].startswith("`training"):
            table[cells[0].strip("`").partition(":")[0]] = cells[2]
    assert set(table) == {entry.name for entry in OPS}
    for name, shown in table.items():
        defaults = [str(parameter.default) for parameter in inspect.signature(OPS.get(name)).parameters.values()]
        assert shown == ", ".join(defaults), name


def test_the_command_of_the_page_trains_on_the_toy_set(toy_args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (words,) = commands_of("augmentations.md", "augment")
    augment = words[words.index("--training.augment") + 1]
    given = dict(zip(toy_args[::2], toy_args[1::2], strict=True)) | {"--training.augment": augment}
    run_block("augmentations.md", "augment", *(w for pair in given.items() for w in pair), "--training.epochs", "1")
    (config,) = (tmp_path / "runs").rglob("config.yaml")
    assert augment in config.read_text()
