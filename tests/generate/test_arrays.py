"""Export to arrays: images and classes stay the same, and a set that arrays cannot hold is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tests.flips import check_flips, flip
from tests.generate.sets import command

from debeton.data.raw.synthetic_images import MANIFEST, read_synthetic_rows
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DamagedFile

SPEC = DatasetSpec("pets", ("cat", "dog"), ("in", "out"), aligned=((0,), (1,)))


def write_set(folder, attribute=None, sizes=(8, 8, 8, 8)) -> list[np.ndarray]:
    """Write a set of two cats, two dogs and a rejected image, and return the four kept images."""
    rng = np.random.default_rng(0)
    images, lines = [], []
    for k, (label, size) in enumerate(zip(("cat", "cat", "dog", "dog"), sizes)):
        image = rng.integers(0, 256, (size, 6, 3), dtype=np.uint8)
        path = folder / label / "_" / f"{k % 2:08}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        images.append(image)
        lines.append(
            {
                "path": str(path.relative_to(folder)),
                "label": label,
                "attribute": attribute,
                "number": k % 2,
                "attempt": 0,
                "verdict": "keep",
            }
        )
    lines.append({**lines[0], "attempt": 1, "verdict": "black", "path": "cat/_/00000009.png"})
    (folder / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    return images


def test_arrays_hold_the_images_of_a_set_in_the_same_order(tmp_path, capsys):
    images = write_set(tmp_path / "set")
    assert command("--out", tmp_path / "set", "--arrays", tmp_path / "npy") == 0
    assert sorted(capsys.readouterr().out.split()) == [str(tmp_path / "npy" / f"{n}.npy") for n in ("cat", "dog")]
    rows = read_synthetic_rows(tmp_path / "npy", SPEC)
    assert rows.label.tolist() == [0, 0, 1, 1]
    for k, image in enumerate(images):
        np.testing.assert_array_equal(rows.image(k), image)


def test_every_flipped_bit_of_an_array_is_noticed_and_an_array_of_another_program_is_read(tmp_path):
    images = write_set(tmp_path / "set")
    for _ in range(2):  # the second time over the files of the first
        assert command("--out", tmp_path / "set", "--arrays", tmp_path / "npy") == 0
    array = tmp_path / "npy" / "cat.npy"
    noticed, harmless = check_flips(array, 31, lambda: read_synthetic_rows(tmp_path / "npy", SPEC), lambda rows: False)
    assert (noticed > 50, harmless) == (True, 0)
    flip(array, array.stat().st_size - 1)
    beside = f"{array.name}.sha256"
    with pytest.raises(DamagedFile, match=rf"{array} is not what was written: .* {beside}; write the array again"):
        read_synthetic_rows(tmp_path / "npy", SPEC)
    (tmp_path / "npy" / beside).unlink()
    found = read_synthetic_rows(tmp_path / "npy", SPEC).image(1)
    assert np.flatnonzero(found != images[1]).tolist() == [images[1].size - 1]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"attribute": "in"}, 2, "was made by cells (in), and arrays hold classes alone"),
        ({"sizes": (8, 8, 8, 9)}, 1, "dog/_/00000001.png is 6 x 9 pixels, and set/dog/_/00000000.png is 6 x 8"),
    ],
)
def test_a_set_that_arrays_cannot_hold_is_refused_without_partial_files(tmp_path, capsys, change, status, message):
    write_set(tmp_path / "set", **change)
    assert command("--out", tmp_path / "set", "--arrays", tmp_path / "npy") == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "npy" / "dog.npy").exists()
    assert not list(tmp_path.glob("npy/*.partial"))


def test_a_folder_without_a_manifest_has_no_arrays(tmp_path, capsys):
    assert command("--out", tmp_path, "--arrays", tmp_path / "npy") == 1
    assert "holds no images: no manifest" in capsys.readouterr().err
