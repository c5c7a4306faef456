"""Costs of the diffusion model: drawing images by sampler, and a training step beside its network's.

All samplers draw from one network. The distance between their sets is a Frechet distance of features, projected by a
fixed matrix to few dimensions, so that a few hundred images give a covariance. The features are those of
efficientnet_lite0 with ImageNet's weights. It compares sets of one size, and is no FID to compare with papers.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import register_benchmark
from benchmarks.methods import quiet_run
from benchmarks.timing import Result, interleave
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng, seed_everything

STEP, BARE = "training step, the loop", "training step, bare network"
PEER = "training step, denoising-diffusion-pytorch"
DRAWN_AT_ONCE = 100  # images
SIDE, FEATURES = 64, 32  # side in pixels of the feature network's images; dimensions of the projection
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Floats = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py diffusion`."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="RUN",
        help="a run of --training.method cdpm; default: a model is trained on scikit-learn's digits",
    )
    parser.add_argument("--images", type=int, default=200, help="images that each sampler draws; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of that training; default: %(default)s")
    parser.add_argument("--noise-steps", type=int, default=1000, help="noise steps of that model; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="batch size of the steps; default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a round; default: %(default)s")
    parser.add_argument("--widths", default="32,64,64", help="channels of the network; default: %(default)s")
    parser.add_argument("--resolution", type=int, default=32, help="side in pixels; default: %(default)s")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, fp32 on a CPU")


@register_benchmark("diffusion", "seconds of sampling by sampler, and of a training step", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure samplers on the same conditions and noise, and training steps on batches of one size from one beton.

    A step of the loop is decoding, noise, forward, backward, AdamW and the moving average. A step of the bare network
    is forward, backward and AdamW on tensors that lie on the device. The peer is left out if its package is not
    installed.
    """
    for name, low in (("images", 2), ("steps", 1), ("batch_size", 1), ("epochs", 1), ("noise_steps", 2)):
        if getattr(arguments, name) < low:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is too few; use {low} or more")
    from benchmarks.transfer import write_digits
    from debeton.diffusion.sampling import SAMPLERS, steps_of
    from debeton.system.distributed import pick_device

    arguments.device = pick_device("auto")
    arguments.precision = arguments.precision or ("bf16" if arguments.device.type == "cuda" else "fp32")
    with tempfile.TemporaryDirectory(prefix="debeton-") as name:
        folder = Path(name)
        write_digits(folder, 900)
        model = arguments.model or _trained(folder, arguments)
        drawing = Drawing(model, arguments)
        contenders = {f"draw, {sampler}": partial(drawing.seconds, sampler) for sampler in SAMPLERS}
        values = interleave({**contenders, **_steps(folder, arguments)}, arguments.rounds)
        distances = drawing.distances()
        steps = {f"steps_of_{sampler}": steps_of(drawing.schedule, sampler) for sampler in SAMPLERS}
    ratios = {
        "ddpm1000_vs_dpm20": ("draw, ddpm", "draw, dpm++"),
        "ddpm1000_vs_ddim50": ("draw, ddpm", "draw, ddim"),
        "train_step_vs_bare": (STEP, BARE),
    }
    if PEER in values:
        ratios["train_step_vs_peer"] = (STEP, PEER)
    return Result(
        benchmark="diffusion",
        values=values,
        units=dict.fromkeys(values, "s"),
        ratios=ratios,
        settings={
            **{name: getattr(arguments, name) for name in ("images", "batch_size", "steps", "widths", "precision")},
            "image": f"{arguments.resolution}x{arguments.resolution}",
            **steps,
            **distances,
            **({} if PEER in values else {"peer": "denoising-diffusion-pytorch is not installed"}),
        },
    )


def _settings(folder: Path, arguments: argparse.Namespace, epochs: int) -> dict[str, Any]:
    """Return the settings of a training run of the model."""
    return {
        "data.dataset": "bench",
        "training.data_root": folder,
        "training.method": "cdpm",
        "training.epochs": epochs,
        "training.batch_size": arguments.batch_size,
        "training.optimizer": "adamw",
        "training.lr": 1e-3,
        "training.lr_scheduler": "cosine",
        "training.selection": "last",
        "training.precision": arguments.precision,
        "training.decoder_train": "resized",
        "training.decoder_val": "resized",
        "training.augment": "none",
        "training.ema": 0.995,
        "training.drop_last": "true",
        "resolution.val_res": arguments.resolution,
        "cdpm.widths": arguments.widths,
        "cdpm.steps": arguments.noise_steps,
        "cdpm.layers": 1,
        "cdpm.attention": 1,
        "logging.tensorboard": "false",
        "logging.progress": "off",
    }


def _trained(folder: Path, arguments: argparse.Namespace) -> Path:
    """Train a model of the digits and return its folder in `folder`."""
    from debeton.diffusion.model import IN_RUN
    from debeton.methods import METHODS

    with quiet_run(folder, _settings(folder, arguments, arguments.epochs)) as opened:
        METHODS.get("cdpm").run(opened)
        target = folder / "model"
        (opened.folder / IN_RUN).rename(target)
    return target


class Drawing:
    """A diffusion model that draws a fixed number of images, its conditions in turn.

    drawn: the last images by sampler.
    """

    def __init__(self, model: Path, arguments: argparse.Namespace):
        from debeton.diffusion.model import load_model, model_folder

        network, self.schedule, conditions = load_model(model_folder(model), DTYPES[arguments.precision])
        self.network = network.to(arguments.device).eval()
        self.condition = torch.arange(arguments.images, device=arguments.device) % len(conditions.cells)
        self.drawn: dict[str, Tensor] = {}

    def draw(self, sampler: str, first_seed: int = 0) -> Tensor:
        """Draw float32 [N, 3, H, W] in [-1, 1], image k from seed first_seed + k."""
        from debeton.diffusion.sampling import sample

        seeds = range(first_seed, first_seed + len(self.condition))
        parts = [
            sample(
                self.network,
                self.schedule,
                condition,
                seeds[k * DRAWN_AT_ONCE : (k + 1) * DRAWN_AT_ONCE],
                sampler=sampler,
                w=1.0,
            )
            for k, condition in enumerate(self.condition.split(DRAWN_AT_ONCE))
        ]
        return torch.cat(parts).cpu()

    def seconds(self, sampler: str) -> float:
        """Measure the seconds of drawing."""
        start = time.perf_counter()
        self.drawn[sampler] = self.draw(sampler)
        return time.perf_counter() - start

    def distances(self) -> dict[str, float]:
        """Compute the Frechet distance of each sampler's set to one that ddpm draws from other seeds.

        ddpm's own distance is the one that chance gives.
        """
        reference = _features(self.draw("ddpm", first_seed=10**6))
        return {
            f"distance_of_{sampler}": round(frechet_distance(_features(images), reference), 3)
            for sampler, images in self.drawn.items()
        }


def _steps(folder: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Return measurements of the seconds of a round's training steps: in the loop, bare, and of the peer."""
    from debeton.methods import METHODS
    from debeton.train.finish import timing_of

    steps, batch = arguments.steps, arguments.batch_size
    rows = 900 // batch * batch
    epochs = max(1, round(steps * batch / rows)) if rows else 1

    def loop() -> float:
        with quiet_run(folder, _settings(folder, arguments, epochs)) as opened:
            METHODS.get("cdpm").run(opened)
            return steps * batch / float(timing_of(opened)["train_images_per_second"])

    measurements = {STEP: loop, BARE: _bare(arguments)}
    peer = _peer(arguments)
    return measurements if peer is None else {**measurements, PEER: peer}


def _bare(arguments: argparse.Namespace) -> Callable[[], float]:
    """Return a measurement of the bare network's training steps."""
    from debeton.diffusion.model import Shape, make_network
    from debeton.methods.cdpm import parse_widths
    from debeton.nets.models import place_network

    seed_everything(0)
    device, side, batch = arguments.device, arguments.resolution, arguments.batch_size
    network = make_network(10, (side, side), Shape(parse_widths(arguments.widths), 1, 1))
    network = place_network(network, device, channels_last=device.type == "cuda")  # as in methods/cdpm.py
    noisy, target = (torch.randn(batch, 3, side, side, device=device) for _ in range(2))
    t, condition = torch.randint(1000, (batch,), device=device), torch.randint(10, (batch,), device=device)
    return _timed(network, lambda: functional.mse_loss(network(noisy, t, condition), target), arguments)


def _peer(arguments: argparse.Namespace) -> Callable[[], float] | None:
    """Return a measurement of denoising-diffusion-pytorch, or None without that package.

    Its class-conditional network has these widths and its own loss.
    """
    if not importlib.util.find_spec("denoising_diffusion_pytorch"):
        return None
    package = importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    from debeton.methods.cdpm import parse_widths

    seed_everything(0)
    device, widths = arguments.device, parse_widths(arguments.widths)
    network = package.Unet(
        dim=widths[0], dim_mults=tuple(width // widths[0] for width in widths), num_classes=10, cond_drop_prob=0.1
    )
    diffusion = package.GaussianDiffusion(network, image_size=arguments.resolution, timesteps=1000).to(device)
    images = torch.rand(arguments.batch_size, 3, arguments.resolution, arguments.resolution, device=device)
    classes = torch.randint(10, (arguments.batch_size,), device=device)
    return _timed(diffusion, lambda: diffusion(images, classes=classes), arguments)


def _timed(network: nn.Module, loss: Callable[[], Tensor], arguments: argparse.Namespace) -> Callable[[], float]:
    """Return a measurement: seconds of a round's steps of AdamW on this loss.

    AdamW is fused on a GPU, as in the loop.
    """
    on_gpu, dtype = arguments.device.type == "cuda", DTYPES[arguments.precision]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=on_gpu or None)

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(arguments.steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(arguments.device.type, dtype, enabled=dtype != torch.float32):
                value = loss()
            value.backward()
            optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return measure


def _features(images: Tensor) -> Floats:
    """Compute projected features of images in [-1, 1], float64 [N, FEATURES]."""
    from debeton.nets.models import make_model, named_head

    network = make_model("efficientnet_lite0", 1000, pretrained=True).eval()
    head_inputs: list[Tensor] = []
    hook = named_head(network)[1].register_forward_pre_hook(lambda module, inputs: head_inputs.append(inputs[0]))
    with torch.inference_mode():
        for part in images.split(100):
            network(functional.interpolate(part, (SIDE, SIDE), mode="bilinear"))
    hook.remove()
    features = torch.cat(head_inputs).double().numpy()
    projection = make_rng("benchmark diffusion").standard_normal((features.shape[1], FEATURES))
    projected: Floats = features @ (projection / np.sqrt(features.shape[1]))
    return projected


def frechet_distance(a: Floats, b: Floats) -> float:
    """Compute the Frechet distance of two sets of features [N, D] (Heusel et al. 2017, eq. 6).

    For normal distributions with the sets' moments it is |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2).
    """
    from scipy.linalg import sqrtm

    means = a.mean(0) - b.mean(0)
    left, right = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(left @ right))
    return float(means @ means + np.trace(left + right - 2 * root))
