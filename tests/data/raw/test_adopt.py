"""Betons that stock FFCV wrote, with fields of any name: adopted, opened, read, merged and trained on."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.toy import stored_image

import debeton
from debeton.commands import dispatch
from debeton.data.beton.ffcv_format import HEADER, RAW
from debeton.data.beton.merge import merge_betons
from debeton.data.beton.sidecar import columns_path, sidecar_path
from debeton.system.errors import DataError, run_command

N = 30


def picture(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (20, 24, 3), dtype=np.uint8)


class Samples:
    """A data set by index for FFCV's writer, which takes any picklable one."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        values = {
            "pic": picture(row),
            "second": picture(row + 100),
            "y": row % 3,
            "place": row % 2,
            "weight": row / 4,
            "num": np.array([7 * row], np.int32),
            "tensor": torch.tensor([row % 5]),
            "covariate": np.zeros(3, np.float32),
            "meta": {"site": f"s{row % 5}", "box": [1, 2], "age": row + 0.5},
            "raw": np.frombuffer(b"abc"[: row % 3], np.uint8),
        }
        return tuple(values[name] for name in self.names)


def write_stock(path: Path, *names: str) -> Path:
    """Write a beton with FFCV's own writer."""
    from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField, TorchTensorField
    from ffcv.writer import DatasetWriter

    fields = {
        "pic": lambda: RGBImageField(write_mode="proportion", compress_probability=0.5),
        "second": RGBImageField,
        "y": IntField,
        "place": IntField,
        "weight": FloatField,
        "num": lambda: NDArrayField(np.dtype("int32"), (1,)),
        "tensor": lambda: TorchTensorField(torch.int64, (1,)),
        "covariate": lambda: NDArrayField(np.dtype("float32"), (3,)),
        "meta": JSONField,
        "raw": BytesField,
    }
    writer = DatasetWriter(str(path), {name: fields[name]() for name in names}, num_workers=2)
    writer.from_indexed_dataset(Samples(names), chunksize=7)
    return path


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton with every kind of field that FFCV has."""
    folder = tmp_path_factory.mktemp("stock")
    return write_stock(
        folder / "mine_train.beton", *("y", "meta", "raw", "pic", "place", "weight", "num", "tensor", "covariate")
    )


@pytest.fixture
def mine(stock: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(stock, tmp_path / "mine_train.beton"))


def test_fields_of_any_name_become_label_attribute_and_columns_and_the_file_is_not_changed(mine: Path) -> None:
    before = mine.read_bytes()
    sidecar = debeton.adopt_beton(mine, label="y", attribute="place", classes=("ant", "bee", "cat"))
    assert mine.read_bytes() == before
    beton = debeton.open_beton(mine)
    assert (beton.spec.name, beton.split, beton.spec.classes) == ("mine", "train", ("ant", "bee", "cat"))
    assert (beton.spec.label_name, beton.spec.attribute_name) == ("y", "place")
    assert beton.label.tolist() == [row % 3 for row in range(N)]
    assert beton.attribute.tolist() == [row % 2 for row in range(N)]
    assert beton.group.tolist() == [2 * (row % 3) + row % 2 for row in range(N)]
    assert sidecar["columns"] == ["meta.age", "meta.site", "num", "path", "tensor", "weight"]
    assert beton.extra["num"].tolist() == [7 * row for row in range(N)]
    assert beton.extra["weight"].tolist() == [row / 4 for row in range(N)]
    assert beton.extra["meta.age"].tolist() == [row + 0.5 for row in range(N)]
    site = beton.spec.columns["meta.site"]
    assert [site[code] for code in beton.extra["meta.site"].tolist()] == [f"s{row % 5}" for row in range(N)]
    assert "#label" not in beton.extra
    assert 0 < (beton.modes == 0).sum() < N  # both kinds of stored images
    for row in np.flatnonzero(beton.modes == 1).tolist():
        np.testing.assert_array_equal(stored_image(mine, row), picture(row))


def test_the_loader_reads_the_images_that_ffcv_stored(mine: Path) -> None:
    debeton.adopt_beton(mine, label="y")
    beton = debeton.open_beton(mine)
    view, options, seen = debeton.View.whole(beton), debeton.LoaderOptions(normalise=False), []
    for batch in debeton.make_loader(view, 10, tail="keep", seed=1, options=options):
        for image, row in zip(batch.image, batch.row.tolist()):
            pixels = image.permute(1, 2, 0).numpy()
            if beton.modes[row] == RAW:
                np.testing.assert_array_equal(pixels, picture(row))
            else:
                stored = mine.read_bytes()[int(beton.offsets[row]) :][: int(beton.sizes[row])]
                by_pillow = np.asarray(Image.open(io.BytesIO(stored)))
                np.testing.assert_allclose(pixels.astype(int), by_pillow.astype(int), atol=2)
            seen.append(row)
    assert sorted(seen) == list(range(N))


def test_the_content_of_an_adopted_beton_is_known_and_checked_like_any_other(mine: Path) -> None:
    debeton.adopt_beton(mine, label="y", attribute="place")
    beton = debeton.open_beton(mine)
    assert beton.has_content
    assert beton.content == beton.read_content()
    beton.check_sidecar()
    first = dict(beton.content)
    debeton.adopt_beton(mine, label="place")
    second = debeton.open_beton(mine).content
    assert {part for part in first if first[part] != second[part]} == {"labels", "attributes", "columns"}


def test_columns_and_a_sidecar_of_two_adoptions_do_not_go_together(mine: Path) -> None:
    debeton.adopt_beton(mine, label="y", attribute="place")
    older = columns_path(mine).read_bytes()
    debeton.adopt_beton(mine, label="place", attribute="y")
    columns_path(mine).write_bytes(older)
    with pytest.raises(DataError, match="were not written together"):
        debeton.open_beton(mine)


def test_a_changed_field_of_an_adopted_beton_is_noticed(mine: Path) -> None:
    debeton.adopt_beton(mine, label="y")
    with mine.open("r+b") as file:
        file.seek(HEADER.itemsize + 9 * 1044 + 60)
        file.write(b"\xff\xff")
    with pytest.raises(DataError, match="disagree"):
        debeton.open_beton(mine)


def test_adopted_betons_merge_with_ours(mine: Path, tmp_path: Path) -> None:
    debeton.adopt_beton(mine, label="y", attribute="place", spec=None)
    images = np.stack([picture(row + 50) for row in range(6)])
    spec = debeton.open_beton(mine).spec
    rows = debeton.rows_from_arrays(images, [0, 1, 2] * 2, [0, 1] * 3)
    debeton.write_beton(
        tmp_path / "ours.beton", rows, debeton.DatasetSpec("ours", spec.classes, spec.attributes), "train"
    )
    sidecar = merge_betons([mine, tmp_path / "ours.beton"], tmp_path / "both.beton", "train")
    both = debeton.open_beton(tmp_path / "both.beton")
    assert both.label.tolist() == [row % 3 for row in range(N)] + [0, 1, 2] * 2
    assert sidecar["image_options"] is None
    assert both.extra["weight"][:4].tolist() == [0, 0.25, 0.5, 0.75]
    row = int(np.flatnonzero(both.modes[:N] == 1)[0])
    np.testing.assert_array_equal(stored_image(tmp_path / "both.beton", row), picture(row))


def test_a_csv_gives_what_the_file_lacks_in_row_order_or_by_a_column(tmp_path: Path) -> None:
    path = write_stock(tmp_path / "only_test.beton", "pic", "num")
    table = tmp_path / "rows.csv"
    table.write_text("kind,site\n" + "".join(f"k{row % 3},{row % 4}\n" for row in range(N)))
    debeton.adopt_beton(path, csv=table, label="kind", attribute="site")
    in_order = debeton.open_beton(path)
    lines = [f"{7 * row},k{row % 3},{row % 4}\n" for row in range(N + 5)]
    table.write_text("num,kind,site\n" + "".join(reversed(lines)))
    debeton.adopt_beton(path, csv=table, csv_index="num", label="kind", attribute="site")
    by_number = debeton.open_beton(path)
    for beton in (in_order, by_number):
        assert beton.spec.classes == ("k0", "k1", "k2")
        assert beton.label.tolist() == [row % 3 for row in range(N)]
        assert beton.attribute.tolist() == [row % 4 for row in range(N)]
    for change, message in (
        (lines[1:], "no line has the num 0 of row 0; 1 of 30 rows have no line"),
        ([*lines, lines[0]], "line 37: the num 0 is listed twice, first in line 2"),
    ):
        table.write_text("num,kind,site\n" + "".join(change))
        with pytest.raises(DataError, match=message):
            debeton.adopt_beton(path, csv=table, csv_index="num", label="kind")
    table.write_text("kind,site\n" + "k,1\n" * 7)
    with pytest.raises(DataError, match="has 7 lines below its header, and the beton has 30 rows"):
        debeton.adopt_beton(path, csv=table, label="kind")


def test_out_is_a_link_so_that_the_folder_of_the_beton_stays_as_it_is(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "pets_train.beton"
    debeton.adopt_beton(mine, label="y", out=out)
    assert sorted(file.name for file in mine.parent.iterdir()) == ["data", "mine_train.beton"]
    assert out.is_symlink()
    beton = debeton.open_beton(out)
    assert (beton.spec.name, beton.label[:3].tolist()) == ("pets", [0, 1, 2])
    debeton.adopt_beton(mine, label="place", out=out)
    assert debeton.open_beton(out).label[:3].tolist() == [0, 1, 0]
    other = tmp_path / "other.beton"
    other.write_bytes(b"something")
    with pytest.raises(DataError, match="exists and is another file"):
        debeton.adopt_beton(mine, label="y", out=other, split="train")


def cut(data: bytes, size: int) -> bytes:
    return data[:size]


def unfinished(data: bytes) -> bytes:
    header = np.frombuffer(data[: HEADER.itemsize], HEADER).copy()
    header["alloc_table_ptr"] = 0
    return header.tobytes() + data[HEADER.itemsize :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: cut(data, 100), "100 bytes are fewer than its header needs"),
        (lambda data: cut(data, len(data) // 2), "cut short: 30 rows and a table at byte"),
        (lambda data: cut(data, len(data) - 5), "cut short: its last table ends within an entry"),
        (lambda data: cut(data, len(data) - 24 * 60), "table of stored bytes lacks the image of row"),
        (unfinished, "never finished"),
        (lambda data: b"\x89PNG" + data[4:], "format version"),
    ],
    ids=["header", "half", "in the table", "two entries", "unfinished", "no beton"],
)
def test_a_beton_that_is_not_whole_is_refused_in_one_sentence(mine: Path, change: Any, message: str) -> None:
    mine.write_bytes(change(mine.read_bytes()))
    with pytest.raises(DataError, match=message):
        debeton.adopt_beton(mine, label="y")
    assert not sidecar_path(mine).exists()


def test_images_labels_and_types_that_are_not_there_are_named(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"attribute 'plac' is unknown; did you mean 'place'\? single values are in y, meta"
    ):
        debeton.adopt_beton(mine, attribute="plac")
    with pytest.raises(DataError, match=r"the label 'covariate' is NDArrayField \[3\]; single values"):
        debeton.adopt_beton(mine, label="covariate")
    with pytest.raises(DataError, match=r"number with decimals, such as 0\.25"):
        debeton.adopt_beton(mine, label="weight")
    with pytest.raises(DataError, match="no image field 'y'"):
        debeton.adopt_beton(mine, image="y")
    two = write_stock(tmp_path / "two_train.beton", "pic", "second", "y")
    with pytest.raises(DataError, match="2 fields with images, pic and second; say which one with --image"):
        debeton.adopt_beton(two)
    debeton.adopt_beton(two, image="second")
    beton = debeton.open_beton(two)
    np.testing.assert_array_equal(stored_image(two, 3), picture(103))
    assert beton.spec.label_name == "y"
    none = write_stock(tmp_path / "none_train.beton", "y", "weight")
    with pytest.raises(DataError, match="no field with images; its fields are y \\(IntField\\), weight"):
        debeton.adopt_beton(none)


def test_a_field_of_a_type_of_ones_own_is_refused(mine: Path) -> None:
    data = bytearray(mine.read_bytes())
    data[HEADER.itemsize] = 255  # the type of the first field, 'y'
    mine.write_bytes(bytes(data))
    with pytest.raises(DataError, match="the field 'y' has a type of its own"):
        debeton.adopt_beton(mine, label="place")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 12_000), st.integers(1, 255)), min_size=1, max_size=6))
def test_damage_to_the_header_and_the_tables_is_one_sentence_or_harmless(
    mine: Path, stock: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(stock.read_bytes())
    for position, difference in changes:
        data[position] ^= difference
    mine.write_bytes(bytes(data))
    try:
        debeton.adopt_beton(mine, label="y", attribute="place")
        beton = debeton.open_beton(mine)
    except DataError:
        return
    assert len(beton) == N
    assert beton.content == beton.read_content()


def test_our_own_betons_need_no_adoption(tmp_path: Path) -> None:
    path = tmp_path / "ours_train.beton"
    rows = debeton.rows_from_arrays(np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 0])
    debeton.write_beton(path, rows, debeton.DatasetSpec("ours", ("a", "b")), "train")
    with pytest.raises(DataError, match=r"has a sidecar.*can be used as it is"):
        debeton.adopt_beton(path)
    sidecar_path(path).unlink()
    debeton.adopt_beton(path, classes=("a", "b"))  # a beton whose sidecar was lost
    assert debeton.open_beton(path).label.tolist() == [0, 1, 0]


def test_the_command_adopts_and_wrong_use_of_it_has_exit_status_2(mine: Path, capsys: Any, tmp_path: Path) -> None:
    def command(*words: object) -> int:
        return run_command(lambda: dispatch.main(["write-betons", *map(str, words)]))

    assert command("--adopt", mine, "--label", "y", "--attribute", "place", "--attributes", "in,out") == 0
    text = capsys.readouterr().out
    assert "30 rows of mine/train; image is 'pic', label is 'y', attribute is 'place'; 0, in 5" in text
    assert f"--data.dataset mine --training.data_root {mine.parent}" in text
    assert json.loads(sidecar_path(mine).read_text())["adopted"] == {"image": "pic", "label": "y", "attribute": "place"}
    assert command("--adopt", mine, "--dataset", "folder") == 2
    assert command("--adopt", mine, "--csv-index", "num") == 2
    assert "no CSV is given" in capsys.readouterr().err
    assert command("--adopt", tmp_path / "nothing_train.beton") == 1
    assert "there is no beton" in capsys.readouterr().err
