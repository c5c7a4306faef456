"""Seeds: every random stream is named, and derived from a seed by a hash instead of by the order of calls.

torch is imported where it is needed: it takes two seconds, which writing betons or --list need not wait.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from the text of `parts`, the same on every machine and Python version."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_rng(*parts: Any) -> np.random.Generator:
    """A NumPy generator for the stream named by `parts`, e.g. make_rng(seed, 'order', epoch)."""
    return np.random.default_rng(derive_seed(*parts))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy's legacy generator and torch on every device: weights and dropout follow from it."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """torch's generator states as tensors, for a checkpoint. Data orders need none: they are functions of the epoch."""
    import torch

    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`; a state saved on a GPU restores its CPU part where there is none."""
    import torch

    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
