"""Replay a network as one CUDA graph: for networks so small that launching their kernels costs more than running it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from debeton.system.log import logger

AFTER = 3  # calls of one form before it is captured, so that a last partial batch and lazy set-up stay out
AT_MOST = 4  # graphs of a network, one for each form of its arguments; each keeps its activations' memory


class Graphed(nn.Module):
    """forward(*tensors) of `model` in training, replayed where its arguments have a form that was seen before.

    A form is the shapes, layouts and formats of the arguments and the autocast setting; other forms, and calls without
    gradients, run the model itself. Replays share one set of activations: gradients of a call must be taken before the
    next call, which an objective promises with `calls_once`. Capturing runs the model on the batch at hand a few times;
    its buffers (batch-norm statistics) and the random state are put back. The parameters must stay where they are, as
    optimizers and load_state_dict leave them.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._calls: dict[Any, int] = {}
        self._replays: dict[Any, nn.Module] = {}

    def forward(self, *tensors: Tensor) -> Any:
        if not (self.model.training and torch.is_grad_enabled() and all(t.is_cuda for t in tensors)):
            return self.model(*tensors)
        form = (_autocast(), *((t.shape, t.stride(), t.dtype) for t in tensors))
        replay = self._replays.get(form)
        if replay is None:
            self._calls[form] = self._calls.get(form, 0) + 1
            if self._calls[form] <= AFTER or len(self._replays) >= AT_MOST:
                return self.model(*tensors)
            replay = self._replays[form] = self._capture(tensors)
        return replay(*tensors)

    def _capture(self, tensors: tuple[Tensor, ...]) -> nn.Module:
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        random = torch.cuda.get_rng_state()
        enabled, dtype = _autocast()
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):  # casts belong into the graph
            found = torch.cuda.make_graphed_callables(
                _Call(self.model), tuple(t.detach().clone() for t in tensors), allow_unused_input=True
            )
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.cuda.set_rng_state(random)
        logger.debug("a CUDA graph of %s was captured", type(self.model).__name__)
        assert isinstance(found, nn.Module)
        return found


class _Call(nn.Module):
    """Capturing replaces a module's forward; this one's, not the model's."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> Any:
        return self.model(*tensors)


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


def why_not_graphed(*, on_gpu: bool, processes: int, compiled: bool, calls_once: bool) -> str:
    """Why a phase's network is not replayed as a graph; '' where it is."""
    if not on_gpu:
        return "there are none on a CPU"
    if processes > 1:
        return "several processes average gradients while they are computed"
    if compiled:
        return "training.compile is on"
    return "" if calls_once else "its objective calls the network more than once a step"


def graphed(model: nn.Module, phase: str, **conditions: bool | int) -> nn.Module:
    """The network of a phase as CUDA graphs, or as it is where `why_not_graphed(**conditions)` has a reason, which is
    logged."""
    reason = why_not_graphed(**conditions)  # type: ignore[arg-type]
    if reason:
        logger.info("phase '%s' uses no CUDA graph: %s", phase, reason)
    return model if reason else Graphed(model)
