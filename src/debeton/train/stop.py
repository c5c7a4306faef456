"""A run that is asked to stop: signals, and the exception that ends it with everything saved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from debeton.system import distributed

LATER = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends the second one before the time limit
# torchrun passes a Ctrl-C on to its processes, which a terminal may have sent the same one: it counts once.
SAME_PRESS = 2.0  # seconds, with several processes


class Preempted(BaseException):
    """The exception of a run that was asked to stop and has saved itself. The same command resumes it.

    signum: the signal.
    saved: the run stopped after a training step, and saved that step. False: it stopped at once, between two saves.
    together: all processes leave at the same point, so that they may still wait for each other.
    during: the work after training in which the run stopped, such as 'the final evaluation'; '' for training itself.
    """

    def __init__(self, signum: int, *, saved: bool = True, together: bool = False, during: str = ""):
        super().__init__(signum)
        self.signum, self.saved, self.together, self.during = signum, saved, together, during


class StopRequest:
    """A note of the signal that asked for a stop: SIGTERM, SIGUSR1, or SIGINT, which is Ctrl-C.

    The loop looks at the note after each step, saves and leaves. An evaluation looks at it after each batch and leaves.
    Ctrl-C outside of training steps ends the work at once: an evaluation, features or images that are being computed
    have nothing half done worth saving. A second Ctrl-C ends the process at once.

    signum: the signal, or 0.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._in_steps = False
        self._pressed_at = 0.0

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch the signals inside the context. In a thread other than the main one this does nothing."""
        handlers = {**dict.fromkeys(LATER, self._note), signal.SIGINT: self._interrupt}
        try:
            before = {s: signal.signal(s, handler) for s, handler in handlers.items()}
        except ValueError:
            before = {}
        try:
            yield self
        finally:
            for s, earlier in before.items():
                signal.signal(s, earlier)

    @contextmanager
    def in_steps(self) -> Iterator[None]:
        """Let Ctrl-C wait, inside the context, for the end of the training step, which is then saved."""
        self._in_steps = True
        try:
            yield
        finally:
            self._in_steps = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Note the first Ctrl-C, or end the work at once outside of training steps; end the process at the second."""
        now = time.monotonic()
        if self.signum == signal.SIGINT:
            if int(os.environ.get("WORLD_SIZE", 1)) > 1 and now - self._pressed_at < SAME_PRESS:
                return
            _tell("ended at once; the same command resumes from what was saved last")
            os._exit(128 + signum)
        self.signum, self._pressed_at = signum, now
        if not self._in_steps:
            raise Preempted(signum, saved=False)
        _tell("Ctrl-C: saving after this step, and then leaving; a second Ctrl-C ends at once and saves nothing")

    def agreed(self, step: int, every: int, device: torch.device) -> int:
        """Return the signal that any process got, or 0. Several processes ask each other every `every` steps.

        On CPUs they ask in every step: the question costs little beside such a step, and torchrun does not wait long.
        """
        if distributed.world_size() == 1:
            return self.signum
        if device.type != "cpu" and step % every:
            return 0
        return int(distributed.max_over_processes(torch.tensor(self.signum, device=device)).item())


def name_of(signum: int) -> str:
    """Return a signal as messages name it: 'Ctrl-C', 'SIGTERM'."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def _tell(text: str) -> None:
    """Write a line to standard error from a signal handler, where the logger may hold its lock."""
    if int(os.environ.get("RANK", 0)) == 0:
        os.write(2, f"\n{text}\n".encode())
