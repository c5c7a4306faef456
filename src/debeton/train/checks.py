"""Checks before the first phase: whatever a later phase or the final evaluation would refuse is refused now."""

from __future__ import annotations

import torch
from torch import nn

from debeton.config import Config, PhaseSettings, phase_settings
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.views.splits import evaluated
from debeton.data.views.view import View
from debeton.nets.models import architecture, evaluating
from debeton.system.errors import UsageError
from debeton.train.planting import evaluation_triggers
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
from debeton.train.schedule_checks import check_settings
from debeton.train.training import train_options


def check_classifier(run: Run) -> None:
    """Check what the training and the final evaluation of the configured network need.

    The network is built with its published weights or those of model.checkpoint, and dropped. So weights that cannot be
    had, and a checkpoint of another network, are errors before hours of an earlier phase.

    UsageError or DataError: as the phase itself would raise it.
    """
    model, training = run.network(), phase_settings(run.config)
    loaders = [check_phase(run, run.views["train"], training)]
    evaluation_triggers(run.config)
    loaders += [eval_loader(run.views[split], run.config, run.device) for split in evaluated(run.views)]
    for size in sorted({loader.image_size for loader in loaders} | ramp_sizes(run.config)):
        check_size(model, run.config.model.arch, size, run.device)


def ramp_sizes(config: Config) -> set[tuple[int, int]]:
    """Return the first and the last size of a training resolution that rises."""
    ramp = config.resolution
    return {(ramp.min_res,) * 2, (ramp.max_res,) * 2} if ramp.prog_resizing else set()


def check_size(model: nn.Module, arch: str, size: tuple[int, int], device: torch.device) -> None:
    """Raise UsageError if a network does not take images of this size: two black images go through it.

    size: height and width in pixels.
    """
    height, width = size
    known = architecture(arch)
    if known.multiple and (height % known.multiple or width % known.multiple):
        raise UsageError(
            f"model.arch {arch} takes {known.sizes}, and images have {height} x {width}; set --resolution.val_res"
        )
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    try:
        with evaluating(model), torch.inference_mode():
            logits = model(torch.zeros(2, 3, height, width, device=device, dtype=dtype))
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
            form = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise UsageError(f"model.arch {arch} returns {form} for two images; expected logits [2, number of classes]")
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        made = f"; it takes {known.sizes}" if known.sizes else ""
        made += f"; its weights are made for {known.size} pixels" if known.size and not known.sizes else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(
            f"model.arch {arch} does not take images of {height} x {width} pixels ({reason}){made}; set the side with "
            "--resolution.val_res and decoders that resize (decoder 'simple' keeps the stored size)"
        ) from None


def check_phase(run: Run, view: View, training: PhaseSettings) -> Loader:
    """Return the loader of a view's training batches; it checks the decoder and the augmentation of a phase.

    view: the training rows, or other rows of the same data set where those of the phase are not there yet.
    training: settings of the phase.
    """
    check_settings(training)
    return make_loader(view, min(training.batch_size, len(view)), options=train_options(run, training))
