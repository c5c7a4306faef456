"""Shared by the tests of faults: both ways of decoding."""

from __future__ import annotations

import pytest

from debeton.data.loader import pixels


@pytest.fixture(params=["pixels.c", "FFCV's kernels"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode with pixels.c, and then with FFCV's kernels."""
    if request.param != "pixels.c":
        monkeypatch.setattr(pixels, "AVAILABLE", False)
    elif not pixels.AVAILABLE:
        pytest.skip(f"pixels.c is not compiled: {pixels.MISSING}")
