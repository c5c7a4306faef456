"""One fault: the table of faults, and a trial that a fault survives or loses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.faults.workspace import Workspace


class Lost(AssertionError):
    """A trial after which something is lost, wrong in silence, or ended without one sentence."""


class LeftOut(Exception):
    """A fault that this machine cannot try, with the reason."""


@dataclass
class Fault:
    """A kind of fault, and its trials so far.

    name: short name, for the table.
    trial: tries the fault once in a workspace. It raises Lost, or LeftOut where it cannot be tried.
    tried, lost: trials, and the reasons of those that lost something.
    left_out: why the fault is not tried here; empty if it is.
    """

    name: str
    trial: Callable[[Workspace, np.random.Generator], None]
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    left_out: str = ""

    def try_once(self, workspace: Workspace, seed: int) -> None:
        """Try the fault once, at a moment or in a place that the seed decides."""
        try:
            self.trial(workspace, np.random.default_rng([seed, *self.name.encode()]))
        except LeftOut as reason:
            self.left_out = str(reason)
            return
        except Lost as loss:
            self.lost.append(f"seed {seed}: {loss}")
        self.tried += 1


FAULTS: list[Fault] = []


def fault(name: str) -> Callable[[Callable[[Workspace, np.random.Generator], None]], Callable[..., None]]:
    """Register a trial as the fault `name`."""

    def register(trial: Callable[[Workspace, np.random.Generator], None]) -> Callable[..., None]:
        FAULTS.append(Fault(name, trial))
        return trial

    return register


def expect(holds: bool, loss: str) -> None:
    """Raise Lost with the reason unless a condition holds."""
    if not holds:
        raise Lost(loss)
