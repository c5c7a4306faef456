"""delivery.py: the memory of batches is used again, but not while anything refers to it."""

from __future__ import annotations

import gc

import numpy as np
import torch

from debeton.data.beton.reading import open_beton
from debeton.data.loader.delivery import BatchMemory
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View


def test_memory_is_used_again_once_its_batch_is_gone() -> None:
    memory = BatchMemory(12)
    address = memory.empty((2, 6)).ctypes.data
    assert memory.empty((12,)).ctypes.data == address


def test_a_smaller_last_batch_fits_the_same_memory() -> None:
    memory = BatchMemory(12)
    address = memory.empty((2, 6)).ctypes.data
    last = memory.empty((1, 6))
    assert (last.shape, last.ctypes.data) == ((1, 6), address)


def test_any_view_of_a_batch_keeps_its_memory() -> None:
    keep = {
        "array": lambda a: a,
        "reversed array": lambda a: a[::-1],
        "other dtype": lambda a: a.view(np.int32),
        "tensor": torch.from_numpy,
        "row of a tensor": lambda a: torch.from_numpy(a).permute(1, 0)[2],
        "array of a view of a tensor": lambda a: torch.from_numpy(a).detach()[:1].numpy()[0],
        "storage": lambda a: torch.from_numpy(a).untyped_storage(),
    }
    for name, view in keep.items():
        memory = BatchMemory(12)
        array = memory.empty((2, 6))
        address = array.ctypes.data
        kept = view(array)
        del array
        gc.collect()
        assert memory.empty((12,)).ctypes.data != address, name
        del kept
        gc.collect()
        assert address in {memory.empty((12,)).ctypes.data, memory.empty((12,)).ctypes.data}, name


def test_memory_outlives_the_pool_that_gave_it() -> None:
    memory = BatchMemory(4)
    tensor = torch.from_numpy(memory.empty((4,)))
    tensor.copy_(torch.arange(4.0))
    del memory
    gc.collect()
    assert tensor.tolist() == [0, 1, 2, 3]


def test_the_memory_of_batches_is_kept_from_epoch_to_epoch_while_their_size_stays(toy_betons):
    options = LoaderOptions(decoder="resized", resolution=16)
    loader = make_loader(View.whole(open_beton(toy_betons / "toy_train.beton")), 100, options=options)
    memory = []
    for loader.resolution in (16, 16, 24):
        for _ in loader:
            pass
        memory.append(loader._memory)
    assert memory[0] is memory[1]
    assert [each.num_values for each in memory] == [100 * 3 * side**2 for side in (16, 16, 24)]
    assert memory[0]._free
