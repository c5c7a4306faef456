"""The source 'folder': tables under any names of columns, further columns, patterns of paths, and their errors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.sources import SOURCES
from debeton.data.sources.folder import Dataset
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError


def load(raw: Path, **options: Any) -> Dataset:
    source = SOURCES.get("folder")
    return source.load(source.request(raw, **options))


def table(raw: Path, text: str | bytes, name: str = "metadata.csv", **options: Any) -> Dataset:
    """Load a table. Its images need not exist: no test here writes betons."""
    raw.mkdir(exist_ok=True)
    content = text if isinstance(text, bytes) else text.encode()
    (raw / name).write_bytes(content)
    return load(raw, **options)


def image_files(raw: Path, *names: str) -> Path:
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"")
    return raw


# --- names of columns ----------------------------------------------------------------------------------------------

FIELDS_TABLES = {
    "SCALE's CelebA": "filename,split,y,a\n{},0,0,1\n{},0,1,0\n{},2,1,1\n",
    "DFR's Waterbirds": "img_id,img_filename,y,split,place,place_filename\n1,{},0,0,1,/b/x.jpg\n2,{},1,0,0,/b/y.jpg\n"
    "3,{},1,2,1,/b/x.jpg\n",
    "long names": "path,label,attribute,split\n{},0,1,train\n{},1,0,train\n{},1,1,test\n",
    "capitals and blanks": "Image Path, Class ,Domain,Partition\n{},0,1,train\n{},1,0,train\n{},1,1,test\n",
    "semicolons": "file;target;spurious;set\n{};0;1;train\n{};1;0;train\n{};1;1;test\n",
    "tabs": "img\tcategory\tbackground\tsubset\n{}\t0\t1\ttrain\n{}\t1\t0\ttrain\n{}\t1\t1\ttest\n",
    "a BOM and CRLF": "\ufefffile_name,label,env,phase\r\n{},0,1,train\r\n{},1,0,train\r\n{},1,1,test\r\n",
    "an index of pandas and an empty row": ",image_id,y,a,split\n0,{},0,1,train\n1,{},1,0,train\n2,{},1,1,test\n,,,,\n",
}


@pytest.mark.parametrize("text", FIELDS_TABLES.values(), ids=FIELDS_TABLES)
def test_the_columns_of_the_fields_tables_are_known_by_their_names(text, tmp_path):
    dataset = table(tmp_path, text.format("a/1.jpg", "a/2.jpg", "b/3.jpg"))
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (list(train.names), list(test.names)) == (["a/1.jpg", "a/2.jpg"], ["b/3.jpg"])
    assert (train.label.tolist(), test.label.tolist()) == ([0, 1], [1])
    assert (train.attribute.tolist(), test.attribute.tolist()) == ([1, 0], [1])


def test_a_note_says_which_columns_were_taken_and_what_is_kept(tmp_path):
    dataset = table(tmp_path, FIELDS_TABLES["DFR's Waterbirds"].format("1.jpg", "2.jpg", "3.jpg"))
    assert dataset.notes == (
        "path is the column 'img_filename', label is the column 'y', attribute is the column 'place', split is the "
        "column 'split' (--columns says it otherwise)",
        "further columns are kept beside: img_id (numbers), place_filename (2 names)",
    )
    assert (dataset.spec.label_name, dataset.spec.attribute_name) == ("y", "place")


def test_columns_of_any_name_are_given_by_role(tmp_path):
    text = 'where,kind,"scene, rough",when\n1.jpg,cat,in,train\n2.jpg,dog,out,train\n3.jpg,cat,out,val\n'
    options = {"columns": 'path=where,label=kind,attribute="scene, rough",split=when'}
    dataset = table(tmp_path, text, **options)
    assert dataset.spec.group_names == ("cat, in", "cat, out", "dog, in", "dog, out")
    assert dataset.splits["train"].attribute.tolist() == [0, 1]
    assert list(dataset.splits) == ["train", "val"]
    assert dataset.spec.attribute_name == "scene, rough"


def test_an_empty_role_is_no_column_and_the_column_is_kept_beside(tmp_path):
    dataset = table(tmp_path, "path,label,attribute\n1.jpg,a,x\n2.jpg,b,y\n", columns="attribute=")
    assert (dataset.spec.attributes, dataset.spec.attribute_name) == (("any",), "any")
    assert dataset.spec.columns == {"attribute": ("x", "y")}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("path=file,labl=y", "unknown role 'labl'; did you mean 'label'"),
        ("path=fiel,label=y", "has no column 'fiel'; did you mean 'file'.* it has file, y, site"),
        ("file", "expected ROLE=COLUMN"),
        ("label=", "every table needs one for the label"),
        ("path=file,label=file", "gives the column 'file' two roles"),
        ("label=y,label=site", "gives label twice"),
    ],
)
def test_wrong_columns_are_usage_errors(columns, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        table(tmp_path, "file,y,site\n1.jpg,0,a\n2.jpg,1,b\n", columns=columns)


def test_two_columns_that_can_be_the_label_are_not_chosen_between(tmp_path):
    text = "path,class,target\n1.jpg,a,0\n2.jpg,b,1\n"
    with pytest.raises(DataError, match="'class' and 'target' can both be the label; say which with --columns label="):
        table(tmp_path, text)
    assert table(tmp_path, text, columns="label=class").spec.classes == ("a", "b")


def test_a_column_called_set_is_the_split_only_where_its_values_are_splits(tmp_path):
    dataset = table(tmp_path, "path,label,set\n1.jpg,a,x\n2.jpg,b,y\n")
    assert list(dataset.splits) == ["train"]
    assert dataset.spec.columns == {"set": ("x", "y")}


def test_columns_that_could_be_the_attribute_are_named_where_none_is_chosen(tmp_path):
    dataset = table(tmp_path, "path,label,site,sex\n1.jpg,a,x,f\n2.jpg,b,y,m\n")
    assert dataset.notes[-1] == (
        "no column is the spurious attribute, so results have no groups by attribute; site, sex could be: write it "
        "with --columns attribute=site, or train with --data.attribute site"
    )
    with pytest.raises(UsageError, match=r"--attributes names attributes, and no column of .* is the attribute"):
        load(tmp_path, attributes="x,y")


# --- further columns -----------------------------------------------------------------------------------------------


def further(tmp_path: Path, *cells: str) -> tuple[Any, tuple[str, ...] | None]:
    """Return the values and the names of a further column with these cells."""
    lines = [f'{k}.jpg,{"ab"[k % 2]},"{cell}"' for k, cell in enumerate(cells)]
    dataset = table(tmp_path, "path,label,more\n" + "\n".join(lines) + "\n")
    return dataset.splits["train"].columns["more"], dataset.spec.columns.get("more")


@pytest.mark.parametrize(
    ("cells", "values", "names"),
    [
        (("f", "m", "f", ""), [0, 1, 0, -1], ("f", "m")),
        (("m", "NA", "unknown", "f"), [1, -1, -1, 0], ("f", "m")),
        (("0", "1", "1", "-1"), [0, 1, 1, -1], ("0", "1")),
        (("1.0", "0.0", "", "1.0"), [1, 0, -1, 1], ("0", "1")),
        (("-1", "1", "1", "-1"), [0, 1, 1, 0], ("-1", "1")),
        (("10", "9", "10", "9", "101", "101"), [1, 0, 1, 0, 2, 2], ("9", "10", "101")),
        (("17", "4", "23", "99"), [17, 4, 23, 99], None),
        (("17", "4", "", "99"), [17, 4, -1, 99], None),
        (("0.5", "-1", "nan", "1e3"), [0.5, -1.0, np.nan, 1000.0], None),
        (("007", "012", "007", "012"), [0, 1, 0, 1], ("007", "012")),
        (("True", "False", "True", "True"), [1, 0, 1, 1], ("False", "True")),
    ],
)
def test_a_further_column_is_named_codes_or_numbers(cells, values, names, tmp_path):
    column, found = further(tmp_path, *cells)
    np.testing.assert_array_equal(column, values)
    assert found == names


def test_many_different_words_stay_text_and_many_numbers_stay_numbers(tmp_path):
    words = [f"photo of {k}" for k in range(30)]
    assert further(tmp_path, *words) == (words, None)
    numbers = [k % 25 for k in range(100)]
    column, names = further(tmp_path, *map(str, numbers))
    assert (column.tolist(), names) == (numbers, None)
    sites = [f"site {k % 100:03}" for k in range(300)]
    column, names = further(tmp_path, *sites)
    assert [names[code] for code in column] == sites


def test_codes_are_those_of_the_whole_table_in_every_split(tmp_path):
    text = "path,label,split,site\n1.jpg,a,train,x\n2.jpg,b,train,z\n3.jpg,a,test,y\n4.jpg,b,test,z\n"
    dataset = table(tmp_path, text)
    assert dataset.spec.columns == {"site": ("x", "y", "z")}
    assert dataset.splits["train"].columns["site"].tolist() == [0, 2]
    assert dataset.splits["test"].columns["site"].tolist() == [1, 2]


def test_a_column_without_values_is_left_out_and_names_that_a_sidecar_cannot_hold_are_changed(tmp_path):
    text = "file,label,path,no#1,notes\n1.jpg,a,x,1,\n2.jpg,b,y,0,NA\n"
    dataset = table(tmp_path, text, columns="path=file")
    assert sorted(dataset.splits["train"].columns) == ["no_1", "path_"]
    assert dataset.notes[2] == "left out, because no row has a value: notes"


def test_further_columns_of_a_beton_become_its_label_attribute_and_products_with_their_names(tmp_path):
    for k in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    lines = [f"{k}.png,{'ab'[k % 2]},{'xy'[k // 2 % 2]},{'fm'[k // 4]},{k / 3:.2f}" for k in range(8)]
    dataset = table(tmp_path, 'path,label,"site, city",sex,age\n' + "\n".join(lines))
    write_beton(tmp_path / "b.beton", dataset.splits["train"], dataset.spec, "train", WriteOptions(mode="raw"))
    view = View.whole(open_beton(tmp_path / "b.beton"), "train")
    by_both = view.with_task(attribute='"site, city",sex', aligned="a:x + f,a:x + m,b:y + f,b:y + m")
    assert by_both.spec.attributes == ("x + f", "x + m", "y + f", "y + m")
    assert by_both.counts_by_name() == {f"{c}, {s} + {g}": 1 for c in "ab" for s in "xy" for g in "fm"}
    assert by_both.spec.aligned == ((0, 1), (2, 3))
    swapped = view.with_task(label="sex", attribute="label")
    assert swapped.spec.group_names == ("f, a", "f, b", "m, a", "m, b")
    assert view.beton.extra["age"].tolist() == [round(k / 3, 2) for k in range(8)]
    with pytest.raises(UsageError, match=r'no column \'age\' with named codes \(it holds other .* "site, city"'):
        view.with_task(attribute="age")


# --- paths and broken tables ---------------------------------------------------------------------------------------


def test_paths_with_backslashes_dots_and_absolute_ones_below_raw_are_those_of_the_tree(tmp_path):
    image_files(tmp_path, "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/odd\\name.jpg")
    text = f"path,label\na\\1.jpg,0\n./a//2.jpg,1\n{tmp_path}/a/3.jpg,0\na/odd\\name.jpg,1\n"
    dataset = table(tmp_path, text)
    assert list(dataset.splits["train"].names) == ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/odd\\name.jpg"]
    assert dataset.splits["train"].absent().tolist() == []


def test_absolute_paths_elsewhere_are_used_and_reported(tmp_path):
    image_files(tmp_path / "elsewhere", "1.jpg")
    image_files(tmp_path / "raw", "2.jpg")
    dataset = table(tmp_path / "raw", f"path,label\n{tmp_path}/elsewhere/1.jpg,0\n2.jpg,1\n")
    assert dataset.splits["train"].absent().tolist() == []
    assert dataset.splits["train"].image(0) == tmp_path / "elsewhere/1.jpg"
    assert dataset.notes == (
        f"1 paths lie outside of {tmp_path}/raw and are used as they are, the first is {tmp_path}/elsewhere/1.jpg",
    )


@pytest.mark.parametrize(
    ("there", "path", "message"),
    [
        ("images/1.jpg", "1.jpg", r"but images/1.jpg; pass --raw .*/images --csv .*metadata.csv"),
        ("1.jpg", "images/1.jpg", "but 1.jpg; write the paths as they are below --raw"),
        ("images/1.jpg", "1", "but images/1.jpg; write the paths with their suffix"),
    ],
)
def test_paths_of_another_folder_are_explained(there, path, message, tmp_path):
    image_files(tmp_path, there)
    with pytest.raises(DataError, match=message):
        table(tmp_path, f"path,label\n{path},0\nx/9.jpg,1\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty; its first line names the columns"),
        (b"\n\n", "is empty"),
        (b"path,label\n", "no row below its header"),
        (b"path,label,label\n1.jpg,a,b\n", "has 2 columns called 'label'; rename all but one"),
        (b"path,label\n1.jpg,a,b\n", "line 2: 3 cells, and the header has 2: 'b' is in no column"),
        (b"path,label\n1.jpg\n", "line 2: no label; every row needs path, label"),
        (b'path,label\n"1.jpg,a\n2.jpg,b\n', "is not a CSV file in UTF-8"),
        ("path,label\n1.jpg,caf\xe9\n".encode("latin-1"), "is not a CSV file in UTF-8 .*; save it as UTF-8"),
        (b"\x50\x4b\x03\x04\xff\xfe", "is not a CSV file in UTF-8"),
        (b"path,label\n1.jpg,nan\n", "line 2: the label is 'nan', a missing value"),
        (b"path,label\n1.jpg,a\na/../1.jpg,b\n", "line 3: 1.jpg is listed twice, first in line 2"),
    ],
)
def test_a_broken_table_is_one_sentence(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        table(tmp_path, text)


def test_empty_cells_beyond_the_header_are_no_fault(tmp_path):
    assert table(tmp_path, "path,label,\n1.jpg,a,,\n2.jpg,b,,\n").splits["train"].label.tolist() == [0, 1]


def test_a_table_is_found_in_raw_or_where_the_command_runs_and_in_a_zip(tmp_path, monkeypatch):
    raw = image_files(tmp_path / "raw", "1.jpg", "2.jpg")
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("path,label\n1.jpg,a\n2.jpg,b\n")
    assert load(raw, csv=Path("mine.csv")).splits["train"].label.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"there is no CSV file .*raw/none.csv and no none.csv"):
        load(raw, csv=Path("none.csv"))
    with zipfile.ZipFile("all.zip", "w") as archive:
        for name in ("pets/x/1.jpg", "pets/x/2.jpg"):
            archive.writestr(name, b"image")
        archive.writestr("pets/metadata.csv", "path,label\nx/1.jpg,a\nx/2.jpg,b\n")
    dataset = load(Path("all.zip"))
    assert list(dataset.splits["train"].names) == ["x/1.jpg", "x/2.jpg"]
    assert dataset.splits["train"].image(1) == b"image"


def test_names_with_commas_and_colons_are_given_in_quotes(tmp_path):
    text = 'path,label,attribute\n1.jpg,"salt, pepper",a:b\n2.jpg,sugar,c\n3.jpg,sugar,a:b\n'
    options = {"classes": 'sugar,"salt, pepper"', "attributes": "c,a:b", "aligned": '"salt, pepper":a:b,sugar:c'}
    dataset = table(tmp_path, text, **options)
    assert dataset.spec.classes == ("sugar", "salt, pepper")
    assert dataset.spec.aligned == ((0,), (1,))
    assert dataset.splits["train"].label.tolist() == [1, 0, 0]


# --- patterns ------------------------------------------------------------------------------------------------------

PATHS = ("train/cat/in/1.jpg", "train/dog/out/2.jpg", "train/cat/out/3.jpg", "test/dog/in/4.jpg")


def pattern(raw: Path, text: str, *names: str, **options: Any) -> Dataset:
    return load(image_files(raw, *names), pattern=text, **options)


@pytest.mark.parametrize(
    "text", ["{split}/{class}/{attribute}/*", "./{split}/{label}/{attribute}/**", "{split}/{class}/{attribute}/?.[jp]*"]
)
def test_a_pattern_reads_split_class_and_attribute(text, tmp_path):
    dataset = pattern(tmp_path, text, *PATHS, aligned="cat:in,dog:out")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.names == ["train/cat/in/1.jpg", "train/cat/out/3.jpg", "train/dog/out/2.jpg"]
    assert (train.label.tolist(), train.attribute.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert (test.label.tolist(), test.attribute.tolist()) == ([1], [0])
    assert dataset.spec.is_aligned(train.label, train.attribute).tolist() == [True, False, True]


def test_further_names_in_braces_are_columns(tmp_path):
    names = ("cat/home/x/1.jpg", "dog/street/2.jpg", "dog/home/a/b/3.jpg")
    dataset = pattern(tmp_path, "{class}/{site}/**", *names)
    assert dataset.spec.columns == {"site": ("home", "street")}
    assert dataset.splits["train"].columns["site"].tolist() == [0, 0, 1]
    assert dataset.splits["train"].names == ["cat/home/x/1.jpg", "dog/home/a/b/3.jpg", "dog/street/2.jpg"]


def test_names_of_files_are_read_and_a_note_shows_the_first(tmp_path):
    dataset = pattern(tmp_path, "{class}_{attribute}_*.jpg", "cat_in_1_a.jpg", "dog_out_2.jpg", "other.jpg")
    assert dataset.spec.group_names == ("cat, in", "cat, out", "dog, in", "dog, out")
    assert dataset.notes[0] == ("--pattern reads 2 of 3 images, the first, cat_in_1_a.jpg, as class cat, attribute in")
    assert [(entry.reason, entry.count) for entry in dataset.left_out] == [("images that the pattern does not fit", 1)]


def test_one_name_twice_is_one_text(tmp_path):
    dataset = pattern(tmp_path, "{class}/{class}_*", "cat/cat_1.jpg", "dog/dog_1.jpg", "dog/cat_2.jpg")
    assert dataset.splits["train"].names == ["cat/cat_1.jpg", "dog/dog_1.jpg"]


def test_a_pattern_reads_a_zip_without_its_outer_folder_and_attributes_may_be_unknown(tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name in ("pets/in/cat/1.jpg", "pets/unknown/cat/2.jpg", "pets/out/dog/3.jpg"):
            archive.writestr(name, b"image")
    train = load(tmp_path / "pets.zip", pattern="{attribute}/{class}/*").splits["train"]
    assert train.names == ["in/cat/1.jpg", "out/dog/3.jpg", "unknown/cat/2.jpg"]
    assert (train.label.tolist(), train.attribute.tolist()) == ([0, 1, 0], [0, 1, -1])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{split}/*/*/*", UsageError, r"has no \{class\}; put it .* real paths: test/dog/in/4.jpg, train/cat/in/1.jpg"),
        (
            "{class}/*",
            DataError,
            "fits none of the 4 images in .*; it has 2 levels and their paths 4; real paths: test/",
        ),
        ("{split}/{class}/{attribute}/*.png", DataError, "fits none of the 4 images in .*; real paths: test/dog"),
        ("{split}/{class/*", UsageError, "a brace in '{class' has no partner"),
        ("{split}/{my class}/*/*", UsageError, "'{my class}' is no name of a column"),
        ("{class}/[9-0]/*/*", UsageError, r"cannot be read \(bad character range 9-0\); real paths: test/dog"),
        ("/{class}/*", UsageError, "is no path below --raw"),
        ("../{class}/*", UsageError, "is no path below --raw"),
    ],
)
def test_a_wrong_pattern_is_explained_with_real_paths(text, error, message, tmp_path):
    with pytest.raises(error, match=message):
        pattern(tmp_path, text, *PATHS)


def test_folders_named_by_numbers_are_names_as_class_folders_are(tmp_path):
    names = ("7/a/1.jpg", "10/a/1.jpg", "10/b/2.jpg")
    assert pattern(tmp_path, "{class}/{attribute}/*", *names).spec.classes == load(tmp_path).spec.classes == ("10", "7")


def test_raw_is_no_table(tmp_path):
    (tmp_path / "rows.csv").write_text("path,label\n1.jpg,a\n")
    with pytest.raises(UsageError, match=r"rows.csv is no folder and no .zip; .* and a table with --csv"):
        load(tmp_path / "rows.csv")


def test_a_label_with_almost_as_many_values_as_rows_is_reported(tmp_path):
    dataset = table(tmp_path, "path,label\n1.jpg,0.1\n2.jpg,0.2\n3.jpg,0.3\n")
    assert dataset.notes == ("'label' has 3 values in 3 rows; the label should be a column with few values",)


def test_a_pattern_and_a_table_are_not_mixed(tmp_path):
    with pytest.raises(UsageError, match="--pattern reads the paths and --columns a CSV; give one of them"):
        pattern(tmp_path, "{class}/*", "cat/1.jpg", columns="path=a")
