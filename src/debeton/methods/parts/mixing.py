"""What gradients are mixed by: parameter groups, where their elements lie in memory, and how the work is cut up.

SCALE ("Spurious Correlation via Auxiliary LEarning"): in each group k of a network's parameters
d_k = phi(cos(g_train_k, g_target_k)) g_train_k + g_target_k. `_mixing_cpu` and `_mixing_cuda` do this in place, in a
few kernels for all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from debeton.methods.parts.mixing_layout import kernels_per_group, layout_of
from debeton.system.registry import Registry

# The values are numbers in the kernels, in SCALE's order (its --regularize_mode).
MAPPINGS: Registry[int] = Registry("scale.mapping")
MAPPINGS.add("linear", 0, "(c + 1) / 2")
MAPPINGS.add("relu", 1, "max(c, 0)")
MAPPINGS.add("identity", 2, "c: opposed train gradients are subtracted")
MAPPINGS.add("step", 3, "1 if c > 0, else 0")


class Mixer(Protocol):
    """Mixes the gradients of one list of parameters."""

    def __call__(self, train: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """target = scale (phi(c_k) train + target) in place, in every group k.

        Both float32, laid out as the parameters are. Returns float64 [T], the mean cosine c_k of each tensor's groups;
        a norm below 1e-8 counts as that, so a zero gradient has cosine 0.
        """
        ...


def make_mixer(parameters: Sequence[Tensor], group_size: int, mapping: str, scale: float) -> Mixer:
    """The mixer for these parameters' device. scale: 1 for the sum of both gradients, 1/2 for their mean."""
    layouts = [layout_of(parameter) for parameter in parameters]
    groups = [kernels_per_group(parameter.shape, group_size) for parameter in parameters]
    if parameters[0].is_cuda:
        from debeton.methods.parts.mixing_cuda import CudaMixer

        return CudaMixer(layouts, groups, MAPPINGS.get(mapping), scale, parameters[0].device)
    from debeton.methods.parts.mixing_cpu import CpuMixer  # numba: a second that only SCALE pays

    return CpuMixer(layouts, groups, MAPPINGS.get(mapping), scale)
