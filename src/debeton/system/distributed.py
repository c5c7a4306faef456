"""Several processes that act as one, started by torchrun; else a single process.

No other module calls torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from debeton.system.cores import cores_of_process
from debeton.system.errors import DataError, UsageError
from debeton.system.memory import keep_freed_memory


def rank() -> int:
    """Return the number of this process, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process is the one that writes files and prints."""
    return rank() == 0


def pick_device(name: str) -> torch.device:
    """Return the device called auto, cpu, cuda or cuda:K. Each process of a node gets its own GPU.

    torch also gets no more threads than this process has cores. By itself it does not know of quotas, and threads
    beyond a quota hold up the others. OMP_NUM_THREADS wins where it is set. On a CPU the process keeps freed memory.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cores_of_process()))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'; known: auto, cpu, cuda, cuda:K") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device '{name}' was asked for, but torch sees no GPU; use --training.device cpu")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    return device


@contextmanager
def process_group(backend: str, device: torch.device) -> Iterator[None]:
    """Join the other processes if torchrun started this one, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up the tensor over all processes, in place. A single process returns it unchanged."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def max_over_processes(tensor: Tensor) -> Tensor:
    """Compute the elementwise maximum over all processes, in place. A single process returns the tensor unchanged."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def stack_over_processes(values: Tensor) -> Tensor:
    """Return the values of all processes, [P, ...], in the sequence of the processes.

    One sum gathers the values, and it is exact.

    values: [...], of one shape in all processes.
    """
    stacked = values.new_zeros(world_size(), *values.shape)
    stacked[rank()] = values
    return sum_over_processes(stacked)


def gather_rows(values: Tensor, share: float) -> Tensor:
    """Return the values of all processes for the rows of a batch, [B, ...], in the sequence of the batch.

    values: [b, ...], of this process's rows.
    share: `Batch.share`.
    Row i of process r is row i P + r of the batch, with P processes (`data/loader/loader.py`). One sum gathers the
    rows, and it is exact in the dtype of the values. A single process returns its values unchanged.
    """
    processes = world_size()
    if processes == 1:
        return values
    rows = round(len(values) * processes / share) if share else 0
    if rows < processes:  # a process without rows cannot know their number
        rows = int(max_over_processes(torch.tensor(rows, device=values.device)).item())
    whole = values.new_zeros(rows, *values.shape[1:])
    whole[rank() :: processes] = values
    return sum_over_processes(whole)


def average(tensors: Sequence[Tensor]) -> None:
    """Average tensors of one dtype and device over the processes, in place and by one sum.

    For example gradients that DDP does not see. A single process does nothing.
    """
    if dist.is_initialized() and tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        flat /= world_size()
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view(tensor.shape))


def from_main(value: str) -> str:
    """Return the main process's value, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def raise_together(problem: str) -> None:
    """Raise DataError in all processes if one of them has a problem. All processes must call this.

    Else the others would wait for ever for the one that ended. The message is that of the first process with one.

    problem: the problem of this process in a sentence, or ''.
    """
    if dist.is_initialized():
        problems: list[str] = [""] * world_size()
        dist.all_gather_object(problems, problem)
        problem = next(filter(None, problems), "")
    if problem:
        raise DataError(problem)


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def sync_buffers(model: nn.Module) -> None:
    """Copy the main process's buffers to every process, so that all evaluate the same network.

    Buffers are, for example, the statistics of batch norm.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def parallel(model: nn.Module, device: torch.device, *, average_gradients: bool = True) -> nn.Module:
    """Return the model under DDP.

    The model itself is returned in a single process, without parameters to train, or if the caller averages gradients.
    average_gradients: False if the caller averages gradients itself.
    """
    if not (dist.is_initialized() and average_gradients and any(p.requires_grad for p in model.parameters())):
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
