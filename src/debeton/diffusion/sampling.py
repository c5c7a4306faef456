"""Drawing images from the diffusion model: samplers of diffusers, classifier-free guidance, a seed for each image."""

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
    """make: the training schedule -> diffusers' scheduler. steps: as many as it takes to look good."""

    make: Callable[[Any], Any]
    steps: int


def _ddpm(schedule: Any) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(schedule.config, timestep_spacing="trailing")


def _ddim(schedule: Any) -> Any:
    from diffusers import DDIMScheduler

    # 'leading', the default, would begin below the noisiest step, and 'clip_sample' pushes colours to their limits.
    return DDIMScheduler.from_config(schedule.config, timestep_spacing="trailing", clip_sample=False)


def _dpm(schedule: Any) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    # 'fixed_large' is of DDPM's variances; this solver knows learned ones only.
    config = {**schedule.config, "variance_type": None}
    # Steps of equal log signal-to-noise ratio (Lu et al. 2022): images N(m, 0.3^2) come out with a deviation of 0.303
    # after 20 of them, and of 0.257 after 20 of diffusers' default.
    spacing = {"timestep_spacing": "trailing", "use_lu_lambdas": True}
    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2, **spacing)


SAMPLERS = {"ddpm": Sampler(_ddpm, 1000), "ddim": Sampler(_ddim, 50), "dpm++": Sampler(_dpm, 20)}


def guided(with_condition: Tensor, without: Tensor, w: float) -> Tensor:
    """(1 + w) eps(x, t, c) - w eps(x, t, null) (Ho and Salimans 2022, eq. 6); w = 0: no guidance, -1: no condition.

    diffusers' guidance scale is s = 1 + w.
    """
    return (1 + w) * with_condition - w * without


def clipped(guess: Tensor, noisy: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """The guess whose image is the guessed one with pixels held in [-1, 1], as Ho et al. 2020 draw; where they are, the
    guess itself.

    guess: e, or v for prediction 'v_prediction', float [N, ...]. abar: scalar, the schedule's product at this time.
    """
    signal, noise = abar.sqrt(), (1 - abar).sqrt()
    if prediction == "v_prediction":
        image = (signal * noisy - noise * guess).clamp(-1, 1)
        return (signal * noisy - image) / noise
    image = ((noisy - noise * guess) / signal).clamp(-1, 1)
    return (noisy - signal * image) / noise


def steps_of(schedule: Any, sampler: str, steps: int | None = None) -> int:
    """Sampling steps, for None the sampler's own; UsageError for more than the model was trained with."""
    limit = int(schedule.config.num_train_timesteps)
    if steps is None:
        return min(SAMPLERS[sampler].steps, limit)
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
    """Images in [-1, 1], float32 [N, 3, H, W]; each depends on its condition and seed alone, up to arithmetic.

    condition: int64 [N], on the network's device. steps: None for the sampler's own. w: see `guided`; with w = 0 the
    network is called on N images a step, else on 2 N at once. clip: see `clipped`; without it what a model that was
    trained briefly guesses at the noisiest steps grows by 1 / sqrt(abar), 156, and images are flat colours.
    """
    scheduler, device = SAMPLERS[sampler].make(schedule), condition.device
    dtype = next(network.parameters()).dtype
    # On the CPU, so that every device begins with the same noise.
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn((3, *network.size), generator=generator) for generator in generators])
    image = (noise * scheduler.init_noise_sigma).to(device)
    scheduler.set_timesteps(steps_of(schedule, sampler, steps), device=device)
    if hasattr(scheduler, "set_begin_index"):  # else one that looks its first time up may find the second of two alike
        scheduler.set_begin_index(0)
    both = torch.cat([condition, torch.full_like(condition, network.null)])
    abar = schedule.alphas_cumprod.to(device)
    further = {"generator": generators} if sampler == "ddpm" else {}
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(image, t).to(dtype)
        if w == 0:
            guess = network(inputs, t.expand(len(inputs)), condition).float()
        else:
            pair = network(torch.cat([inputs, inputs]), t.expand(2 * len(inputs)), both).float()
            guess = guided(pair[: len(inputs)], pair[len(inputs) :], w)
        if clip:
            guess = clipped(guess, image, abar[int(t)], schedule.config.prediction_type)
        image = scheduler.step(guess, t, image, return_dict=False, **further)[0]
    return image.clamp(-1, 1)
