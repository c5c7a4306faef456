"""A loader reads the beton that was opened. A change of it is an error of the epoch."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.toy import TOY_SPEC, toy_rows

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader import pixels
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

RunPython = Callable[..., str]


def write(path: Path, seed: int = 0, mode: str = "raw", count: int = 60) -> Path:
    write_beton(path, toy_rows(count, 0.5, seed), TOY_SPEC, "train", WriteOptions(mode=mode))
    return path


def loader_of(path: Path, **options: Any) -> Loader:
    view = replace(View.whole(open_beton(path)), order="sequential")
    return make_loader(view, 10, options=LoaderOptions(num_workers=2, batches_ahead=1, **options))


def images_of(batches: Any) -> torch.Tensor:
    return torch.cat([batch.image for batch in batches])


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_a_rewritten_beton_ends_the_epoch_that_begins_or_runs(tmp_path: Path, mode: str, *, os_cache: bool) -> None:
    path = write(tmp_path / "a.beton", mode=mode)
    loader = loader_of(path, os_cache=os_cache)
    first = images_of(loader)
    assert torch.equal(images_of(loader), first)
    running = iter(loader)
    got = [next(running)]
    write(path, seed=1, mode=mode)
    with pytest.raises(DataError, match="another file lies at"):  # noqa: PT012
        for batch in running:
            got.append(batch)
    assert torch.equal(images_of(got), first)  # the file that was opened was read to the end
    with pytest.raises(DataError, match="another file lies at"):
        iter(loader)


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("how", ["written alike", "deleted"])
def test_an_epoch_goes_on_with_the_same_content_or_without_a_path(tmp_path: Path, how: str, *, os_cache: bool) -> None:
    path = write(tmp_path / "a.beton")
    loader = loader_of(path, os_cache=os_cache)
    first = images_of(loader)
    running = iter(loader)
    path.unlink() if how == "deleted" else write(path)
    assert torch.equal(images_of(running), first)
    assert torch.equal(images_of(loader), first)


@pytest.mark.parametrize("mode", ["raw", "jpg"])
@pytest.mark.parametrize("os_cache", [True, False])
def test_a_beton_cut_while_it_is_read_is_named_by_row(tmp_path: Path, mode: str, *, os_cache: bool) -> None:
    path = write(tmp_path / "a.beton", mode=mode, count=4000)
    loader = loader_of(path, os_cache=os_cache)
    cut = int(loader.view.beton.offsets[3000])
    running = iter(loader)
    next(running)
    os.truncate(path, cut)
    with pytest.raises(DataError, match=rf"row \d+ cannot be read to its end; it was cut from \d+ to {cut} bytes"):
        list(running)
    with pytest.raises(DataError, match="was cut while it was open"):
        iter(loader)


def test_images_that_stayed_decoded_are_forgotten_when_the_beton_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton")
    loader = loader_of(path, residency="ram", decoder="resized", resolution=8)
    list(loader)
    assert loader.view.beton.decoded
    write(path, seed=1)
    with pytest.raises(DataError):
        iter(loader)
    assert not loader.view.beton.decoded


CUT = """
import os, sys
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.reading import open_beton
from debeton.data.loader import loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
loader.check_unchanged = lambda betons, joint: None
mapped = OpenedFile.mapped
def cut_after_mapping(file):
    content = mapped(file)
    os.truncate(file.path, 4096)
    return content
OpenedFile.mapped = cut_after_mapping
for path in sys.argv[1:]:
    view = View.whole(open_beton(path))
    try:
        list(loader.make_loader(view, 64, options=LoaderOptions(num_workers=int(path[-7]))))
    except ValueError as error:
        print(error)
"""


def test_a_mapped_beton_that_is_cut_is_an_error_and_no_death_by_signal(tmp_path: Path, run_python: RunPython) -> None:
    paths = [write(tmp_path / f"{mode}{threads}.beton", mode=mode) for mode in ("raw", "jpg") for threads in (1, 2)]
    said = run_python(CUT, *paths)  # checks the exit status
    assert said.count("cannot be read to its end; it was cut from") == len(paths)


def test_another_access_to_a_lost_page_still_has_the_handler_that_was_there(run_python: RunPython) -> None:
    code = """
import faulthandler, mmap, os, sys, tempfile
faulthandler.enable(file=sys.stdout)
from debeton.data.loader import pixels
pixels.guard_mapped_files()
file = tempfile.TemporaryFile()
file.truncate(8192)
page = mmap.mmap(file.fileno(), 8192)
file.truncate(0)
if os.fork() == 0:
    page[5000]
_, status = os.wait()
print("signal", os.WTERMSIG(status))
"""
    said = run_python(code)
    assert "Fatal Python error: Bus error" in said
    assert said.rstrip().endswith("signal 7")


def test_without_the_guard_of_pixels_c_no_file_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.beton")
    first = images_of(loader_of(path))
    monkeypatch.setattr(pixels, "AVAILABLE", False)
    monkeypatch.setattr("debeton.data.beton.opened.OpenedFile.mapped", None)
    assert torch.equal(images_of(loader_of(path)), first)


def test_a_short_read_is_no_cut_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = loader_of(write(tmp_path / "a.beton"), os_cache=False)
    first = images_of(loader)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: real(file, [memoryview(buffers[0])[:100]], at))
    assert torch.equal(images_of(loader), first)


# --- other processes -------------------------------------------------------------------------------------------------


def put_sum(loader: Loader, results: Any) -> None:
    results.put((loader.next_epoch, sum(float(batch.image.double().sum()) for batch in loader)))


def test_a_loader_can_be_sent_to_a_spawned_process(tmp_path: Path) -> None:
    loader = loader_of(write(tmp_path / "a.beton"), ops="flip")
    list(loader)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=put_sum, args=(loader, results))
    process.start()
    found = results.get(timeout=60)
    process.join()
    assert found == (1, sum(float(batch.image.double().sum()) for batch in loader.epoch(1)))


def test_a_loader_that_was_sent_has_the_same_batches(tmp_path: Path) -> None:
    view = View.whole(open_beton(write(tmp_path / "a.beton")))
    for least_rows, sizes in ((2, [29, 29, 2]), (4, [29, 31])):
        loader = make_loader(view, 29, least_rows=least_rows)
        sent = pickle.loads(pickle.dumps(loader))
        assert [len(batch) for batch in sent] == [len(batch) for batch in loader] == sizes


def test_an_epoch_that_runs_says_why_it_cannot_be_sent(tmp_path: Path) -> None:
    loader = loader_of(write(tmp_path / "a.beton"))
    with iter(loader) as running, pytest.raises(UsageError, match="send the loader, and begin the epoch there"):
        pickle.dumps(running)
    sent = pickle.dumps(loader)
    write(loader.view.beton.path, seed=1)
    with pytest.raises(DataError, match="is not the file that the sending process has open"):
        pickle.loads(sent)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_of_batches_that_were_kept_goes_when_they_go(tmp_path: Path) -> None:
    loader = loader_of(write(tmp_path / "a.beton", count=300), decoder="resized", resolution=160)

    def resident_mb() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    list(loader)
    before = resident_mb()
    kept = list(loader)  # 30 batches of 3.1 MB
    assert resident_mb() - before > 60
    gone = weakref.ref(kept[0].image)
    kept.clear()
    assert resident_mb() - before < 30
    assert gone() is None
    assert len(loader._memory._free) <= 4  # one waits, one is made, the caller has one and held one
