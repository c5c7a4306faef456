"""The diffusion model by closed forms: noise, targets, weights, guidance, and samplers with the perfect network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.toy import TOY_SPEC

from debeton.data.loader.batch import Batch
from debeton.diffusion.denoising import Denoising
from debeton.diffusion.model import (
    Conditions,
    Shape,
    load_model,
    make_network,
    make_schedule,
    model_folder,
    save_model,
)
from debeton.diffusion.sampling import SAMPLERS, clipped, guided, sample, steps_of
from debeton.system.errors import DataError, UsageError

ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def batch_of(n: int, size: int = 8, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    group = torch.arange(n) % 4
    image = torch.rand((n, 3, size, size), generator=rng) * 2 - 1
    return Batch(
        image, row=torch.arange(n), label=group // 2, attribute=group % 2, group=group, source=torch.zeros_like(group)
    )


class Recorder(torch.nn.Module):
    """A network that returns `answer(noisy, t, condition)` and keeps its inputs."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, noisy, t, condition):
        self.seen = (noisy, t, condition)
        return self.answer(noisy, t, condition)


def of_time(t: torch.Tensor, values: torch.Tensor = ABAR) -> torch.Tensor:
    return values[t].float()[:, None, None, None]


def noise_of(clean: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return e, from x_t = sqrt(abar) x_0 + sqrt(1 - abar) e."""
    return (noisy - of_time(t).sqrt() * clean) / (1 - of_time(t)).sqrt()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_is_zero_for_a_network_that_knows_the_image_and_one_for_a_silent_one(prediction):
    batch = batch_of(512)

    def knowing(noisy, t, condition):
        noise, abar = noise_of(batch.image, noisy, t), of_time(t)
        return noise if prediction == "epsilon" else abar.sqrt() * noise - (1 - abar).sqrt() * batch.image

    torch.manual_seed(0)
    objective = Denoising(make_schedule(prediction), TOY_SPEC)
    assert float(objective(Recorder(knowing), batch).loss) < 1e-5
    silent = float(objective(Recorder(lambda noisy, t, condition: torch.zeros_like(noisy)), batch).loss)
    # E e^2 = 1; E v^2 = abar + (1 - abar) / 3 for pixels that are uniform on [-1, 1]
    expected = 1.0 if prediction == "epsilon" else float((ABAR + (1 - ABAR) / 3).mean())
    assert silent == pytest.approx(expected, abs=0.03)


def test_noisy_images_have_the_mean_and_variance_of_the_forward_process():
    batch, recorder = batch_of(4000, size=4), Recorder(lambda noisy, t, condition: noisy)
    torch.manual_seed(1)
    Denoising(make_schedule(), TOY_SPEC)(recorder, batch)
    noisy, t, _ = recorder.seen
    noise = noise_of(batch.image, noisy, t).double()
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 / math.sqrt(count)
    assert abs(float(noise.var()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float((noise * batch.image).mean())) < 4 / math.sqrt(count)
    counts = np.bincount(t.numpy() // 100, minlength=10)
    assert np.abs(counts - 400).max() < 4 * math.sqrt(400 * 0.9)  # times are uniform


@pytest.mark.parametrize(("condition", "null"), [("label", 2), ("group", 4)])
def test_conditions_are_hidden_as_often_as_asked(condition, null):
    batch, recorder = batch_of(4000, size=1), Recorder(lambda noisy, t, condition: noisy)
    torch.manual_seed(2)
    Denoising(make_schedule(), TOY_SPEC, condition=condition, dropout=0.1)(recorder, batch)
    shown = recorder.seen[2]
    hidden = shown == null
    assert abs(int(hidden.sum()) - 400) < 4 * math.sqrt(4000 * 0.09)
    assert torch.equal(shown[~hidden], getattr(batch, condition)[~hidden])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_min_snr_weight_is_that_of_its_paper(prediction):
    batch, recorder = batch_of(256), Recorder(lambda noisy, t, condition: torch.zeros_like(noisy))
    objective = Denoising(make_schedule(prediction), TOY_SPEC, min_snr=5.0)
    torch.manual_seed(3)
    loss = float(objective(recorder, batch).loss)
    noisy, t, _ = recorder.seen
    abar = ABAR[t]
    snr = abar / (1 - abar)
    weight = torch.clamp(snr, max=5.0) / (snr if prediction == "epsilon" else snr + 1)
    noise = noise_of(batch.image, noisy, t).double()
    v = abar.sqrt()[:, None, None, None] * noise - (1 - abar).sqrt()[:, None, None, None] * batch.image
    target = noise if prediction == "epsilon" else v
    assert loss == pytest.approx(float((weight * target.square().flatten(1).mean(1)).mean()), rel=1e-4)


def test_losses_by_group_are_those_of_their_rows():
    batch = batch_of(64)
    objective = Denoising(make_schedule(), TOY_SPEC)
    # a network that is off by the group's number
    model = Recorder(lambda noisy, t, condition: noise_of(batch.image, noisy, t) + batch.group[:, None, None, None])
    objective(model, batch)
    objective(model, batch)
    summary = objective.summary()
    assert list(summary["loss_by_group"].values()) == pytest.approx([0, 1, 4, 9], abs=1e-3)
    assert summary["loss"] == pytest.approx(14 / 4, abs=1e-3)
    assert objective.summary()["loss"] is None


def test_guidance_is_one_with_the_condition_without_weight_and_goes_beyond_it_with_some():
    shown, hidden = torch.randn(2, 3, 3, 4, 4)
    assert torch.equal(guided(shown, hidden, 0.0), shown)
    assert torch.allclose(guided(shown, hidden, -1.0), hidden)
    s = 3.5  # diffusers' scale: hidden + s (shown - hidden)
    assert torch.allclose(guided(shown, hidden, s - 1), hidden + s * (shown - hidden), atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("t", [0, 400, 999])
def test_a_clipped_guess_is_that_of_the_nearest_image_in_range(prediction, t):
    torch.manual_seed(t)
    abar, image = ABAR[t], 2 * torch.randn(4, 3, 8, 8).double()
    noise = torch.randn_like(image)
    noisy = abar.sqrt() * image + (1 - abar).sqrt() * noise

    def guess(image: torch.Tensor) -> torch.Tensor:
        e = (noisy - abar.sqrt() * image) / (1 - abar).sqrt()
        return e if prediction == "epsilon" else abar.sqrt() * e - (1 - abar).sqrt() * image

    found = clipped(guess(image), noisy, abar, prediction)
    assert torch.allclose(found, guess(image.clamp(-1, 1)), atol=1e-9)
    inside = image.abs() < 1
    assert torch.allclose(found[inside], guess(image)[inside], atol=1e-9)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_guesses_of_no_noise_blow_images_up_unless_pixels_are_held_in_range(sampler):
    """A briefly trained network makes such guesses at the noisiest steps."""
    largest = {}
    for clip in (True, False):
        network = Recorder(lambda noisy, t, condition: torch.zeros_like(noisy))
        network.size, network.null, seen = (8, 8), 2, []
        network.weight = torch.nn.Parameter(torch.zeros(1))
        network.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(float(inputs[0].abs().max())))
        sample(network, make_schedule(), torch.tensor([0, 1]), [1, 2], sampler=sampler, w=0.0, clip=clip)
        largest[clip] = max(seen)
    assert largest[True] < 6
    assert largest[False] > 50


class Perfect(torch.nn.Module):
    """The network with the best guess at the noise of images whose pixels are N(mean of the condition, deviation^2)."""

    size, null = (8, 8), 2

    def __init__(self, means=(0.15, -0.1, 0.05), deviation=0.3):
        super().__init__()
        self.means, self.deviation = torch.nn.Parameter(torch.tensor(means)), deviation
        self.calls: list[int] = []

    def forward(self, noisy, t, condition):
        self.calls.append(len(noisy))
        abar, mean = of_time(t), self.means[condition][:, None, None, None]
        return (1 - abar).sqrt() * (noisy - abar.sqrt() * mean) / (abar * self.deviation**2 + 1 - abar)


def ddim_deviation(steps: int, deviation: float) -> float:
    """Return the deviation of DDIM's images for N(0, deviation^2) and the perfect network.

    Each step multiplies by a number. With few steps the result is too narrow, because the last step goes straight to
    the mean of the possible images.
    """
    factor, times = 1.0, (np.round(np.arange(1000, 0, -1000 / steps)) - 1).astype(int)
    for t, after in zip(times, [*times[1:], None], strict=True):
        abar, target = float(ABAR[t]), 1.0 if after is None else float(ABAR[after])
        noise = math.sqrt(1 - abar) / (abar * deviation**2 + 1 - abar)
        clean = (1 - math.sqrt(1 - abar) * noise) / math.sqrt(abar)
        factor *= math.sqrt(target) * clean + math.sqrt(1 - target) * noise
    return factor


@pytest.mark.parametrize(
    ("sampler", "steps", "deviation"),
    [
        ("ddpm", 1000, 0.3),
        ("ddim", 50, ddim_deviation(50, 0.3)),
        ("ddim", 10, ddim_deviation(10, 0.3)),
        ("dpm++", 20, 0.3),
    ],
)
def test_a_sampler_given_the_perfect_network_draws_from_the_distribution(sampler, steps, deviation):
    condition = torch.tensor([0] * 40 + [1] * 40)
    images = sample(Perfect(), make_schedule(), condition, range(80), sampler=sampler, steps=steps, w=0.0).double()
    for code, mean in ((0, 0.15), (1, -0.1)):
        mine = images[condition == code]
        assert float(mine.mean()) == pytest.approx(mean, abs=0.02)
        assert float(mine.std()) == pytest.approx(deviation, rel=0.06)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_an_image_is_a_function_of_its_condition_and_seed(sampler):
    schedule, how = make_schedule(), {"sampler": sampler, "steps": 10, "w": 0.5}
    several = sample(Perfect(), schedule, torch.tensor([0, 1, 1, 0]), [5, 6, 7, 8], **how)
    alone = sample(Perfect(), schedule, torch.tensor([1]), [6], **how)
    assert torch.allclose(several[1], alone[0], atol=1e-5)
    assert len({tuple(image.flatten().tolist()) for image in several}) == 4


def test_the_network_is_called_once_a_step_on_both_halves_and_on_one_without_guidance():
    for w, size in ((1.0, 6), (0.0, 3)):
        network = Perfect()
        sample(network, make_schedule(), torch.tensor([0, 1, 0]), [1, 2, 3], steps=8, w=w)
        assert network.calls == [size] * 8


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize(("of", "steps"), [(8, 8), (10, 9), (20, 10), (20, 20), (50, None)])
def test_a_model_of_few_steps_is_sampled_in_all_or_nearly_all_of_them(sampler, of, steps):
    """Rounding steps of equal log-SNR may give one time twice."""
    images = sample(Perfect(), make_schedule(steps=of), torch.tensor([0, 1]), [1, 2], sampler=sampler, steps=steps)
    assert torch.isfinite(images).all()
    assert images.abs().max() <= 1


def test_fewer_than_one_step_is_refused():
    with pytest.raises(UsageError, match="0 sampling steps"):
        steps_of(make_schedule(), "ddim", 0)


def test_more_steps_than_the_model_has_are_refused():
    with pytest.raises(UsageError, match="60 sampling steps are more than the 50"):
        sample(Perfect(), make_schedule(steps=50), torch.tensor([0]), [1], steps=60)


def test_any_number_of_steps_ends_in_noise():
    for steps in (50, 250, 1000):
        assert float(make_schedule(steps=steps).alphas_cumprod[-1].sqrt()) < 0.01


# --- the network and its folder -----------------------------------------------------------------------------------

SHAPE = Shape((8, 16), 1, 1)
CELLS = Conditions("group", (("left", "dark"), ("left", "light"), ("right", "dark")), (True, True, False), "toy", "abc")


def test_a_model_is_read_back_as_it_was_and_by_diffusers_too(tmp_path):
    from diffusers import DDPMPipeline

    torch.manual_seed(0)
    network = make_network(3, (16, 8), SHAPE)
    save_model(tmp_path / "cdpm", network, make_schedule("v", 100), CELLS)
    read, schedule, conditions = load_model(model_folder(tmp_path))
    assert conditions == CELLS
    assert (read.size, read.null, schedule.config.prediction_type) == ((16, 8), 3, "v_prediction")
    inputs = (torch.randn(2, 3, 16, 8), torch.tensor([3, 90]), torch.tensor([0, 3]))
    assert torch.equal(network.eval()(*inputs), read.eval()(*inputs))
    assert DDPMPipeline.from_pretrained(tmp_path / "cdpm").unet.config.num_class_embeds == 4


def test_the_condition_and_the_time_change_the_output_of_a_network():
    torch.manual_seed(0)
    network = make_network(3, (8, 8), SHAPE).eval()
    noisy = torch.randn(1, 3, 8, 8)
    answers = [network(noisy, torch.tensor([t]), torch.tensor([c])) for t, c in ((5, 0), (5, 1), (5, 3), (500, 0))]
    assert len({answer.sum().item() for answer in answers}) == 4


def test_conditions_that_a_model_does_not_know_give_one_sentence(tmp_path):
    assert CELLS.codes([("left", "light"), ("left", "dark")]) == [1, 0]
    with pytest.raises(UsageError, match=r"trained on no image of 'right, dark'; it knows left, dark; left, light"):
        CELLS.codes([("right", "dark")])
    labels = Conditions("label", (("left", None), ("right", None)), (True, True), "toy", "abc")
    assert labels.codes([("right", None)]) == [1]
    with pytest.raises(UsageError, match=r"on the classes of toy alone .* --blind"):
        labels.codes([("right", "dark")])
    with pytest.raises(UsageError, match=r"no diffusion model of ours in .*: it has no conditions\.json"):
        model_folder(tmp_path)
    save_model(tmp_path, make_network(3, (8, 8), SHAPE), make_schedule(), CELLS)
    (tmp_path / "conditions.json").write_text("{")
    with pytest.raises(DataError, match=r"conditions\.json is not JSON"):
        load_model(tmp_path)
    with pytest.raises(UsageError, match="3 levels halve an image 2 times, and 18 x 16 pixels are no multiple of 4"):
        make_network(2, (18, 16), Shape((8, 8, 8)))
