"""Sampling from the diffusion model: diffusers' samplers, classifier-free guidance, a seed for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from debeton.diffusion.model import ConditionalUNet
from debeton.system.errors import UsageError


@dataclass(frozen=True)
class Sampler:
    """A sampler of diffusers.

    make: training schedule -> diffusers' scheduler.
    steps: number of steps after which its images look good.
    """

    make: Callable[[Any], Any]
    steps: int


def _ddpm(schedule: Any) -> Any:
    """Return the DDPM sampler."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(schedule.config, timestep_spacing="trailing")


def _ddim(schedule: Any) -> Any:
    """Return the DDIM sampler."""
    from diffusers import DDIMScheduler

    # The default 'leading' would begin below the noisiest step. 'clip_sample' would push colours to their limits.
    return DDIMScheduler.from_config(schedule.config, timestep_spacing="trailing", clip_sample=False)


def _dpm(schedule: Any) -> Any:
    """Return the DPM-Solver++ sampler of order 2."""
    from diffusers import DPMSolverMultistepScheduler

    # 'fixed_large' is one of DDPM's variances; this solver accepts only learned ones.
    config = {**schedule.config, "variance_type": None}
    # Steps of equal log signal-to-noise ratio (Lu et al. 2022): images N(m, 0.3^2) come out with a deviation of 0.303
    # after 20 of them, and of 0.257 after 20 of diffusers' default.
    spacing = {"timestep_spacing": "trailing", "use_lu_lambdas": True}
    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2, **spacing)


SAMPLERS = {"ddpm": Sampler(_ddpm, 1000), "ddim": Sampler(_ddim, 50), "dpm++": Sampler(_dpm, 20)}


def guided(with_condition: Tensor, without: Tensor, w: float) -> Tensor:
    """Return (1 + w) eps(x, t, c) - w eps(x, t, null) (Ho and Salimans 2022, eq. 6).

    w: 0 is without guidance, -1 without the condition. diffusers' guidance scale is s = 1 + w.
    """
    return (1 + w) * with_condition - w * without


def clipped(guess: Tensor, noisy: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """Change the guess so that the image it implies has pixels in [-1, 1], as in Ho et al. 2020.

    If the pixels are in that range, the guess stays the same.
    guess: e, or v for prediction 'v_prediction', float [N, ...].
    noisy: the noisy images, float [N, ...].
    abar: scalar, the schedule's product at this time.
    """
    signal, noise = abar.sqrt(), (1 - abar).sqrt()
    if prediction == "v_prediction":
        image = (signal * noisy - noise * guess).clamp(-1, 1)
        return (signal * noisy - image) / noise
    image = ((noisy - noise * guess) / signal).clamp(-1, 1)
    return (noisy - signal * image) / noise


def steps_of(schedule: Any, sampler: str, steps: int | None = None) -> int:
    """Return the number of sampling steps; None is the sampler's own.

    UsageError for fewer than one, and for more than the model was trained with.
    """
    limit = int(schedule.config.num_train_timesteps)
    if steps is None:
        return min(SAMPLERS[sampler].steps, limit)
    if steps < 1:
        raise UsageError(f"{steps} sampling steps draw nothing; use 1 or more")
    if steps > limit:
        raise UsageError(f"{steps} sampling steps are more than the {limit} that the model was trained with")
    return steps


@torch.inference_mode()
def sample(
    network: ConditionalUNet,
    schedule: Any,
    condition: Tensor,
    seeds: Sequence[int],
    *,
    sampler: str = "dpm++",
    steps: int | None = None,
    w: float = 1.0,
    clip: bool = True,
) -> Tensor:
    """Draw images in [-1, 1], float32 [N, 3, H, W].

    Each image depends on its condition and seed alone, up to arithmetic.

    condition: int64 [N], on the network's device.
    seeds: one for each image.
    sampler: a name in SAMPLERS.
    steps: None for the sampler's own.
    w: see `guided`; with w = 0 the network is called on N images a step, else on 2 N at once.
    clip: see `clipped`. Without it, errors of a briefly trained model at the noisiest steps grow by
        1 / sqrt(abar) = 156, and images are flat colours.
    """
    scheduler, device = SAMPLERS[sampler].make(schedule), condition.device
    dtype = next(network.parameters()).dtype
    # Drawn on the CPU, so that every device begins with the same noise.
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn((3, *network.size), generator=generator) for generator in generators])
    image = (noise * scheduler.init_noise_sigma).to(device)
    scheduler.set_timesteps(steps_of(schedule, sampler, steps), device=device)
    if hasattr(scheduler, "set_begin_index"):  # else it looks up its first time, and may find the second of two equal
        scheduler.set_begin_index(0)
    both = torch.cat([condition, torch.full_like(condition, network.null)])
    abar = schedule.alphas_cumprod.to(device)
    step_options = {"generator": generators} if sampler == "ddpm" else {}
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(image, t).to(dtype)
        if w == 0:
            guess = network(inputs, t.expand(len(inputs)), condition).float()
        else:
            pair = network(torch.cat([inputs, inputs]), t.expand(2 * len(inputs)), both).float()
            guess = guided(pair[: len(inputs)], pair[len(inputs) :], w)
        if clip:
            guess = clipped(guess, image, abar[int(t)], schedule.config.prediction_type)
        image = scheduler.step(guess, t, image, return_dict=False, **step_options)[0]
    return image.clamp(-1, 1)
