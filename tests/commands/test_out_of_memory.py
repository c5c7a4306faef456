"""A command that needs more memory than there is: one sentence, and status 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from debeton.system.errors import run_command

GPU = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.2 GiB is free."
)


def of_torch():
    torch.empty(1 << 60, dtype=torch.uint8)


def of_numpy():
    np.empty(1 << 60, np.uint8)


def of_python():
    bytearray(1 << 62)


def of_a_gpu():
    raise torch.OutOfMemoryError(GPU)


@pytest.mark.parametrize(
    ("command", "start"),
    [
        (of_torch, "error: the memory of this machine is used up: 1,073,741,824.00 GiB more did not fit; take"),
        (of_numpy, "error: the memory of this machine is used up: 1.00 EiB more did not fit; take smaller batches"),
        (of_python, "error: the memory of this machine is used up; take smaller batches (--training.batch_size"),
        (of_a_gpu, "error: the memory of the GPU is used up: 2.50 GiB more did not fit; take smaller batches"),
    ],
)
def test_it_ends_with_one_sentence(command, start, capfd):
    assert run_command(command) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(start)
    assert "--training.accumulate" in lines[0]


def test_another_error_of_torch_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_command(lambda: torch.ones(2) + torch.ones(3))
