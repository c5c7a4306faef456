"""residency.py: images that stay decoded are decoded once, and their pixels are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from debeton.data.loader import residency as resident
from debeton.data.loader.batch import Batch
from debeton.data.loader.decoders import RandomResizedCrop, WholeImage, make_decoder, scale_and_shift
from debeton.data.loader.decoding import ImageReader
from debeton.data.loader.gather import gather
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.loader.pixels import Moves
from debeton.data.loader.residency import DeviceImages, HostImages, choose_residency, store_key, store_of
from debeton.data.triggers.trigger import PlantedTrigger, make_trigger
from debeton.data.views.view import View
from debeton.system.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture
def fresh(jpg_view: View) -> Iterator[View]:
    """Return a view of JPEGs of 40 x 48 pixels; none is decoded before or after the test."""
    jpg_view.beton.decoded.clear()
    yield jpg_view
    jpg_view.beton.decoded.clear()


def epochs(loader: Loader, count: int = 2) -> list[list[Batch]]:
    return [list(loader) for _ in range(count)]


def assert_equal(ours: list[list[Batch]], theirs: list[list[Batch]]) -> None:
    for a, b in zip(chain(*ours), chain(*theirs), strict=True):
        assert torch.equal(a.row, b.row)
        assert torch.equal(a.image, b.image)
        assert a.image.stride() == b.image.stride()
        assert all(torch.equal(x, y) for x, y in zip(a.triggered, b.triggered, strict=True))


@pytest.mark.parametrize(
    ("decoder", "resolution", "ops", "more"),
    [
        ("resized", 24, "flip,random_crop:3,cutout:5", {"channels_last": False}),
        ("resized", 64, "flip", {"normalise": False}),
        ("center_crop_0.875", 17, "pad_crop:2,flip", {"os_cache": False}),
    ],
)
def test_epochs_are_those_of_decoding_every_time(fresh, decoder, resolution, ops, more):
    options = LoaderOptions(decoder=decoder, resolution=resolution, ops=ops, **more)
    found = [
        epochs(make_loader(fresh, 16, seed=3, options=replace(options, residency=where))) for where in ("ram", "disk")
    ]
    assert len(fresh.beton.decoded) == 1
    assert_equal(*found)


def test_images_of_one_size_stay_as_they_are_stored(raw_view):
    options = LoaderOptions(ops="flip,pad_crop:3")
    assert_equal(*(epochs(make_loader(raw_view, 16, options=replace(options, residency=r))) for r in ("ram", "disk")))
    (store,) = raw_view.beton.decoded.values()
    raw_view.beton.decoded.clear()
    assert store.images.shape == (70, 24, 32, 3)


def test_triggers_are_planted_on_images_that_stay_decoded(fresh):
    options = LoaderOptions(decoder="resized", resolution=32, ops="flip")
    everywhere = np.ones(len(fresh.beton), bool)
    for view, triggers in (
        (fresh, [make_trigger("square"), make_trigger("hat")]),
        (replace(fresh, planted=PlantedTrigger(make_trigger("square"), everywhere)), []),
    ):
        found = [
            epochs(make_loader(view, 16, options=replace(options, residency=where), triggers=triggers))
            for where in ("ram", "disk")
        ]
        assert_equal(*found)


def test_an_image_is_decoded_once_for_all_loaders_and_epochs(fresh, monkeypatch):
    decoded: list[int] = []
    put = HostImages.put

    def counted(self, rows, images):
        decoded.extend(rows.tolist())
        put(self, rows, images)

    monkeypatch.setattr(HostImages, "put", counted)
    options = LoaderOptions(decoder="resized", resolution=24, residency="ram")
    half = fresh.subset(np.arange(0, 70, 2))
    epochs(make_loader(half, 16, options=options))
    assert sorted(decoded) == half.rows.tolist()
    epochs(make_loader(fresh, 16, seed=1, options=replace(options, ops="flip")))
    assert sorted(decoded) == fresh.rows.tolist()


def test_a_row_that_a_batch_holds_twice_is_decoded_once(fresh):
    view = fresh.subset(np.array([5, 5, 5, 7]))
    options = LoaderOptions(decoder="resized", resolution=24)
    assert_equal(*(epochs(make_loader(view, 4, options=replace(options, residency=r))) for r in ("ram", "disk")))


def test_random_crops_read_the_file_whatever_is_asked_for(fresh):
    options = LoaderOptions(decoder="random_resized_crop", resolution=24, residency="ram")
    epochs(make_loader(fresh, 16, options=options), 1)
    assert not fresh.beton.decoded


# --- what is chosen ------------------------------------------------------------------------------


def kind(view: View, wanted: resident.Residency, size: tuple[int, int] = (24, 24), decoder: str = "resized") -> str:
    return choose_residency(view.beton, view.rows, make_decoder(decoder), size, wanted, device=CPU, moves_only=True)


def test_auto_keeps_images_that_are_decoded_or_resized_and_fit_into_a_quarter(fresh, raw_view, monkeypatch):
    needed = 70 * 24 * 24 * 3
    monkeypatch.setattr(resident, "memory_left", lambda: 4 * needed)
    assert kind(fresh, "auto") == kind(raw_view, "auto") == "ram"
    stored = (int(raw_view.beton.heights[0]), int(raw_view.beton.widths[0]))
    assert kind(raw_view, "auto", stored, "simple") == "disk"  # mapped pixels are as fast
    assert kind(fresh, "auto", decoder="random_resized_crop") == "disk"
    monkeypatch.setattr(resident, "memory_left", lambda: 4 * needed - 1)
    assert kind(fresh, "auto") == "disk"
    assert kind(fresh, "ram") == "ram"
    assert kind(fresh, "disk") == "disk"


def test_memory_that_other_stores_will_still_take_does_not_count_as_left(fresh, raw_view, monkeypatch):
    needed = 70 * 24 * 24 * 3
    monkeypatch.setattr(resident, "memory_left", lambda: 4 * needed)
    store = store_of(fresh.beton, fresh.rows, WholeImage(), (24, 24), None)
    assert store.bytes_to_come == needed
    assert kind(raw_view, "auto") == "disk"
    assert kind(fresh, "auto") == "ram"  # its memory was counted before
    store.filled[:] = True  # filled memory counts as used by the system
    assert store.bytes_to_come == 0
    assert kind(raw_view, "auto") == "ram"


def test_memory_that_is_wanted_and_not_left_gives_one_sentence(fresh, monkeypatch):
    monkeypatch.setattr(resident, "memory_left", lambda: 1000)
    with pytest.raises(UsageError, match=r"residency is ram, and 70 images of .* take 0.0 GiB at 24 x 24 pixels where"):
        kind(fresh, "ram")
    with pytest.raises(UsageError, match="residency is device, and the run is on cpu; use ram"):
        kind(fresh, "device")


def test_processes_of_one_machine_share_its_memory(fresh, monkeypatch):
    needed = 70 * 24 * 24 * 3
    monkeypatch.setattr(resident, "memory_left", lambda: 8 * needed)
    decoder, size = make_decoder("resized"), (24, 24)
    for sharers, place in ((2, "ram"), (3, "disk")):
        assert place == choose_residency(
            fresh.beton, fresh.rows, decoder, size, "auto", device=CPU, moves_only=True, sharers=sharers
        )


def test_a_loader_counts_the_processes_of_its_machine(fresh, monkeypatch):
    needed = 70 * 24 * 24 * 3
    monkeypatch.setattr(resident, "memory_left", lambda: 8 * needed)
    options = LoaderOptions(decoder="resized", resolution=24, residency="auto", world=8)  # on several machines
    for processes, stores in (("3", 0), ("2", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        with make_loader(fresh, 35, options=options).epoch(0):
            assert len(fresh.beton.decoded) == stores


# --- on the device -------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=30)
def test_a_gathered_batch_is_moved_patched_and_normalised_by_the_pixel(seed, rows, columns, patches, channels_last):
    rng = np.random.default_rng(seed)
    images, row = rng.integers(0, 256, (9, 5, 7, 3), dtype=np.uint8), rng.integers(9, size=4)
    scales = scale_and_shift((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    row_of, column_of = rng.integers(-1, 5, (4, 5), dtype=np.int32), rng.integers(-1, 7, (4, 7), dtype=np.int32)
    corners = np.sort(rng.integers(0, 6, (4, 2, 2)), axis=1).reshape(4, 4)
    moves = Moves(row_of if rows else None, column_of if columns else None, corners if patches else None, 127)
    out, found = gather(
        torch.from_numpy(images), row, moves, torch.from_numpy(scales), channels_last=channels_last, dtype=torch.float32
    )
    assert found.tolist() == row.tolist()
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for b in range(4):
        for y in range(5):
            for x in range(7):
                from_y, from_x = row_of[b, y] if rows else y, column_of[b, x] if columns else x
                source = images[row[b], from_y, from_x] if min(from_y, from_x) >= 0 else np.zeros(3, np.uint8)
                top, left, bottom, right = corners[b]
                if patches and top <= y < bottom and left <= x < right:
                    source = np.full(3, 127, np.uint8)
                assert out[b, :, y, x].tolist() == (source.astype(np.float32) * scales[0] + scales[1]).tolist()


def test_a_store_on_a_device_is_filled_once_and_gives_what_was_read(fresh):
    reader = make_reader(fresh)
    store = DeviceImages(70, (24, 24), CPU)
    rows = np.array([3, 9, 3])
    boxes = reader.whole_boxes(rows)
    store.fill(reader, rows, boxes)
    assert np.flatnonzero(store.filled).tolist() == [3, 9]
    assert np.array_equal(store.ready()[torch.from_numpy(rows)].numpy(), reader.read(rows, boxes, (24, 24)))
    assert store.bytes_to_come == 0


def make_reader(view: View) -> ImageReader:
    beton = view.beton
    return ImageReader(beton.path, beton.offsets, beton.sizes, beton.modes, beton.heights, beton.widths)


def test_each_decoder_size_and_device_has_its_own_store(fresh):
    places = [(WholeImage(), (24, 24), None), (WholeImage(), (25, 24), None), (RandomResizedCrop(), (24, 24), None)]
    assert len({store_key(*place) for place in [*places, (WholeImage(), (24, 24), CPU)]}) == 4
    assert store_key(make_decoder("resized"), (24, 24), None) == store_key(*places[0])
    first = store_of(fresh.beton, fresh.rows[:4], *places[0])
    assert isinstance(first, HostImages)
    assert store_of(fresh.beton, fresh.rows[2:6], *places[0]) is first
    assert np.flatnonzero(first.wanted).tolist() == fresh.rows[:6].tolist()
