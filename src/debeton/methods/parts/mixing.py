"""Gradient mixing of SCALE: the mappings from cosine to weight, and the mixer for a device.

SCALE ("Spurious Correlation via Auxiliary LEarning"): in each group k of a network's parameters
d_k = phi(cos(g_train_k, g_target_k)) g_train_k + g_target_k. `mixing_cpu` and `mixing_cuda` do this in place, in a few
kernels for all tensors. `mixing_layout` says which elements of a tensor form a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from debeton.methods.parts.mixing_layout import kernels_per_group, layout_of
from debeton.system.registry import Registry

# The values are the mappings' numbers in the kernels, in SCALE's order (its --regularize_mode).
MAPPINGS: Registry[int] = Registry("scale.mapping")
MAPPINGS.add("linear", 0, "(c + 1) / 2")
MAPPINGS.add("relu", 1, "max(c, 0)")
MAPPINGS.add("identity", 2, "c: opposed train gradients are subtracted")
MAPPINGS.add("step", 3, "1 if c > 0, else 0")


class Mixer(Protocol):
    """A mixer for the gradients of a given list of parameters."""

    def __call__(self, train: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Set target = scale (phi(c_k) train + target) in place, in each group k.

        Return the mean cosine c_k of each tensor's groups, float64 [T]. A norm below 1e-8 counts as 1e-8, so a zero
        gradient has cosine 0.

        train, target: float32, each gradient laid out as its parameter.
        """
        ...


def make_mixer(parameters: Sequence[Tensor], group_size: int, mapping: str, scale: float) -> Mixer:
    """Return the mixer for the device of these parameters.

    group_size: convolution kernels of a group; 0 for whole tensors.
    mapping: phi, a name in MAPPINGS.
    scale: 1 for the sum of both gradients, 1/2 for their mean.
    """
    layouts = [layout_of(parameter) for parameter in parameters]
    groups = [kernels_per_group(parameter.shape, group_size) for parameter in parameters]
    if parameters[0].is_cuda:
        from debeton.methods.parts.mixing_cuda import CudaMixer

        return CudaMixer(layouts, groups, MAPPINGS.get(mapping), scale, parameters[0].device)
    from debeton.methods.parts.mixing_cpu import CpuMixer  # numba: a second to import, that only SCALE needs

    return CpuMixer(layouts, groups, MAPPINGS.get(mapping), scale)
