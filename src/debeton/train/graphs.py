"""CUDA graphs: replay a network that is so small that launching its kernels takes longer than running them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from debeton.system.log import logger

AFTER = 3  # calls with one signature before it is captured: a last partial batch and lazy set-up stay out
AT_MOST = 4  # graphs of a network, one for each signature; each keeps the memory of its activations


class Graphed(nn.Module):
    """A model whose training forward pass is replayed when its arguments have a signature that was seen before.

    A signature is the shapes, strides and number formats of the arguments, and the autocast setting. Other calls, and
    calls without gradients, run the model itself.

    Replays share one set of activations. The gradients of a call must be computed before the next call; an objective
    promises this with `calls_once`. Capturing runs the model a few times on the current batch, and then restores its
    buffers (batch-norm statistics) and the random state. The parameters must keep their memory addresses; optimizers
    and load_state_dict do so.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._calls: dict[Any, int] = {}
        self._replays: dict[Any, nn.Module] = {}

    def forward(self, *tensors: Tensor) -> Any:
        if not (self.model.training and torch.is_grad_enabled() and all(t.is_cuda for t in tensors)):
            return self.model(*tensors)
        signature = (_autocast(), *((t.shape, t.stride(), t.dtype) for t in tensors))
        replay = self._replays.get(signature)
        if replay is None:
            self._calls[signature] = self._calls.get(signature, 0) + 1
            if self._calls[signature] <= AFTER or len(self._replays) >= AT_MOST:
                return self.model(*tensors)
            replay = self._replays[signature] = self._capture(tensors)
        return replay(*tensors)

    def _capture(self, tensors: tuple[Tensor, ...]) -> nn.Module:
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        random = torch.cuda.get_rng_state()
        enabled, dtype = _autocast()
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):  # casts belong into the graph
            replay = torch.cuda.make_graphed_callables(
                _Call(self.model), tuple(t.detach().clone() for t in tensors), allow_unused_input=True
            )
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.cuda.set_rng_state(random)
        logger.debug("a CUDA graph of %s was captured", type(self.model).__name__)
        assert isinstance(replay, nn.Module)
        return replay


class _Call(nn.Module):
    """A wrapper around the model. Capturing replaces the forward of this wrapper, not the model's."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> Any:
        return self.model(*tensors)


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


def reason_against_graph(
    *, on_gpu: bool, processes: int, compiled: bool, calls_once: bool, in_parts: bool = False
) -> str:
    """Return the reason why a phase's network is not replayed as a graph; '' if it is."""
    if not on_gpu:
        return "there are none on a CPU"
    if processes > 1:
        return "several processes average gradients while they are computed"
    if compiled:
        return "training.compile is on"
    if in_parts:
        return "training.accumulate calls the network once for each part of a batch, before the first gradient"
    return "" if calls_once else "its objective calls the network more than once a step"


def graphed(model: nn.Module, phase: str, **conditions: bool | int) -> nn.Module:
    """Return the network of a phase, replayed as CUDA graphs if nothing forbids it. Log the reason if something does.

    conditions: the arguments of `reason_against_graph`.
    """
    reason = reason_against_graph(**conditions)  # type: ignore[arg-type]
    if reason:
        logger.info("phase '%s' uses no CUDA graph: %s", phase, reason)
    return model if reason else Graphed(model)
