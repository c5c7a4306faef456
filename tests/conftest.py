"""Shared by all tests: toy betons, and configurations that do not leak from one test into the next."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastargs.state import get_current_config
from hypothesis import settings
from PIL import Image
from tests.pair import Pair
from tests.running import folder_of, run
from tests.toy import TOY_SPEC, stored_image, toy_rows

from debeton.config.section import SECTIONS
from debeton.data.beton.reading import Beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.augment import OPS
from debeton.data.sources import SOURCES
from debeton.data.spec import DatasetSpec
from debeton.data.triggers.trigger import TRIGGERS
from debeton.data.views.view import View
from debeton.methods import FINDERS, METHODS
from debeton.nets.models import MODELS
from debeton.system import plugins
from debeton.system.log import logger

# A busy machine may stop a test for longer than any deadline of its examples.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

# Fixtures that take more than ten seconds: two processes, a Slurm of one machine, a set of images made and resumed.
SLOW_FIXTURES = {"two_processes", "slurm", "killed"}


@pytest.hookimpl(tryfirst=True)  # before pytest's own, which applies -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow fixtures as slow; skip what needs a GPU, with the reason, where there is none."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the millions of objects of the imports and of the collected tests."""
    gc.collect()
    gc.freeze()


TORCH_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _torch_threads() -> None:
    """Stock FFCV's loader changes torch's threads for the whole process, and with them the order of its sums."""
    torch.set_num_threads(TORCH_THREADS)


@pytest.fixture(autouse=True, scope="module")
def _memory_given_back() -> Iterator[None]:
    """Give freed memory back after each file of tests: a process that trains on a CPU keeps it."""
    yield
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """Take the handlers of a command away after its test. They write to the captured streams, which are closed then."""
    yield
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(scope="session")
def toy_betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy_{train,val,test}.beton: 512 rows 90 % aligned, 128 and 256 rows balanced; 16x16 raw."""
    folder = tmp_path_factory.mktemp("toy")
    for seed, (split, n, share) in enumerate((("train", 512, 0.9), ("val", 128, 0.5), ("test", 256, 0.5))):
        write_beton(folder / f"toy_{split}.beton", toy_rows(n, share, seed), TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """two_processes(args, status): what main.py prints in two gloo processes, which stay for the next test."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair.run
    pair.close()


@pytest.fixture(scope="session")
def write_toy() -> Callable[[Path, int, float], None]:
    """write_toy(path, rows, aligned share): one more toy beton, as training split."""

    def write(path: Path, n: int, share: float) -> None:
        write_beton(path, toy_rows(n, share, 9), TOY_SPEC, "train", WriteOptions(mode="raw"))

    return write


@pytest.fixture
def plugins_end_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget, after the test, the plugins that it loads and the names that they register."""
    for registry in (METHODS, FINDERS, SOURCES, TRIGGERS, OPS, MODELS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_LOADED", {})
    sections, declarations = set(SECTIONS), get_current_config()
    yield
    for name in set(SECTIONS) - sections:
        for path in declarations.sections_to_entries.pop((name,)):
            declarations.entries.pop(path)
        declarations.sections.pop((name,))
        SECTIONS.pop(name)
    for name in [name for name in sys.modules if name.startswith("debeton_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def toy_args(toy_betons: Path, tmp_path: Path) -> list[str]:
    """Command-line settings of a run that takes a second: two epochs of a small ResNet on the toy set."""
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": tmp_path / "runs",
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.lr_scheduler": "cosine",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "pad_crop:2",
        "logging.tensorboard": "false",
        "training.device": "cpu",
    }
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="session")
def trained_toy(toy_betons: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run folder, folder of the 256 test images as PNG files, one of them two folders deeper)."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.outdir": folder / "runs",
        "model.arch": "small_resnet",
        "training.epochs": 1,
        "training.batch_size": 64,
        "training.lr": 0.05,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "logging.tensorboard": "false",
        "training.device": "cpu",
        "training.tta": "true",
    }
    assert run([word for key, value in settings.items() for word in (f"--{key}", value)]) == 0
    images = folder / "images"
    (images / "z" / "deeper").mkdir(parents=True)
    for row in range(256):
        name = f"{row:03d}.png" if row < 255 else "z/deeper/last.png"
        Image.fromarray(stored_image(toy_betons / "toy_test.beton", row)).save(images / name)
    return folder_of(folder / "runs"), images


PETS_SPEC = DatasetSpec("pets", ("cat", "dog"), ("left", "right", "top"), aligned=((0,), (1, 2)), missing=(5,))


@pytest.fixture(scope="session")
def paper_view() -> Callable[..., View]:
    """paper_view(label, attribute, spec, source, **columns): a view of a beton that exists only in memory.

    Its spec is that of the pets, 2 classes x 3 attributes; it has the column 'path', 'dir/0.jpg' and so on.
    """

    def make(
        label: Sequence[int],
        attribute: Sequence[int] | None = None,
        spec: DatasetSpec = PETS_SPEC,
        source: Sequence[int] | None = None,
        **columns: Any,
    ) -> View:
        labels = np.asarray(label, np.int64)
        attributes = np.zeros_like(labels) if attribute is None else np.asarray(attribute, np.int64)
        ones = np.ones(len(labels), np.int64)
        beton = Beton(
            path=Path("paper.beton"),
            spec=spec,
            sidecar={"split": "train", "columns": []},
            label=labels,
            attribute=attributes,
            group=spec.group(labels, attributes),
            source=np.zeros_like(labels) if source is None else np.asarray(source, np.int64),
            heights=ones,
            widths=ones,
            modes=ones.astype(np.uint8),
            offsets=np.arange(len(labels), dtype=np.uint64),
            sizes=ones.astype(np.uint64),
        )
        names = np.array([f"dir/{i}.jpg" for i in range(len(labels))])
        beton.__dict__["extra"] = {"path": names, **columns}  # what the property would read from a file
        return View.whole(beton)

    return make
