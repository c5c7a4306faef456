"""A run that is asked to stop: signals, and the exception that ends it with everything saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from debeton.system import distributed


class Preempted(BaseException):
    """The run was asked to stop, and has saved itself. `signum` is the signal; the same command resumes."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """Notes SIGTERM and SIGUSR1 (SLURM's warning before the time limit), so that the loop can save and leave."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals inside the context. Only a process's main thread may; elsewhere this does nothing."""

        def note(signum: int, frame: object) -> None:
            self.signum = signum

        try:
            before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGUSR1)}
        except ValueError:
            before = {}
        try:
            yield self
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def agreed(self, step: int, every: int, device: torch.device) -> int:
        """The signal that any process got, or 0. Several processes ask each other every `every` steps."""
        if distributed.world_size() == 1:
            return self.signum
        if step % every:
            return 0
        return int(distributed.max_over_processes(torch.tensor(self.signum, device=device)).item())
