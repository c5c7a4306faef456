"""A reference of SCALE's gradient mixing: written out in float64, group by group."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

PHI = {
    "linear": lambda c: (c + 1) / 2,
    "relu": lambda c: np.maximum(c, 0),
    "identity": lambda c: c,
    "step": lambda c: (c > 0).astype(float),
}


def mixed(train: Tensor, target: Tensor, group_size: int, mapping: str, scale: float = 1.0) -> tuple[np.ndarray, float]:
    """Return scale (phi(c_k) train + target) of each group k, and the mean c_k.

    Groups are those of the SCALE fact sheet.
    """
    a, b = (x.detach().double().cpu().contiguous().numpy().reshape(-1) for x in (train, target))
    shape = tuple(train.shape)
    kernel = math.prod(shape[2:])
    if len(shape) <= 2 or group_size == 0:
        length = a.size
    else:
        length = kernel * (3 if shape[1] == 3 else group_size)
    count = -(-a.size // length)
    rows = [np.pad(x, (0, count * length - a.size)).reshape(count, length) for x in (a, b)]
    dot, norms = (rows[0] * rows[1]).sum(1), [np.sqrt((x * x).sum(1)) for x in rows]
    cosine = dot / (np.maximum(norms[0], 1e-8) * np.maximum(norms[1], 1e-8))
    result = scale * (PHI[mapping](cosine)[:, None] * rows[0] + rows[1])
    return result.reshape(-1)[: a.size].reshape(shape), float(cosine.mean())


def gradients(shapes, seed: int, *, channels_last: bool, agreement: float = 0.3) -> tuple[list[Tensor], list[Tensor]]:
    """Return random train and target gradients of these shapes, correlated and of very different sizes."""
    rng = torch.Generator().manual_seed(seed)
    pairs = []
    for i, shape in enumerate(shapes):
        a, noise = (torch.randn(shape, generator=rng) * 10.0 ** (i % 5 - 3) for _ in range(2))
        pair = [a, agreement * a + noise]
        if channels_last:
            pair = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in pair]
        pairs.append(pair)
    train, target = zip(*pairs, strict=True)
    return list(train), list(target)


def assert_mixes(mixer, train, target, group_size: int, mapping: str, scale: float = 1.0) -> None:
    """Check that the mixer's result and cosines are the reference's, to single precision."""
    expected = [mixed(a, b, group_size, mapping, scale) for a, b in zip(train, target, strict=True)]
    strides = [b.stride() for b in target]
    cosines = mixer(train, target)
    assert [b.stride() for b in target] == strides
    for i, (value, cosine) in enumerate(expected):
        size = max(float(train[i].abs().max()), 1e-30)
        np.testing.assert_allclose(target[i].cpu().numpy(), value, rtol=1e-4, atol=2e-5 * size, err_msg=f"tensor {i}")
        assert abs(float(cosines[i]) - cosine) < 2e-5, i
