"""Random streams by name: each is derived from a seed by a hash, not by the sequence of calls.

torch is imported inside the functions, because importing it takes two seconds and writing betons does not need it.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np


def derive_seed(*parts: Any) -> int:
    """Return a 63-bit seed from the text of `parts`, the same on every machine and Python version."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_rng(*parts: Any) -> np.random.Generator:
    """Return a NumPy generator for the stream named by `parts`, e.g. make_rng(seed, 'order', epoch)."""
    return np.random.default_rng(derive_seed(*parts))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy's legacy generator and torch on every device; weights and dropout depend on it."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the states of torch's generators as tensors, for a checkpoint.

    The data need none: their order is a function of the epoch.
    """
    import torch

    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """Restore the states of `rng_state`. Without a GPU, only the CPU part of a state is used."""
    import torch

    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
