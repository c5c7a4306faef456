"""Names and paths of foreign files: classes, data sets, manifests, tables and runs stay inside of their folders."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tests.generate.sets import command as generate
from tests.running import run
from tests.toy import TOY_SPEC, toy_rows

from debeton.commands import dispatch
from debeton.data.beton.reading import open_beton
from debeton.data.beton.sidecar import sidecar_path
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.synthetic_images import folder_names, read_synthetic_rows
from debeton.data.sources import SOURCES
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.split_names import beton_name
from debeton.data.views.splits import find_betons
from debeton.generate.arrays import write_arrays
from debeton.generate.image_set import ImageSet, Slot
from debeton.generate.prompts import Condition
from debeton.system.errors import DataError, UsageError, run_command
from debeton.system.file_names import LONGEST, SHORTENED, Root, file_name, leads_out, path_below

HOSTILE = (
    "../../outside",
    "/etc/cron.d/x",
    "..",
    ".",
    "",
    "a/b",
    "a/../../../b",
    "-rf",
    "a\x01b",
    "a\nb",
    "trailing ",
    "dot.",
    ".hidden",
    "%2e%2e",
    "manifest.jsonl",
    "generator.json",
    "sheets",
    "__MACOSX",
    "a\u2215b",
    "\u2024\u2024",
    "cafe\u0301",
    "caf\u00e9",
    "x" * 400,
    "x" * 401,
    "[a-z]*",
    "_",
)


def cli(*words: Any) -> int:
    return run_command(lambda: dispatch.main([str(word) for word in words]))


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- one function for names ---------------------------------------------------------------------------------------

TEXTS = st.text(max_size=60) | st.sampled_from(HOSTILE) | st.text("/.\\%2Fe0 -~", max_size=12) | st.text(min_size=200)


@given(TEXTS)
@example("%2Fa")
@example("\ud800")
def test_any_text_becomes_the_name_of_one_visible_file(text):
    name = file_name(text)
    assert name
    assert len(name.encode()) <= LONGEST
    assert not set(name) & {"/", "\\", "\0"}
    assert name not in (".", "..")
    assert name[0] not in ".- "
    assert name[-1] not in ". "
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name)
    assert unicodedata.is_normalized("NFC", name)


@given(st.lists(TEXTS, unique=True, max_size=8))
@example(["%", "%25", "", "%2525"])
@example(["/", "%2F", "%2f", "%252F", "%%2F"])
def test_different_texts_have_different_names(texts):
    assert len({file_name(text) for text in texts}) == len(texts)
    assert len({file_name(text, ("sheets", "a*")) for text in texts}) == len(texts)


@given(TEXTS.filter(lambda text: text not in ("", "%")))
def test_the_bytes_behind_the_percent_signs_are_the_text_again(text):
    name = file_name(text)
    if SHORTENED not in name:
        assert unquote_to_bytes(name).decode("utf-8", "surrogatepass") == text


ORDINARY = (
    *("cat", "Great Dane", "don't", "salt, pepper", "100% wool", "50%-off", "a_b", "A(1)", "x=1;y", "a.b", "n01440764"),
    *("caf\u00e9", "\u65e5\u672c"),
)


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_stays_as_it_is(name):
    assert file_name(name) == name


def test_two_long_texts_that_begin_alike_and_a_text_like_a_shortened_one_stay_apart():
    first, second = file_name("x" * 400), file_name("x" * 401)
    assert first != second
    assert len({first, second, file_name(first), file_name(second)}) == 4


# --- one function for paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["/etc/passwd", "../x", "a/../../x", "", ".", "a/..", "//x", "a\0b", "a\nb", ".."])
def test_a_path_that_leaves_its_folder_is_refused_with_its_place(text):
    with pytest.raises(
        DataError, match=re.escape(f"list.csv, line 3: the path {text!r} does not lie below its folder")
    ):
        path_below(text, "list.csv, line 3")


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c..d", "..e"]), min_size=1, max_size=6).map("/".join))
def test_a_path_is_refused_exactly_where_the_system_would_leave_the_folder(text):
    inside = os.path.normpath(f"/root/{text}")
    is_below = not text.startswith("/") and inside.startswith("/root/")
    assert leads_out(text) == (text.startswith("/") or not (inside == "/root" or is_below))
    if is_below:
        assert f"/root/{path_below(text, 'here')}" == inside
    else:
        with pytest.raises(UsageError):
            path_below(text, "here", UsageError)


def test_a_link_out_of_the_folder_is_refused_and_one_within_it_is_followed(tmp_path):
    root = tmp_path / "linked"
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    root.symlink_to(tmp_path / "set")
    (root / "cat" / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "dog").symlink_to(tmp_path)
    (root / "same").symlink_to(root / "cat")
    held = Root(root)
    assert held.path("cat/new.png", "m") == root / "cat" / "new.png"
    assert held.path("same/new.png", "m") == root / "same" / "new.png"
    for text in ("cat/out.png", "dog/secret.png", "same/out.png"):
        with pytest.raises(DataError, match=f"m: a link on the path '{text}' leads out of {root}, to {tmp_path}"):
            held.path(text, "m")


# --- classes and attributes of a sidecar --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A folder with a beton whose classes are HOSTILE, and a folder of one image for each of them."""
    place = tmp_path_factory.mktemp("deep") / "a" / "b" / "c"
    spec = DatasetSpec("../../pets", HOSTILE, ("../../up", "_"))
    label = np.arange(len(HOSTILE))
    pixels = np.random.default_rng(0).integers(0, 256, (len(HOSTILE), 8, 8, 3), dtype=np.uint8)
    rows = Rows(label, label % 2, pixels.__getitem__, [f"{k}" for k in label])
    write_beton(place / "like.beton", rows, spec, "train", WriteOptions(mode="raw"))
    for k, name in enumerate(HOSTILE):
        for attribute in spec.attributes:
            folder = place / "images" / folder_names(name)[0] / folder_names(attribute, ("_",))[0]
            folder.mkdir(parents=True)
            Image.fromarray(np.roll(pixels[k], attribute == "_", 0)).save(folder / "0.png")
    return place


def test_a_sidecar_writes_no_image_out_of_the_set_and_no_two_classes_into_one_folder(hostile):
    before = everything(hostile.parents[2])
    like = ("--like", hostile / "like.beton", "--out", hostile / "set")
    words = ("--generator", "folder", "--images", hostile / "images", "--per-cell", 1, "--filter", "none")
    assert generate(*like, *words) == 0
    added = everything(hostile.parents[2]) - before
    assert {path for path in added if not path.startswith("a/b/c/set")} == set()
    images = [path for path in added if path.endswith("00000000.png")]
    assert len({Path(path).parent for path in images}) == 2 * len(HOSTILE)
    assert len(list((hostile / "set" / "sheets").iterdir())) == 2 * len(HOSTILE)
    assert generate("--out", hostile / "set", "--check") == 0

    assert cli("write-betons", "--like", hostile / "like.beton", "--synthetic", hostile / "set", "--out", hostile) == 0
    written = open_beton(hostile / beton_name("../../pets", "synthetic"))
    assert sorted(np.asarray(written.label).tolist()) == sorted([*range(len(HOSTILE))] * 2)
    shutil.copytree(hostile / "set", hostile / "bare")
    for name in ("manifest.jsonl", "generator.json"):
        (hostile / "bare" / name).unlink()
    rows = read_synthetic_rows(hostile / "bare", written.spec)  # by the names of the folders alone
    assert sorted(zip(rows.label.tolist(), rows.attribute.tolist())) == [
        (label, attribute) for label in range(len(HOSTILE)) for attribute in (0, 1)
    ]


def test_arrays_of_classes_with_such_names_keep_their_labels(tmp_path):
    names = tuple(dict.fromkeys((*HOSTILE, "images", "labels", "class_3", "2", "1")))
    folder = tmp_path / "deep" / "set"
    image_set = ImageSet(folder, {"set": "s"})
    for k, name in enumerate(names):
        slot = Slot(Condition(name, None), 0)
        digest = image_set.write_image(slot, np.full((4, 4, 3), k, np.uint8))
        line = {"path": slot.path, "label": name, "attribute": None, "number": 0, "attempt": 0, "verdict": "keep"}
        image_set.append([{**line, "prompt": "", "seed": 1, "sha256": digest}])
    paths = write_arrays(folder, tmp_path / "deep" / "arrays")
    assert {path.parent for path in paths} == {tmp_path / "deep" / "arrays"}
    rows = read_synthetic_rows(tmp_path / "deep" / "arrays", DatasetSpec("s", names))
    shown = {int(label): int(np.asarray(rows.image(k))[0, 0, 0]) for k, label in enumerate(rows.label)}
    assert shown == {k: k for k in range(len(names))}
    assert everything(tmp_path) == {"deep", *(path for path in everything(tmp_path) if path.startswith("deep/"))}


def test_folders_that_a_sidecar_lists_do_not_lead_out(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "1.png").write_bytes(b"")
    (tmp_path / "set").mkdir()
    spec = DatasetSpec("s", ("a",), generated_folders={"../private": (0, 0)})
    with pytest.raises(DataError, match=r"generated images in s: the path '../private' does not lie below its folder"):
        read_synthetic_rows(tmp_path / "set", spec)
    for name in ("..", "../private", str(tmp_path / "private")):
        with pytest.raises(DataError, match="holds no synthetic image"):
            read_synthetic_rows(tmp_path / "set", DatasetSpec("s", (name,), ("private",)))


def test_a_sidecar_with_text_that_no_file_can_hold_is_refused(hostile, tmp_path):
    for path in hostile.glob("like.beton*"):
        shutil.copy(path, tmp_path)
    beside = sidecar_path(tmp_path / "like.beton")
    content = json.loads(beside.read_text())
    content["spec"]["classes"][0] = "\ud800"
    beside.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"like\.beton\.json: .* at spec\.classes\[0\] holds a letter that no file can"):
        open_beton(tmp_path / "like.beton")


def test_the_name_of_a_data_set_stays_in_the_folder_and_its_betons_are_found_again(tmp_path):
    spec = DatasetSpec("../../pets", TOY_SPEC.classes, TOY_SPEC.attributes)
    root = tmp_path / "a" / "data"
    for split in ("train", "test", "test_far"):
        write_beton(root / beton_name(spec.name, split), toy_rows(8, 0.5, 0), spec, split, WriteOptions(mode="raw"))
    assert {path.parent for path in tmp_path.rglob("*.beton")} == {root}
    found = find_betons(spec.name, root, {"train": None, "val": None, "test": None})
    assert {split: path.name for split, path in found.items()} == {
        split: f"%2E.%2F..%2Fpets_{split}.beton" for split in ("train", "test", "test_far")
    }


def test_a_name_that_becomes_no_file_name_is_refused_on_one_line(tmp_path, capsys):
    words = ("write-betons", "--dataset", "folder", "--raw", tmp_path, "--out", tmp_path / "out")
    assert cli(*words, "--name", "a\nb") == 2
    assert capsys.readouterr().err.startswith("error: --name 'a\\nb' must be letters, digits, ")


def test_betons_of_a_set_in_a_folder_below_the_root_are_found_as_before(tmp_path):
    (tmp_path / "sub").mkdir()
    for split in ("train", "test_far"):
        (tmp_path / "sub" / f"pets_{split}.beton").write_bytes(b"")
    found = find_betons("sub/pets", tmp_path, {"train": None})
    assert found == {split: tmp_path / "sub" / f"pets_{split}.beton" for split in ("train", "test_far")}


# --- manifests, tables and lists ----------------------------------------------------------------------------------


def image_set(folder: Path, path: str) -> Path:
    line = {"path": path, "label": "a", "attribute": None, "number": 0, "attempt": 0, "verdict": "keep"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generator.json").write_text('{"set": "s", "generator": "folder"}')
    (folder / "manifest.jsonl").write_text(json.dumps({**line, "seed": 1, "prompt": "", "sha256": ""}) + "\n")
    return folder


@pytest.mark.parametrize("path", ["../secret.png", "{tmp}/secret.png", "linked/secret.png", "a/../../secret.png"])
@pytest.mark.parametrize("action", ["read", "check", "arrays", "captions"])
def test_a_manifest_reads_no_image_outside_of_its_folder(path, action, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    path = path.format(tmp=tmp_path)
    folder = image_set(tmp_path / "set", path)
    (folder / "linked").symlink_to(tmp_path)
    words = {
        "read": ("write-betons", "--like", tmp_path / "toy.beton", "--synthetic", folder, "--out", tmp_path / "out"),
        "check": ("generate", "--out", folder, "--check"),
        "arrays": ("generate", "--out", folder, "--arrays", tmp_path / "out"),
        "captions": ("captions", folder, "--captions-file", tmp_path / "c.csv", "--out", tmp_path / "out"),
    }[action]
    write_beton(tmp_path / "toy.beton", toy_rows(4, 0.5, 0), DatasetSpec("s", ("a", "b"), ("x", "y")), "train")
    capsys.readouterr()
    assert cli(*words) == 1
    error = capsys.readouterr().err
    assert f"the path {path!r}" in error
    assert "manifest.jsonl" in error
    assert not (tmp_path / "out").exists()


def test_a_set_whose_class_folder_is_a_link_gets_no_image_written_elsewhere(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "home").mkdir()
    (folder / "cat").symlink_to(tmp_path / "home")
    with pytest.raises(DataError, match=r"a link on the path 'cat/_/00000000\.png' leads out of"):
        ImageSet(folder, {"set": "s"}).write_image(Slot(Condition("cat", None), 0), np.zeros((4, 4, 3), np.uint8))
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("path", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\0.jpg"])
def test_the_list_of_a_published_set_names_no_image_outside(path, tmp_path):
    with pytest.raises(DataError, match=re.escape(f"names {path!r}, which lies outside of it")):
        file_rows(ImageTree(tmp_path), ["a/1.jpg", path], [0, 1])


def folder_rows(raw: Path, **options: Any) -> Any:
    source = SOURCES.get("folder")
    return source.load(source.request(raw, **options))


def test_a_table_of_the_users_own_may_name_images_elsewhere_and_says_so(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("1.jpg", "raw/2.jpg"):
        (tmp_path / name).write_bytes(b"")
    (raw / "metadata.csv").write_text("path,label\n../1.jpg,0\n../raw/2.jpg,1\n")
    dataset = folder_rows(raw)
    assert list(dataset.splits["train"].names) == ["../1.jpg", "2.jpg"]
    assert dataset.splits["train"].absent().tolist() == []
    assert dataset.notes == (f"1 paths lie outside of {raw} and are used as they are, the first is ../1.jpg",)


@pytest.mark.parametrize("path", ["../1.jpg", "/etc/1.jpg"])
def test_a_table_in_an_archive_names_no_image_outside(path, tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr("metadata.csv", f"path,label\n{path},0\n2.jpg,1\n")
        archive.writestr("2.jpg", b"")
    with pytest.raises(DataError, match=f"{path} .*and --raw .*pets.zip is an archive"):
        folder_rows(tmp_path / "pets.zip")


def test_a_path_with_a_nul_in_a_table_is_a_sentence(tmp_path):
    (tmp_path / "metadata.csv").write_bytes(b"path,label\na\0b.jpg,0\nc.jpg,1\n")
    with pytest.raises(DataError, match="NUL"):
        folder_rows(tmp_path)


def test_a_saved_set_of_the_hub_names_no_file_outside(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    source = SOURCES.get("huggingface")
    (raw / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(DataError, match=r"state.json: the path '../secret.arrow' does not lie below its folder"):
        source.load(source.request(raw))
    (raw / "dataset_dict.json").write_text(json.dumps({"splits": ["/etc"]}))
    with pytest.raises(DataError, match=r"dataset_dict.json: the path '/etc' does not lie below its folder"):
        source.load(source.request(raw))


def test_a_cell_of_a_parquet_file_names_no_image_outside(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    raw = tmp_path / "raw"
    raw.mkdir()
    table = pa.table({"image": [{"bytes": None, "path": "../secret.png"}] * 2, "label": ["a", "b"]})
    pq.write_table(table, raw / "train.parquet")
    words = ("write-betons", "--dataset", "huggingface", "--raw", raw, "--out", tmp_path / "out")
    assert cli(*words, "--image", "image") == 1
    assert "the path '../secret.png' does not lie below its folder" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.beton")) == []


# --- names of runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".", "a/../../x", "a\nb"])
def test_a_run_is_not_named_out_of_its_folder(name, toy_args: Sequence[str], tmp_path, capsys):
    before = everything(tmp_path)
    assert run([*toy_args, "--training.exp_name", name]) == 2
    assert f"training.exp_name: the path {name!r} does not lie below its folder" in capsys.readouterr().err
    assert everything(tmp_path) == before


def test_an_evaluation_of_a_beton_with_a_path_for_a_name_stays_in_its_folder(trained_toy, tmp_path):
    outdir = tmp_path / "a" / "b" / "runs"
    spec = dataclasses.replace(TOY_SPEC, name="../../evil")
    write_beton(tmp_path / "a" / "toy.beton", toy_rows(16, 0.5, 0), spec, "test", WriteOptions(mode="raw"))
    words = ("evaluate", "--checkpoint", trained_toy[0], "--data", tmp_path / "a" / "toy.beton", "--outdir", outdir)
    assert cli(*words) == 0
    (results,) = tmp_path.rglob("results.json")
    assert results.parents[2] == outdir
    assert results.parents[1].name.endswith("_on_%2E.%2F..%2Fevil")
