"""Several processes as one: started by torchrun, a single process otherwise. No other module asks torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from debeton.system.errors import UsageError


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def pick_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:K; each process of a node gets its own GPU."""
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
    return device


@contextmanager
def process_group(backend: str, device: torch.device) -> Iterator[None]:
    """Join the other processes when torchrun started us; leave them at the end."""
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
    """The tensor added up over all processes, in place; itself in a single process."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def max_over_processes(tensor: Tensor) -> Tensor:
    """The elementwise maximum over all processes, in place; itself in a single process."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def gather_rows(values: Tensor, share: float) -> Tensor:
    """Values [b, ...] of this process's rows of a batch among those of all processes, [B, ...], in the batch's order.

    Row i of process r is row i P + r of the batch (P processes, `data/loader.py`); share is `Batch.share`. One sum,
    exact in the dtype of the values; themselves in a single process.
    """
    if world_size() == 1:
        return values
    whole = values.new_zeros(round(len(values) * world_size() / share), *values.shape[1:])
    whole[rank() :: world_size()] = values
    return sum_over_processes(whole)


def average(tensors: Sequence[Tensor]) -> None:
    """The mean over processes of tensors of one kind, such as gradients that DDP does not see, in place and in one go;
    nothing to do in a single process."""
    if dist.is_initialized() and tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        flat /= world_size()
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view(tensor.shape))


def from_main(value: str) -> str:
    """The main process's value, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def sync_buffers(model: nn.Module) -> None:
    """Give every process the main process's buffers (batch-norm statistics), so that all evaluate one network."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def parallel(model: nn.Module, device: torch.device, *, sync_bn: bool, average_gradients: bool = True) -> nn.Module:
    """The model under DDP; itself in a single process, without anything to train, or where the caller averages."""
    if not dist.is_initialized() or not any(p.requires_grad for p in model.parameters()):
        return model
    if sync_bn and device.type == "cpu":
        raise UsageError("dist.sync_bn needs GPUs, and this run is on a CPU; leave it out")
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not average_gradients:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
