"""Learning rates by layer: the factor of each parameter's rate, from the depth of its block and for the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from debeton.nets.depth import parameter_depths


def lr_factors(
    networks: Iterable[nn.Module], *, head_lr_factor: float, layer_decay: float | None
) -> Mapping[nn.Parameter, float] | None:
    """Return the factor of the learning rate of each parameter; None where all are 1.

    A parameter of depth d has layer_decay ** (D - d), where the head has depth D (`nets/depth.py`). The parameters of
    the head have head_lr_factor.

    networks: those that the optimizer trains, each with a head.
    """
    if head_lr_factor == 1 and layer_decay is None:
        return None
    factors: dict[nn.Parameter, float] = {}
    for network in networks:
        depths = parameter_depths(network)
        top = max(depths.values())
        for parameter, depth in depths.items():
            factors[parameter] = head_lr_factor if depth == top else (layer_decay or 1.0) ** (top - depth)
    return factors
