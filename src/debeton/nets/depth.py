"""Depth of each parameter in blocks, for learning rates that fall from the head to the stem.

The convention is that of timm's `layer_decay`: the stem has depth 0, each block one more than the block before, and the
head one more than the last block. Layers between two blocks, such as a reduction of the resolution, belong to the block
after them, and a last norm to the last block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from debeton.nets.models import named_head

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WEIGHTS_OF_A_BLOCK = 2  # convolutions and linear layers; a module with fewer is a stem, a norm or a projection


@dataclass(frozen=True)
class Piece:
    """A part of a network that is not divided further: a module, or parameters beside modules.

    parameters: its trainable and frozen parameters.
    is_block: it counts as a step of the depth.
    """

    parameters: tuple[nn.Parameter, ...]
    is_block: bool


def parameter_depths(network: nn.Module) -> Mapping[nn.Parameter, int]:
    """Return the depth of every parameter of a network. Those of the head have the largest.

    Blocks are the modules that a network repeats: residual blocks, transformer layers, inception modules. A network
    without such modules (VGG, for example) has a block for each convolution and linear layer after the first.
    """
    head = tuple(named_head(network)[1].parameters())
    of_head = {id(p) for p in head}
    stacked = _contains_stack(network)
    if not stacked:
        network = _without_wrappers(network)
    pieces = [piece for piece in _pieces(network, stacked) if not all(id(p) in of_head for p in piece.parameters)]
    blocks = [k for k, piece in enumerate(pieces) if piece.is_block]
    depths: dict[nn.Parameter, int] = {}
    for k, piece in enumerate(pieces):
        begun = sum(block <= k for block in blocks)
        if stacked:
            finished = begun - piece.is_block
            depth = 0 if begun == 0 else min(finished + 1, len(blocks))
        else:  # the first layer is the stem, and a norm belongs to the layer before it
            depth = max(begun - 1, 0)
        depths |= dict.fromkeys(piece.parameters, depth)
    return depths | dict.fromkeys(head, len(blocks) + stacked)


def _pieces(module: nn.Module, stacked: bool) -> Iterator[Piece]:
    """Yield the pieces of a network in the sequence of its definition.

    stacked: the network repeats modules, which are its blocks; else every layer with weights is one.
    """
    own = tuple(module.parameters(recurse=False))
    if own:
        yield Piece(own, False)
    for child in module.children():
        if _contains_stack(child) if stacked else isinstance(child, CONTAINERS):
            yield from _pieces(child, stacked)
        elif next(child.parameters(), None) is not None:
            yield Piece(tuple(child.parameters()), _is_block(child) if stacked else bool(_weights(child)))


def _without_wrappers(network: nn.Module) -> nn.Module:
    """Return the network in a module that holds nothing else."""
    children = list(network.children())
    alone = len(children) == 1 and not any(True for _ in network.parameters(recurse=False))
    return _without_wrappers(children[0]) if alone and any(True for _ in children[0].children()) else network


def _contains_stack(module: nn.Module) -> bool:
    """Return whether two blocks of one class follow each other in a container within the module, or in itself."""
    return any(isinstance(one, CONTAINERS) and _is_stack(one) for one in module.modules())


def _is_stack(container: nn.Module) -> bool:
    classes = [type(child) for child in container.children() if _is_block(child) and not isinstance(child, CONTAINERS)]
    return len(classes) > len(set(classes))


def _is_block(module: nn.Module) -> bool:
    return len(_weights(module)) >= WEIGHTS_OF_A_BLOCK


def _weights(module: nn.Module) -> list[nn.Module]:
    """Return the convolutions and linear layers of a module, and the attention layers, which have weights like them."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    return [one for one in module.modules() if isinstance(one, kinds)]
