"""Weights and statistics that are numbers: a network that diverged, or a damaged one, has NaN or infinity there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from debeton.system.errors import DataError


def weights_and_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, and the running statistics of normalisation layers.

    Other buffers are left out: a mask of attention may hold -infinity.
    """
    statistics = {
        name: value for name, value in module.named_buffers() if name.rpartition(".")[2].startswith("running_")
    }
    return {**dict(module.named_parameters()), **statistics}


@torch.no_grad()
def all_finite(*tensors: Tensor) -> bool:
    """Return whether every number of the tensors is finite. One pass, one wait for a GPU, and no copy.

    tensors: of any shapes and dtypes; only those of floating point are looked at.
    """
    values = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    # A norm shows any NaN and infinity. That of numbers above 1e19 overflows as well, so each is asked then.
    return math.isfinite(get_total_norm(values).item()) or all(bool(value.isfinite().all()) for value in values)


@torch.no_grad()
def describe_non_finite(named: Mapping[str, Tensor]) -> str:
    """Return which tensors hold NaN or infinity: their number, and the first one's name and values; '' for none."""
    if all_finite(*named.values()):
        return ""
    broken = {name: value for name, value in named.items() if not all_finite(value)}
    name, value = next(iter(broken.items()))
    values = value.flatten()
    wrong = values[~values.isfinite()]
    return (
        f"{len(broken)} of {len(named)} weights and statistics hold values that are not finite, first '{name}' with "
        f"{float(wrong[0])} in {len(wrong)} of {len(values)}"
    )


def check_finite(module: nn.Module, where: str) -> None:
    """Raise DataError if a weight or statistic of a network is not finite.

    where: names the network's file or source, as the beginning of the message.
    """
    if found := describe_non_finite(weights_and_statistics(module)):
        raise DataError(f"{where}: {found}; its training diverged, or the file is damaged; take another one")
