"""A run that is asked to stop: signals, and the exception that ends it with everything saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from debeton.system import distributed


class Preempted(BaseException):
    """The exception of a run that was asked to stop and has saved itself. The same command resumes it.

    signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """A note of the signal that asked for a stop: SIGTERM, or SIGUSR1 (SLURM's warning before the time limit).

    The loop looks at the note after each step, saves and leaves. signum: the signal, or 0.
    """

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals inside the context. In a thread other than the main one this does nothing."""

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
        """Return the signal that any process got, or 0. Several processes ask each other every `every` steps."""
        if distributed.world_size() == 1:
            return self.signum
        if step % every:
            return 0
        return int(distributed.max_over_processes(torch.tensor(self.signum, device=device)).item())
