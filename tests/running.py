"""Shared by tests of whole runs: the program run here or in two processes, its folder, and networks compared."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import main
import pytest
import torch
from torch import Tensor

from debeton.nets.models import make_model
from debeton.system.errors import run_command
from debeton.system.seed import seed_everything
from debeton.train.objective import Objective

ROOT = Path(main.__file__).resolve().parent


def run(args: Sequence[Any]) -> int:
    """main.py in this process; its exit status."""
    return run_command(lambda: main.main([str(a) for a in args]))


def stopped_and_resumed(args: Sequence[Any], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send a run SIGTERM in its backward pass number `step`, check its status, and run it to its end."""
    backward, steps = Objective.backward, []

    def signalled(self, *arguments):
        steps.append(1)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "backward", signalled)
        assert run(args) == 128 + signal.SIGTERM
    assert run(args) == 0


def folder_of(outdir: Path) -> Path:
    """The one run folder below."""
    (config,) = Path(outdir).rglob("config.yaml")
    return config.parent


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """results.jsonl."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def assert_same_training(left: Mapping[str, Tensor], right: Mapping[str, Tensor], arch: str, seed: int = 0) -> None:
    """Two trained networks of two classes, apart by less than a hundredth of their way from the fresh weights.

    Sums in another order differ by a rounding, which training multiplies by as much as the processor pleases; other
    rows, orders or weights of them lead elsewhere.
    """
    seed_everything(seed)
    fresh = make_model(arch, 2).state_dict()
    trained = [name for name, value in fresh.items() if value.is_floating_point()]

    def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
        return float(torch.cat([(a[name].double() - b[name].double()).flatten() for name in trained]).norm())

    moved = distance(left, fresh)
    assert moved > 0
    assert distance(left, right) < 0.01 * moved, f"{distance(left, right)} apart after {moved}"
