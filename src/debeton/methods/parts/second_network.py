"""A second network beside the model, for methods that train two at once."""

from __future__ import annotations

from torch import nn

from debeton.nets.models import place_network
from debeton.nets.transfer import configured_network
from debeton.system.errors import UsageError
from debeton.train.run import Run


def second_network(run: Run) -> nn.Module:
    """Return a network of the model's architecture with its own weights. Call it after the model is made.

    The draws of its weights continue those of the model's: the same seed gives another network, as in the code of LfF
    and DebiAN.
    """
    config = run.config
    network = configured_network(config, run.views["train"].spec.num_classes, blurpool=False)
    return place_network(network, run.device, channels_last=config.training.channels_last)


def check_plain_losses(run: Run) -> None:
    """Raise UsageError for label smoothing, under which the losses of two networks cannot be compared."""
    smoothing = run.config.training.label_smoothing
    if smoothing:
        raise UsageError(
            f"training.label_smoothing is {smoothing}, and {run.config.training.method} compares the plain losses of "
            "two networks; use --training.label_smoothing 0"
        )
