"""Shared fixtures of the data tests: small photos, rows made of them, betons in every storage mode, a time limit."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, RawImage, Rows
from debeton.data.views.view import View

REPOSITORY = Path(__file__).parents[2]
GROUP_SIZES = (30, 12, 7, 5, 16)  # 70 rows; group 5 (dog, top) does not exist


@pytest.fixture(scope="session")
def spec(paper_view: Callable[..., View]) -> DatasetSpec:
    """Return the spec of the pets: 2 classes x 3 attributes. Group 5 (dog, top) does not exist."""
    return paper_view([0]).spec


@pytest.fixture(scope="session")
def group_sizes() -> tuple[int, ...]:
    return GROUP_SIZES


@pytest.fixture(scope="session")
def photo() -> Callable[..., np.ndarray]:
    """Return photo(seed, height, width): smooth random colours, which JPEG keeps to within a few grey levels."""

    def make(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        return np.ascontiguousarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Return encoded(image, format, **options): the bytes of a file, written by Pillow."""

    def encode(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    """Return make_rows(images, **columns of Rows): labels alternate, every attribute is 0, names are 'r0', 'r1', ..."""

    def make(images: Sequence[RawImage], **changes: Any) -> Rows:
        n = len(images)
        values: dict[str, Any] = {
            "label": np.arange(n) % 2,
            "attribute": np.zeros(n, np.int64),
            "image": lambda i: images[i],
            "names": [f"r{i}" for i in range(n)],
        }
        return Rows(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def grouped_rows(make_rows: Callable[..., Rows]) -> Callable[[Sequence[RawImage]], Rows]:
    """Return 70 rows in shuffled groups of GROUP_SIZES. Every seventh is synthetic; a further column is 'weight_g'."""

    def make(images: Sequence[RawImage]) -> Rows:
        group = np.random.default_rng(5).permutation(np.repeat(np.arange(5), GROUP_SIZES))
        return make_rows(
            images,
            label=group // 3,
            attribute=group % 3,
            source=(np.arange(len(group)) % 7 == 0).astype(np.int64),
            columns={"weight_g": np.arange(len(group)) * 0.5},
        )

    return make


@pytest.fixture(scope="session")
def pixels(photo: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Return the 70 images of 'raw_view': 24 x 32 pixels of noise, in which every misplaced pixel shows."""
    return list(np.random.default_rng(1).integers(0, 256, (70, 24, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def jpegs(photo: Callable[..., np.ndarray], encoded: Callable[..., bytes]) -> list[bytes]:
    """Return the 70 files of 'jpg_view': JPEGs of 30 to 99 by 95 to 26 pixels."""
    return [encoded(photo(i, 30 + i, 95 - i), quality=92) for i in range(70)]


@pytest.fixture(scope="session")
def raw_beton(
    tmp_path_factory: pytest.TempPathFactory, grouped_rows: Callable[..., Rows], pixels: Any, spec: DatasetSpec
) -> Beton:
    path = tmp_path_factory.mktemp("raw") / "pets_train.beton"
    write_beton(path, grouped_rows(pixels), spec, "train", WriteOptions(mode="raw"))
    return open_beton(path)


@pytest.fixture(scope="session")
def jpg_beton(
    tmp_path_factory: pytest.TempPathFactory, grouped_rows: Callable[..., Rows], jpegs: Any, spec: DatasetSpec
) -> Beton:
    path = tmp_path_factory.mktemp("jpg") / "pets_train.beton"
    write_beton(path, grouped_rows(jpegs), spec, "train")
    return open_beton(path)


@pytest.fixture(scope="session")
def raw_view(raw_beton: Beton) -> View:
    return View.whole(raw_beton)


@pytest.fixture(scope="session")
def jpg_view(jpg_beton: Beton) -> View:
    return View.whole(jpg_beton)


@pytest.fixture(scope="session")
def within() -> Callable[..., Any]:
    """Return within(seconds, function): the function's result or exception. The test fails if it takes longer."""

    def run(seconds: float, function: Callable[[], Any]) -> Any:
        outcome: dict[str, Any] = {}

        def target() -> None:
            try:
                outcome["result"] = function()
            except BaseException as error:
                outcome["error"] = error

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        thread.join(seconds)
        assert not thread.is_alive(), f"still running after {seconds} s"
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    return run


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """Return run_python(code, *arguments, **environment): the output of a new interpreter, which must exit with 0."""

    def run(code: str, *arguments: object, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
