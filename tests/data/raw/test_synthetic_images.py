"""Every layout of synthetic images gives the same rows, and they enter a beton with source 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from debeton.data.beton.images import to_rgb
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.raw.synthetic_images import append_synthetic, read_synthetic_rows
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.system.errors import DataError

SPEC = DatasetSpec(
    "faces",
    ("serious", "smiling"),
    ("Female", "Male"),
    label_name="Smiling",
    attribute_name="Male",
    columns={"Smiling": ("serious", "smiling"), "Male": ("Female", "Male"), "Young": ("old", "young")},
    generated_folders={
        f"{top}Smiling/{y}/{sex}": (y, a)
        for top in ("", "celeba/")
        for y in (0, 1)
        for a, sex in enumerate(("Female", "Male"))
    },
)


def paint(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level, 0, 255 - level)).save(path)


def cells(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows.label.tolist(), rows.attribute.tolist()))


@pytest.mark.parametrize(
    "pattern", ["celeba/Smiling/{y}/{sex}/{i}.png", "Smiling/{y}/{sex}/{i}.png", "{name}/{sex}/{i}.png"]
)
def test_every_folder_layout_gives_the_cells(tmp_path: Path, pattern: str) -> None:
    for y, name in enumerate(SPEC.classes):
        for a, sex in enumerate(SPEC.attributes):
            for i in range(1 + y + a):
                paint(tmp_path / "gen" / pattern.format(y=y, sex=sex, name=name, i=i), 100 * y + 50 * a)
    rows = read_synthetic_rows(tmp_path / "gen", SPEC)
    assert sorted(cells(rows)) == [(0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1), (1, 1)]
    for row, (y, a) in enumerate(cells(rows)):
        assert to_rgb(rows.image(row))[0, 0, 0] == 100 * y + 50 * a
    assert rows.source is not None
    assert rows.source.tolist() == [1] * 8
    assert all(name.startswith("gen/") for name in rows.names)
    assert rows.columns["blind"] == [0] * 8


def test_images_of_a_class_without_an_attribute_are_blind(tmp_path: Path) -> None:
    paint(tmp_path / "smiling" / "a.png", 1)
    paint(tmp_path / "smiling" / "Male" / "b.png", 2)
    rows = read_synthetic_rows(tmp_path, SPEC)
    assert cells(rows) == [(1, 1), (1, 0)]
    assert rows.columns["blind"] == [0, 1]


def test_a_manifest_gives_only_the_accepted_images(tmp_path: Path) -> None:
    lines = [
        {
            "path": "0.png",
            "label": "smiling",
            "attribute": "Male",
            "verdict": "keep",
            "prompt": "a face",
            "seed": 2**62,
        },
        {"path": "1.png", "label": 0, "attribute": 1, "verdict": "grey"},
        {"path": "2.png", "label": 0, "attribute": None},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = read_synthetic_rows(tmp_path, SPEC)
    assert cells(rows) == [(1, 1), (0, 0)]
    assert rows.columns["blind"] == [0, 1]
    assert rows.columns["prompt"] == ["a face", ""]
    assert rows.columns["seed"] == [2**62, -1]
    assert rows.absent is not None
    assert rows.absent().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{\n", r"manifest\.jsonl, line 1 is not JSON.*it needs path, label and attribute"),
        ("{", r"manifest\.jsonl lists no image with the verdict 'keep'"),
        ('{"path": "a.png"}', r"manifest\.jsonl, line 1 lacks 'label'"),
        (
            '{"path": "a.png", "label": "smilling", "attribute": null}',
            "unknown class 'smilling'; did you mean 'smiling'",
        ),
        ('{"path": "a.png", "label": 0, "attribute": 2}', "unknown attribute '2'"),
        ('{"path": "a.png", "label": 0, "attribute": 0, "verdict": "black"}', "lists no image with the verdict 'keep'"),
    ],
)
def test_a_wrong_manifest_raises_a_clear_message(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(line)
    with pytest.raises(DataError, match=words):
        read_synthetic_rows(tmp_path, SPEC)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("names", [["images", "labels"], ["serious", "smiling"], ["0", "1"], ["class_0", "class_1"]])
def test_arrays_of_a_class_conditional_generator_are_blind_rows(
    tmp_path: Path, names: list[str], channels_first: bool
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    label = np.array([0, 0, 0, 1, 1, 1, 1])
    stored = images.transpose(0, 3, 1, 2) if channels_first else images
    if names[0] == "images":
        np.save(tmp_path / "images.npy", stored)
        np.save(tmp_path / "labels.npy", label)
    else:
        for k, name in enumerate(names):
            np.save(tmp_path / f"{name}.npy", stored[label == k])
    rows = read_synthetic_rows(tmp_path, SPEC)
    assert cells(rows) == [(int(k), 0) for k in label]
    np.testing.assert_array_equal(np.stack([to_rgb(rows.image(i)) for i in range(7)]), images)
    assert np.asarray(rows.columns["blind"]).tolist() == [1] * 7


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, r"no labels\.npy beside it"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.array([0, 2])}, "2 labels from 0 to 2 for 2 images"),
        ({"serious": np.zeros((2, 4, 4), np.uint8)}, r"uint8\[2, 4, 4\]; expected uint8 \[N, H, W, 3\]"),
        ({"seriuos": np.zeros((2, 4, 4, 3), np.uint8)}, "unknown class 'seriuos'; did you mean 'serious'"),
        ({"serious": np.array([object()])}, "cannot be read as an array"),
    ],
)
def test_wrong_arrays_raise_a_clear_message(tmp_path: Path, arrays: dict, words: str) -> None:
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=words):
        read_synthetic_rows(tmp_path, SPEC)


def test_a_folder_in_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    paint(tmp_path / "other" / "x.png", 3)
    with pytest.raises(DataError, match=r"neither manifest\.jsonl, \*\.npy, CLASS/ATTRIBUTE/\* nor CLASS/\*"):
        read_synthetic_rows(tmp_path, SPEC)
    with pytest.raises(DataError, match="is not a folder"):
        read_synthetic_rows(tmp_path / "nope", SPEC)


@pytest.fixture
def written(tmp_path: Path, photo: Callable[..., np.ndarray]) -> Path:
    """Write a raw beton of four real rows and three synthetic ones."""
    for i, cell in enumerate(("serious/Female", "smiling/Male", "smiling/Male")):
        paint(tmp_path / "gen" / cell / f"{i}.png", i)
    real = Rows(
        np.array([0, 1, 0, 1]),
        np.array([0, 0, 1, 1]),
        photo,
        [f"{i}.jpg" for i in range(4)],
        {"Smiling": [0, 1, 0, 1], "Male": [0, 0, 1, 1], "Young": [1, 0, 1, 0], "photographer": ["a", "b", "c", "d"]},
    )
    both = append_synthetic(real, read_synthetic_rows(tmp_path / "gen", SPEC))
    write_beton(tmp_path / "faces_train.beton", both, SPEC, "train", WriteOptions(mode="raw"))
    return tmp_path / "faces_train.beton"


def test_synthetic_rows_enter_the_same_beton_with_source_1(written: Path) -> None:
    beton = open_beton(written)
    assert beton.source.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert beton.label.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert beton.extra["Smiling"].tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert beton.extra["Young"].tolist() == [1, 0, 1, 0, -1, -1, -1]
    assert beton.extra["photographer"].tolist() == ["a", "b", "c", "d", "", "", ""]
    assert beton.extra["path"].tolist()[4:] == [
        "gen/serious/Female/0.png",
        "gen/smiling/Male/1.png",
        "gen/smiling/Male/2.png",
    ]


def test_a_task_with_unknown_values_for_synthetic_rows_leaves_them_out(written: Path) -> None:
    view = View.whole(open_beton(written))
    assert len(view.with_task("Male", "Smiling")) == 7
    young = view.with_task("Young", "Male")
    assert young.rows.tolist() == [0, 1, 2, 3]
    assert young.label[young.rows].tolist() == [1, 0, 1, 0]
