"""jpeg_repair.py: a fault that costs no pixel is repaired, and any other one is refused, whichever comes first."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from debeton.data.beton.images import BadImage, Encoded, encode, to_rgb
from debeton.data.beton.jpeg_scans import scans_in_order
from debeton.data.beton.jpeg_segments import SCAN, SCAN_DATA, Piece, scan_header, split_jpeg
from debeton.data.beton.turbojpeg import try_decode
from debeton.data.loader.decoding import ImageReader

Encoder = Callable[..., bytes]
Change = Callable[[bytes], bytes]
HEIGHT, WIDTH = 40, 60
JFIF, ADOBE, TABLES, QUANTISATION = 0xE0, 0xEE, 0xC4, 0xDB


def store(data: bytes) -> Encoded:
    return encode(data, as_jpeg=True, quality=90, max_resolution=None)


def pieces_of(data: bytes) -> list[Piece]:
    pieces = split_jpeg(data)
    assert pieces is not None
    assert joined(pieces) == data
    return pieces


def joined(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def insert(kind: int, junk: bytes) -> Change:
    """Return a change that puts bytes before the first segment of a kind."""

    def change(data: bytes) -> bytes:
        pieces = pieces_of(data)
        at = next(k for k, piece in enumerate(pieces) if piece.kind == kind)
        return joined([*pieces[:at], Piece(0, junk), *pieces[at:]])

    return change


def overwrite(kind: int, position: int, values: bytes) -> Change:
    """Return a change that overwrites bytes of every segment of a kind."""

    def change(data: bytes) -> bytes:
        changed = []
        for piece in pieces_of(data):
            segment = bytearray(piece.data)
            if piece.kind == kind:
                segment[position : (position + len(values)) or None] = values
            changed.append(Piece(piece.kind, bytes(segment)))
        return joined(changed)

    return change


def with_adobe(transform: int) -> Change:
    """Return a change that replaces the JFIF segment by an Adobe segment with this transform."""
    segment = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])

    def change(data: bytes) -> bytes:
        first, *rest = (piece for piece in pieces_of(data) if piece.kind != JFIF)
        return joined([first, Piece(ADOBE, segment), *rest])

    return change


def in_turn(*changes: Change) -> Change:
    def change(data: bytes) -> bytes:
        for one in changes:
            data = one(data)
        return data

    return change


def scan_groups(data: bytes) -> tuple[list[Piece], list[list[Piece]], list[Piece]]:
    """Return the pieces before the first scan's tables, those of every scan with its tables, and those behind."""
    pieces = pieces_of(data)
    start = next(k for k, piece in enumerate(pieces) if piece.kind == TABLES)
    ends = [k + 1 for k, piece in enumerate(pieces) if piece.kind == SCAN_DATA]
    groups = [pieces[a:b] for a, b in zip([start, *ends], ends)]
    return pieces[:start], groups, pieces[ends[-1] :]


def scans(order: Sequence[int]) -> Change:
    """Return a change that puts the scans of a progressive JPEG, with their tables, into another order."""

    def change(data: bytes) -> bytes:
        head, groups, tail = scan_groups(data)
        return joined([*head, *(piece for k in order for piece in groups[k]), *tail])

    return change


@pytest.fixture(scope="module")
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


KINDS = {"baseline": {}, "progressive": {"progressive": True}, "restart markers": {"restart_marker_blocks": 2}}
EXIF = Image.Exif()
EXIF[0x010E] = "a phone"
HARMLESS: dict[str, Change] = {
    "bytes between segments": insert(QUANTISATION, b"abc"),
    "many bytes between segments": insert(TABLES, bytes(range(1, 200))),
    "zeros between segments": insert(SCAN, bytes(3000)),
    "stuffed bytes between segments": insert(TABLES, b"\xff\x00ab\xff\x00\xff\xff"),
    "an unknown JFIF version": overwrite(JFIF, 9, b"\x02"),
    "an impossible density": overwrite(JFIF, 11, b"\x09\xff\xff\x00\x00"),
    "an unknown Adobe transform": with_adobe(7),
    "no end marker": lambda data: data[:-2],
    "half an end marker": lambda data: data[:-1],
    "no end marker, but zeros": lambda data: data[:-2] + bytes(100),
    "text before the end marker": lambda data: data[:-2] + b"made by a camera" * 3 + data[-2:],
    "a comment that is cut short": lambda data: data[:-2] + b"\xff\xfe\x00\x50abc",
    "a film behind the photo": lambda data: data + b"ftypmp42" * 400,
    "another photo behind the photo": lambda data: data + data,
    "an unknown segment": insert(TABLES, b"\xff\xed\x00\x06abcd"),
    "several of these": in_turn(insert(TABLES, b"zz"), overwrite(JFIF, 9, b"\x03"), lambda data: data[:-2]),
}


@pytest.mark.parametrize("harmless", HARMLESS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_costs_no_pixel_is_accepted_without_a_second_encoding(
    harmless: str, kind: str, image: Image.Image, encoded: Encoder
) -> None:
    jpeg = encoded(image, quality=90, exif=EXIF, icc_profile=b"p" * 200, **KINDS[kind])
    faulty = HARMLESS[harmless](jpeg)
    complaint = try_decode(faulty, HEIGHT, WIDTH)[1]
    stored = store(faulty)
    assert (stored.data == faulty) == (complaint == "")
    assert stored.treatment.stored == ("repaired" if complaint else "as it is")
    pixels, left = try_decode(stored.data, HEIGHT, WIDTH)
    assert left == ""
    np.testing.assert_array_equal(pixels, try_decode(jpeg, HEIGHT, WIDTH)[0])
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.data))), expected)
    np.testing.assert_array_equal(to_rgb(faulty), expected)


def test_the_parameters_that_a_sequential_scan_does_not_use_may_be_anything(
    image: Image.Image, encoded: Encoder
) -> None:
    jpeg = encoded(image)
    faulty = overwrite(SCAN, -3, b"\0\0\0")(jpeg)
    assert try_decode(faulty, HEIGHT, WIDTH)[1] == "Invalid SOS parameters for sequential JPEG"
    assert store(faulty).data == jpeg


def test_a_cmyk_jpeg_with_an_unknown_transform_has_the_colours_that_pillow_sees(
    image: Image.Image, encoded: Encoder
) -> None:
    faulty = overwrite(ADOBE, 15, b"\x07")(encoded(image.convert("CMYK")))
    np.testing.assert_array_equal(to_rgb(faulty), np.asarray(Image.open(io.BytesIO(faulty)).convert("RGB")))


@pytest.mark.parametrize("order", [[1, 0, *range(2, 10)], [0, 0, 1, 1, *range(2, 10)], [3, 2, 1, 0, *range(4, 10)]])
def test_scans_in_another_order_or_twice_are_put_in_order(
    order: list[int], image: Image.Image, encoded: Encoder
) -> None:
    jpeg = encoded(image, progressive=True)
    faulty = scans(order)(jpeg)
    assert try_decode(faulty, HEIGHT, WIDTH)[1].startswith("Inconsistent progression sequence")
    pixels, complaint = try_decode(store(faulty).data, HEIGHT, WIDTH)
    assert complaint == ""
    np.testing.assert_array_equal(pixels, try_decode(jpeg, HEIGHT, WIDTH)[0])


def test_a_scan_that_goes_on_where_none_ended_is_refused(image: Image.Image, encoded: Encoder) -> None:
    jpeg = encoded(image, progressive=True)
    headers = [scan_header(piece) for piece in pieces_of(jpeg) if piece.kind == SCAN]
    for lost, header in enumerate(headers):
        refined = any(h and h.components == header.components and h.high == header.low for h in headers[lost + 1 :])
        lacking = scans([k for k in range(len(headers)) if k != lost])(jpeg)
        if refined and header.low:
            assert scans_in_order(pieces_of(lacking)) is None
            with pytest.raises(BadImage, match="Inconsistent progression sequence"):
                store(lacking)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [None, "an unknown JFIF version", "bytes between segments"])
def test_a_harmless_fault_hides_no_damage(kind: str, before: str | None, image: Image.Image, encoded: Encoder) -> None:
    jpeg = encoded(image, quality=90, **KINDS[kind])
    if before:
        jpeg = HARMLESS[before](jpeg)
    start = jpeg.index(b"\xff\xda")
    for part in np.linspace(0.02, 0.98, 13):
        cut = jpeg[: start + int(part * (len(jpeg) - start))]
        for end in (b"", b"\xff\xd9"):
            if kind == "progressive" and end and jpeg[len(cut) : len(cut) + 1] == b"\xff":
                continue  # between two scans: libjpeg takes this for a picture with fewer scans
            with pytest.raises(BadImage, match="cannot be decoded in full"):
                store(cut + end)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["an unknown JFIF version", "bytes between segments", "no end marker"])
def test_damage_that_libjpeg_notices_is_refused_behind_a_harmless_fault(
    kind: str, before: str, image: Image.Image, encoded: Encoder
) -> None:
    jpeg, rng, noticed = encoded(image, quality=90, **KINDS[kind]), np.random.default_rng(0), 0
    start = jpeg.index(b"\xff\xda") + 20
    for _ in range(40):
        damaged = bytearray(jpeg)
        at = int(rng.integers(start, len(jpeg) - 30))
        damaged[at : at + 20] = rng.integers(0, 256, 20, dtype=np.uint8).tobytes()
        complaint = try_decode(bytes(damaged), HEIGHT, WIDTH)[1]
        may_be_padding = kind == "progressive" and complaint.endswith("before marker 0xd9")  # up to 8 bytes
        if complaint and not may_be_padding:
            noticed += 1
            with pytest.raises(BadImage, match="cannot be decoded in full"):
                store(HARMLESS[before](bytes(damaged)))
    assert noticed > 5


def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused(image: Image.Image, encoded: Encoder) -> None:
    head, groups, _ = scan_groups(encoded(image, progressive=True))
    for count in range(1, len(groups)):
        with pytest.raises(BadImage, match="Premature end of JPEG file"):
            store(joined([*head, *(piece for group in groups[:count] for piece in group)]))


@pytest.mark.parametrize("lost", [0xDB, 0xC4, 0xE1, 0xDD])
def test_a_segment_that_lost_its_marker_is_no_stray_bytes(lost: int, image: Image.Image, encoded: Encoder) -> None:
    jpeg = encoded(image, exif=EXIF, restart_marker_blocks=2)
    at = jpeg.index(bytes([0xFF, lost]))
    with pytest.raises(BadImage):
        store(jpeg[:at] + b"\x00" + jpeg[at + 1 :])


def test_a_scan_that_lost_its_marker_is_no_stray_bytes(image: Image.Image, encoded: Encoder) -> None:
    jpeg = encoded(image, progressive=True)
    for k, piece in enumerate(pieces := pieces_of(jpeg)):
        if piece.kind == SCAN and k > 9:
            with pytest.raises(BadImage, match=r"extraneous bytes|Inconsistent progression"):
                store(joined([*pieces[:k], Piece(0, b"\0" + piece.data[1:]), *pieces[k + 1 :]]))


def test_the_loader_reads_what_was_repaired(image: Image.Image, encoded: Encoder, tmp_path) -> None:
    stored = [store(change(encoded(image, quality=90))) for change in HARMLESS.values()]
    sizes = np.array([len(one.data) for one in stored], np.uint64)
    (tmp_path / "images").write_bytes(b"".join(one.data for one in stored))
    sides = (np.full(len(stored), side, np.int64) for side in (HEIGHT, WIDTH))
    modes = np.zeros(len(stored), np.uint8)
    reader = ImageReader(tmp_path / "images", np.cumsum(sizes) - sizes, sizes, modes, *sides, num_workers=1)
    rows = np.arange(len(stored))
    read = reader.read(rows, reader.whole_boxes(rows), (HEIGHT, WIDTH))
    expected = np.asarray(Image.open(io.BytesIO(encoded(image, quality=90)))).astype(int)
    assert np.abs(read - expected).mean() < 1.5  # the loader's inverse DCT is the fast one
    assert (read == read[:1]).all()
