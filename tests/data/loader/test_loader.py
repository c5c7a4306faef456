"""loader.py: every row comes once, pixels do not depend on how they are read, and errors reach the caller."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import sidecar_path
from debeton.data.draws import sample_keys
from debeton.data.loader.augment import OPS, make_ops
from debeton.data.loader.batch import Batch
from debeton.data.loader.decoders import make_decoder
from debeton.data.loader.loader import Loader, first_shapes, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Entry

Within = Callable[..., Any]
PaperView = Callable[..., View]
AUGMENTED = LoaderOptions(decoder="random_resized_crop", ops="flip,pad_crop:2,cutout:4", resolution=24)
EXACT = LoaderOptions(decoder="simple", normalise=False)


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels(raw_view: View) -> None:
    """Compile the kernels before any test that counts seconds."""
    for options in (AUGMENTED, replace(AUGMENTED, channels_last=False)):
        list(make_loader(raw_view, 70, options=options))


def rows_of(batches: Any) -> list[int]:
    return [int(row) for batch in batches for row in batch.row]


def images_of(batches: Any) -> torch.Tensor:
    return torch.cat([batch.image for batch in batches])


def by_row(batches: Any) -> dict[int, torch.Tensor]:
    return {int(row): image for batch in batches for row, image in zip(batch.row, batch.image)}


def assert_same_batches(ours: Any, theirs: Any) -> None:
    ours, theirs = list(ours), list(theirs)
    assert [batch.row.tolist() for batch in ours] == [batch.row.tolist() for batch in theirs]
    assert all(torch.equal(a.image, b.image) for a, b in zip(ours, theirs))


# --- what a batch holds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 16, 70, 100])
@pytest.mark.parametrize("order", ["sequential", "random", "quasi_random"])
def test_every_row_comes_once_with_its_columns_and_pixels(
    raw_view: View, pixels: list[np.ndarray], batch_size: int, order: str
) -> None:
    loader = make_loader(replace(raw_view, order=order), batch_size, options=EXACT)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-70 // batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * (70 // batch_size) + [70 % batch_size] * (
        70 % batch_size > 0
    )
    assert sorted(rows_of(batches)) == list(range(70))
    for batch in batches:
        assert batch.row.dtype == torch.int64
        for name in ("label", "attribute", "group", "source"):
            column = getattr(raw_view.beton, name)[batch.row.numpy()]
            np.testing.assert_array_equal(getattr(batch, name), column)
        np.testing.assert_array_equal(batch.image.permute(0, 2, 3, 1), np.stack(pixels)[batch.row.numpy()])


def test_images_are_float_normalised_and_channels_last_by_default(raw_view: View, pixels: list[np.ndarray]) -> None:
    (batch,) = make_loader(raw_view, 70, options=LoaderOptions())
    assert batch.image.shape == (70, 3, 24, 32)
    assert batch.image.dtype == torch.float32
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (raw_view.spec.mean, raw_view.spec.std))
    for row, image in by_row([batch]).items():
        expected = (torch.from_numpy(pixels[row]).permute(2, 0, 1) / 255 - mean) / std
        torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)


def test_layout_and_dtype_change_the_memory_and_not_the_values(raw_view: View) -> None:
    view = replace(raw_view, order="sequential")
    (expected,) = make_loader(view, 70, options=LoaderOptions())
    (first,) = make_loader(view, 70, options=LoaderOptions(channels_last=False))
    (half,) = make_loader(view, 70, options=LoaderOptions(dtype=torch.float16))
    assert first.image.is_contiguous()
    torch.testing.assert_close(first.image, expected.image)
    torch.testing.assert_close(half.image.float(), expected.image, rtol=1e-3, atol=1e-3)
    assert half.image.dtype == torch.float16


@pytest.mark.parametrize("channels_last", [True, False])
def test_without_normalisation_pixels_stay_uint8(raw_view: View, *, channels_last: bool) -> None:
    (batch,) = make_loader(raw_view, 70, options=replace(EXACT, channels_last=channels_last))
    assert batch.image.dtype == torch.uint8
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.image.is_contiguous(memory_format=layout)


def test_labels_and_statistics_are_the_views_own(raw_view: View) -> None:
    regrouped = replace(
        raw_view, label=1 - raw_view.label, spec=replace(raw_view.spec, mean=(0.0,) * 3, std=(1.0,) * 3)
    )
    (batch,) = make_loader(regrouped, 70, options=LoaderOptions())
    np.testing.assert_array_equal(batch.label, 1 - raw_view.beton.label[batch.row.numpy()])
    assert batch.image.min() >= 0
    assert batch.image.max() <= 1


def test_a_view_of_one_row_and_a_view_with_repeated_rows(raw_view: View, pixels: list[np.ndarray]) -> None:
    for positions in ([42], [3, 3, 3, 9]):
        view = raw_view.subset(np.array(positions))
        loader = make_loader(view, 3, options=EXACT)
        batches = list(loader)
        assert sorted(rows_of(batches)) == positions
        for row, image in by_row(batches).items():
            np.testing.assert_array_equal(image.permute(1, 2, 0), pixels[row])


def test_augmentation_draws_anew_for_a_row_that_comes_twice(jpg_view: View) -> None:
    view = jpg_view.subset(np.array([5] * 8))
    images = images_of(make_loader(view, 8, options=AUGMENTED))
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_pixels_are_those_of_the_pipeline_run_by_hand(raw_view: View, pixels: list[np.ndarray]) -> None:
    options = LoaderOptions(ops="flip,pad_crop:3", normalise=False)
    batches = list(make_loader(raw_view, 16, seed=9, options=options).epoch(4))
    rows = np.array(rows_of(batches))
    keys, images = sample_keys(9, 4, np.arange(70)), np.stack(pixels)[rows]
    for op in make_ops("flip,pad_crop:3"):
        images = op(images, keys, rows)
    np.testing.assert_array_equal(images_of(batches).permute(0, 2, 3, 1), images)
    assert not np.array_equal(images, np.stack(pixels)[rows])


# --- determinism -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_pixels_for_any_workers_reading_and_instance(jpg_view: View) -> None:
    expected = list(make_loader(jpg_view, 16, seed=3, options=AUGMENTED).epoch(2))
    for changes in ({}, {"num_workers": 1}, {"num_workers": 2}, {"os_cache": False}, {"batches_ahead": 1}):
        loader = make_loader(jpg_view, 16, seed=3, options=replace(AUGMENTED, **changes))  # type: ignore[arg-type]
        assert_same_batches(loader.epoch(2), expected)
        assert_same_batches(loader.epoch(2), expected)  # and when read again


def test_another_epoch_or_seed_gives_another_order_and_other_pixels(jpg_view: View) -> None:
    loader = make_loader(jpg_view, 70, seed=3, options=AUGMENTED)
    base = by_row(loader.epoch(0))
    for other in (loader.epoch(1), make_loader(jpg_view, 70, seed=4, options=AUGMENTED).epoch(0)):
        (batch,) = other
        assert batch.row.tolist() != list(base)
        same = [torch.equal(image, base[row]) for row, image in by_row([batch]).items()]
        assert sum(same) <= 2


def test_iterating_goes_on_to_the_next_epoch(jpg_view: View) -> None:
    loader = make_loader(jpg_view, 32, options=AUGMENTED)
    first, second = list(loader), list(loader)
    assert loader.next_epoch == 2
    fresh = make_loader(jpg_view, 32, options=AUGMENTED)
    assert_same_batches(fresh.epoch(1), second)
    assert_same_batches(fresh.epoch(0), first)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5])
def test_an_epoch_from_batch_s_on_is_the_tail_of_the_epoch(jpg_view: View, start: int) -> None:
    loader = make_loader(jpg_view, 16, seed=1, options=AUGMENTED)
    whole = list(loader.epoch(7))
    with loader.epoch(7, start=start) as batches:
        assert len(batches) == 5 - start
        assert_same_batches(batches, whole[start:])


def test_resolution_may_change_between_epochs(jpg_view: View) -> None:
    loader = make_loader(jpg_view, 35, options=AUGMENTED)
    sizes = []
    for loader.resolution in (24, 40, 16):
        sizes += [tuple(batch.image.shape) for batch in loader]
        assert loader.image_size == (loader.resolution,) * 2
    assert sizes == [(35, 3, 24, 24)] * 2 + [(35, 3, 40, 40)] * 2 + [(35, 3, 16, 16)] * 2


def test_the_simple_decoder_keeps_the_stored_size(raw_view: View, jpg_view: View) -> None:
    assert first_shapes(make_loader(raw_view, 8, options=EXACT)) == {"image": (8, 3, 24, 32), "label": (8,)}
    with pytest.raises(DataError, match=r"holds 30 to 99 x 26 to 95 pixels; use 'resized'"):
        make_loader(jpg_view, 8, options=EXACT)
    one = jpg_view.subset(np.array([4]))  # images of one size within the view are enough
    assert make_loader(one, 1, options=EXACT).image_size == (34, 91)


# --- several processes -----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    world=st.integers(1, 4),
    tail=st.sampled_from(["share", "keep", "drop"]),
)
def test_ranks_partition_every_batch_and_their_shares_average_to_one(
    n: int, batch_size: int, world: int, tail: Any, paper_view: PaperView
) -> None:
    view = paper_view(np.zeros(n))
    make = [
        lambda rank=rank: make_loader(
            view, batch_size, seed=5, tail=tail, options=LoaderOptions(decoder="resized", rank=rank, world=world)
        )
        for rank in range(world)
    ]
    if batch_size < world or (tail == "drop" and batch_size > n):
        with pytest.raises(DataError, match=r"cannot be shared|fewer than one batch"):
            make[0]()
        return
    loaders = [build() for build in make]
    full, rest = divmod(n, batch_size)
    joins = tail == "share" and full > 0 and rest == 1  # the same for any number of processes
    expected = full + (rest > 0 and tail != "drop" and not joins)
    assert {len(loader) for loader in loaders} == {expected}
    assert {loader.joined_rows for loader in loaders} == {int(joins)}
    ends = [*range(batch_size, expected * batch_size, batch_size), n if tail != "drop" else full * batch_size]
    assert {loader.smallest_batch for loader in loaders} == {min(np.diff([0, *ends]))}
    whole = view.rows[np.concatenate([p for p, _, _ in make_positions(view, batch_size)])]
    ranks = [loader.planned_batches(3) for loader in loaders]
    if tail == "keep":
        assert all(len(rows) for batches in ranks for _, rows, _ in batches)
    else:
        assert {len(batches) for batches in ranks} == {expected}  # every process takes every step
    for step in range(expected):
        parts = [batches[step] for batches in ranks if step < len(batches)]
        merged = sorted(row for _, rows, _ in parts for row in rows)
        assert merged == sorted(whole[[0, *ends][step] : ends[step]])
        assert sum(share for _, _, share in parts) == pytest.approx(world)
        sizes = [len(rows) for _, rows, _ in parts]
        assert max(sizes) - min(sizes) <= 1
        assert [share for _, _, share in parts] == pytest.approx([size * world / len(merged) for size in sizes])


def make_positions(view: View, batch_size: int) -> list:
    loader = make_loader(view, batch_size, seed=5, tail="keep", options=LoaderOptions(decoder="resized"))
    return [(rows, rows, share) for _, rows, share in loader.planned_batches(3)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_last_batch_of_too_few_rows_joins_the_batch_before(jpg_view: View, world: int) -> None:
    def sizes(rows: int, batch_size: int, **least: int) -> list[int]:
        view = jpg_view.subset(np.arange(rows))
        options = [replace(AUGMENTED, rank=rank, world=world) for rank in range(world)]
        loaders = [make_loader(view, batch_size, options=one, **least) for one in options]
        epochs = [list(loader.epoch(0)) for loader in loaders]
        assert all(len(epoch) == len(loaders[0]) for epoch in epochs)
        seen = sorted(row for epoch in epochs for row in rows_of(epoch))
        assert seen == list(range(rows))
        assert_same_batches(loaders[0].epoch(0, start=len(loaders[0]) - 1), epochs[0][-1:])
        return [sum(map(len, batches)) for batches in zip(*epochs, strict=True)]

    assert sizes(13, 4) == [4, 4, 5]
    assert sizes(14, 4) == [4, 4, 4, 2]
    assert sizes(5, 4) == [5]
    assert sizes(14, 4, least_rows=3) == [4, 4, 6]
    assert sizes(3, 8) == [3]  # there is no batch before


def test_a_process_without_rows_of_a_batch_gets_an_empty_one(jpg_view: View) -> None:
    options = replace(AUGMENTED, rank=2, world=3, channels_last=False, dtype=torch.float16)
    *_, last = make_loader(jpg_view.subset(np.arange(14)), 4, options=options).epoch(0)
    assert (last.share, len(last), last.image.shape, last.image.dtype) == (0.0, 0, (0, 3, 24, 24), torch.float16)
    assert {len(column) for column in (last.label, last.attribute, last.group, last.source)} == {0}
    assert last.label.dtype == torch.int64
    start_at_it = make_loader(jpg_view.subset(np.arange(14)), 4, options=replace(options, dtype=torch.float32))
    assert [len(batch) for batch in start_at_it.epoch(0, start=3)] == [0]


@pytest.mark.parametrize("world", [2, 3])
def test_pixels_do_not_depend_on_the_number_of_processes(jpg_view: View, world: int) -> None:
    single = by_row(make_loader(jpg_view, 12, seed=2, tail="keep", options=AUGMENTED).epoch(1))
    seen: dict[int, torch.Tensor] = {}
    for rank in range(world):
        options = replace(AUGMENTED, rank=rank, world=world)
        part = by_row(make_loader(jpg_view, 12, seed=2, tail="keep", options=options).epoch(1))
        assert not set(part) & set(seen)
        seen |= part
    assert set(seen) == set(single)
    assert all(torch.equal(seen[row], single[row]) for row in seen)


def test_settings_that_give_no_batch_are_refused(raw_view: View) -> None:
    with pytest.raises(DataError, match="a batch of 2 cannot be shared by 3 processes"):
        make_loader(raw_view, 2, options=replace(EXACT, world=3))
    with pytest.raises(DataError, match="holds 70 rows, fewer than one batch of 71"):
        make_loader(raw_view, 71, tail="drop", options=EXACT)
    with pytest.raises(UsageError, match="unknown decoder"):
        make_loader(raw_view, 8, options=LoaderOptions(decoder="crop"))
    with pytest.raises(UsageError, match="unknown augmentation"):
        make_loader(raw_view, 8, options=LoaderOptions(ops="flop"))
    with pytest.raises(DataError, match="is empty; there is nothing to load"):
        make_loader(replace(raw_view, rows=np.zeros(0, np.int64)), 8, options=EXACT)


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 2])
def test_an_exception_in_an_operation_reaches_the_caller(
    raw_view: View, within: Within, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    calls = []

    def explode(images: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        calls.append(rows)
        if len(calls) > batch:
            raise ZeroDivisionError(f"no trigger for row {rows[0]}")
        return images

    monkeypatch.setitem(OPS._entries, "explode", Entry("explode", lambda: explode, ""))
    view = replace(raw_view, order="sequential")
    iterator = make_loader(view, 16, options=LoaderOptions(ops="explode", normalise=False)).epoch(0)
    for _ in range(batch):
        within(5, lambda: next(iterator))
    with pytest.raises(ZeroDivisionError, match=f"no trigger for row {16 * batch}"):
        within(5, lambda: next(iterator))
    assert not iterator._thread.is_alive()
    with pytest.raises(RuntimeError, match="closed before its end"):
        within(5, lambda: next(iterator))


@pytest.fixture
def damaged(tmp_path: Any, jpg_beton: Beton) -> View:
    """Return the JPEG beton with an end-of-image marker in the middle of row 17, as after a disk error."""
    path = tmp_path / "a.beton"
    for part in (lambda p: p, sidecar_path):
        shutil.copy(part(jpg_beton.path), part(path))
    with path.open("r+b") as file:
        file.seek(int(jpg_beton.offsets[17] + jpg_beton.sizes[17] // 2))
        file.write(b"\xff\xd9" * 20)
    return View.whole(open_beton(path))


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_damaged_jpeg_in_the_beton_is_named_by_row(
    damaged: View, within: Within, os_cache: bool, num_workers: int
) -> None:
    options = replace(AUGMENTED, os_cache=os_cache, num_workers=num_workers)
    for batch_size in (1, 16, 70):
        with pytest.raises(DataError, match=r"a\.beton: the image of row 17 is damaged"):
            within(5, lambda batch_size=batch_size: list(make_loader(damaged, batch_size, options=options)))
    others = damaged.subset(np.delete(np.arange(70), 17))
    assert len(rows_of(make_loader(others, 16, options=options))) == 69


def test_pad_crop_larger_than_the_images_reaches_the_caller(raw_view: View, within: Within) -> None:
    with pytest.raises(DataError, match="pad_crop:30 needs images larger than 30 pixels"):
        within(5, lambda: list(make_loader(raw_view, 8, options=LoaderOptions(ops="pad_crop:30"))))


# --- ownership and threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [AUGMENTED, EXACT, LoaderOptions(channels_last=False)], ids=["augmented", "uint8", "nchw"]
)
def test_batches_that_the_caller_keeps_do_not_change(raw_view: View, options: LoaderOptions) -> None:
    loader = make_loader(raw_view, 4, options=options)
    kept: list[Batch] = []
    copies = []
    for batch in loader.epoch(0):
        kept.append(batch)
        copies.append((batch.image.clone(), batch.label.clone()))
    for _ in loader.epoch(1):
        pass
    for batch, (image, label) in zip(kept, copies, strict=True):
        assert torch.equal(batch.image, image)
        assert torch.equal(batch.label, label)
    assert_same_batches(kept, loader.epoch(0))


@pytest.mark.parametrize(
    "part",
    [
        lambda batch: batch.image[-1],
        lambda batch: batch.image[:, :1].detach(),
        lambda batch: batch.image.numpy()[-1],
        lambda batch: batch.image.permute(0, 2, 3, 1).reshape(-1),
        lambda batch: torch.utils.data.default_collate([batch.image[0]]),
    ],
    ids=["image", "channel", "numpy", "flat", "collated"],
)
@pytest.mark.parametrize("options", [AUGMENTED, LoaderOptions(channels_last=False)], ids=["nhwc", "nchw"])
def test_a_part_of_a_batch_that_the_caller_keeps_does_not_change(
    raw_view: View, options: LoaderOptions, part: Callable[[Batch], Any]
) -> None:
    loader = make_loader(raw_view, 4, options=options)
    kept, copies = [], []
    for batch in loader.epoch(0):
        kept.append(part(batch))
        copies.append(np.asarray(kept[-1]).copy())
        del batch
    for _ in range(2):
        for _ in loader:
            pass
    for ours, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), copy)


def test_writing_into_a_batch_does_not_reach_later_ones(raw_view: View) -> None:
    loader = make_loader(raw_view, 8, options=LoaderOptions())
    expected = [batch.image.clone() for batch in loader.epoch(0)]
    for batch, image in zip(loader.epoch(0), expected, strict=True):
        assert torch.equal(batch.image, image)
        for column in (batch.image, batch.label, batch.group, batch.row):
            column.fill_(-7)
    (again,) = make_loader(raw_view, 70, options=LoaderOptions()).epoch(0)
    assert again.label.min() >= 0


def test_a_new_epoch_ends_the_running_one_with_an_error(raw_view: View, within: Within) -> None:
    loader = make_loader(raw_view, 8, options=EXACT)
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert not first._thread.is_alive()
    with pytest.raises(RuntimeError, match="a loader runs one epoch at a time"):
        within(5, lambda: next(first))
    assert len(list(second)) == 9
    with pytest.raises(StopIteration):
        next(second)


def test_two_loaders_interleave_in_one_thread(raw_view: View, jpg_view: View) -> None:
    loaders = [make_loader(raw_view, 8, options=EXACT), make_loader(jpg_view, 8, options=AUGMENTED)]
    expected = [list(loader.epoch(0)) for loader in loaders]
    pairs = list(zip(*(loader.epoch(0) for loader in loaders), strict=True))
    for k in range(2):
        assert_same_batches([pair[k] for pair in pairs], expected[k])


def test_loaders_work_at_once_from_several_threads(raw_view: View, jpg_view: View, within: Within) -> None:
    options = [EXACT, AUGMENTED, replace(AUGMENTED, os_cache=False), replace(AUGMENTED, num_workers=1)]
    loaders = [make_loader(view, 8, options=o) for view, o in zip([raw_view, jpg_view, jpg_view, raw_view], options)]
    expected = [[list(loader.epoch(epoch)) for epoch in range(4)] for loader in loaders]
    results: dict[int, list] = {}

    def read(k: int) -> None:
        results[k] = [list(loaders[k].epoch(epoch)) for epoch in range(4)]

    def run_all() -> None:
        threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    within(60, run_all)
    for k in range(4):
        for ours, theirs in zip(results[k], expected[k], strict=True):
            assert_same_batches(ours, theirs)


def test_the_loader_decodes_ahead_but_not_without_bound(raw_view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def count(images: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
        made.append(len(rows))
        return images

    monkeypatch.setitem(OPS._entries, "count", Entry("count", lambda: count, ""))
    loader: Loader = make_loader(raw_view, 2, options=LoaderOptions(ops="count", batches_ahead=3))
    with loader.epoch(0) as batches:
        next(batches)
        deadline = time.monotonic() + 10
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(made) == 5  # one taken, three in the queue, one that the thread holds


def test_first_shapes_ends_its_thread(raw_view: View) -> None:
    before = threading.active_count()
    assert first_shapes(make_loader(raw_view, 8, options=LoaderOptions()))["image"] == (8, 3, 24, 32)
    assert threading.active_count() == before


def test_decoders_and_loaders_agree_on_the_centre(raw_view: View, pixels: list[np.ndarray]) -> None:
    options = LoaderOptions(decoder="center_crop_0.5", resolution=12, normalise=False)
    assert make_decoder("center_crop_0.5").boxes(np.zeros(1, np.uint64), np.array([24]), np.array([32])).tolist() == [
        [6, 10, 12, 12]
    ]
    for row, image in by_row(make_loader(raw_view, 70, options=options)).items():
        np.testing.assert_array_equal(image.permute(1, 2, 0), pixels[row][6:18, 10:22])
