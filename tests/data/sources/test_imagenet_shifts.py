"""ImageNet-R, -A, -Sketch, V2 and -C: folders by wnid or number, and a model of 1,000 classes measured on them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.data.sources.layouts import listed, load, round_trip, write_images
from tests.running import folder_of

from debeton.commands import dispatch
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.imagenet_classes import imagenet_class_names
from debeton.data.sources import SOURCES
from debeton.nets.checkpoint import save_checkpoint
from debeton.nets.models import make_model
from debeton.system.errors import DataError, UsageError, run_command

GOLDFISH, BIRD, MACHINE = "n01443537", "n02012849", "n03126707"  # two of them are called crane
CODES = {GOLDFISH: 1, BIRD: 134, MACHINE: 517}
CLASSES = ("goldfish", f"crane ({BIRD})", f"crane ({MACHINE})")
FOLDERS = {"imagenet_r": "imagenet-r", "imagenet_a": "imagenet-a", "imagenet_sketch": "sketch"}
PUBLISHED = {"imagenet_r": 30_000, "imagenet_a": 7_500, "imagenet_sketch": None}


@pytest.mark.parametrize("name", FOLDERS)
def test_class_folders_by_wnid_are_one_test_split_with_the_names_of_imagenet(tmp_path, name):
    files = [f"{wnid}/art_{k}.jpg" for wnid in CODES for k in (0, 1)]
    write_images(tmp_path / FOLDERS[name], [*reversed(files), f"{GOLDFISH}/.hidden.jpg"])
    (tmp_path / FOLDERS[name] / "README.txt").write_text("by wnid")
    dataset = load(name, tmp_path)
    assert listed(dataset) == {"test": [(file, k // 2) for k, file in enumerate(files)]}
    assert listed(load(name, tmp_path / FOLDERS[name])) == listed(dataset)
    assert dataset.spec.classes == CLASSES
    assert set(CLASSES) < set(imagenet_class_names())
    assert dataset.expected == ({"test": PUBLISHED[name]} if PUBLISHED[name] else {})
    round_trip(dataset, "test", tmp_path / "test.beton", root=tmp_path / FOLDERS[name])


def test_a_zip_is_read_as_it_is(tmp_path):
    write_images(tmp_path, [f"imagenet-r/{wnid}/art_0.jpg" for wnid in CODES])
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        for path in sorted(tmp_path.rglob("*.jpg")):
            archive.write(path, path.relative_to(tmp_path))
    assert listed(load("imagenet_r", tmp_path / "r.zip")) == listed(load("imagenet_r", tmp_path))


def test_names_come_from_the_file_that_source_imagenet_reads(tmp_path):
    write_images(tmp_path / "imagenet-a", [f"{GOLDFISH}/1.jpg"])
    wnids = [*CODES] + [f"n{k:08}" for k in range(997)]
    lines = [f"{wnid} {'gold carp' if wnid == GOLDFISH else 'same'}, other" for wnid in sorted(wnids)]
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    assert load("imagenet_a", tmp_path).spec.classes == ("gold carp",)
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join(lines[:9]))
    with pytest.raises(DataError, match=r"has 9, expected 1000; take it away"):
        load("imagenet_a", tmp_path)


def test_the_kind_of_a_rendition_is_a_column(tmp_path):
    names = [f"{GOLDFISH}/{name}.jpg" for name in ("art_0", "sketch_12", "photo", "toy_1")]
    write_images(tmp_path / "imagenet-r", names)
    dataset = load("imagenet_r", tmp_path)
    assert dataset.spec.columns == {"rendition": ("art", "sketch", "toy")}
    found = dict(zip(dataset.splits["test"].names, dataset.splits["test"].columns["rendition"].tolist()))
    assert [found[name] for name in names] == [0, 1, -1, 2]


def test_folders_of_v2_are_class_numbers_and_are_not_sorted_as_text(tmp_path):
    folder = "imagenetv2-matched-frequency-format-val"
    write_images(tmp_path / folder, [f"{number}/a.jpeg" for number in (10, 2, 517, 1, 134)])
    dataset = load("imagenet_v2", tmp_path)
    assert listed(dataset)["test"] == [(f"{number}/a.jpeg", k) for k, number in enumerate((1, 2, 10, 134, 517))]
    all_names = imagenet_class_names()
    assert dataset.spec.classes == tuple(all_names[number] for number in (1, 2, 10, 134, 517))
    assert dataset.expected == {"test": 10_000}
    with pytest.raises(MissingDataError, match=r"no class folder in imagenetv2-top-images-format-val"):
        load("imagenet_v2", tmp_path, variant="top-images")
    with pytest.raises(UsageError, match="add --variant matched-frequency"):
        load("imagenet_v2", tmp_path / folder, variant="top-images")
    with pytest.raises(UsageError, match="'top-image' is unknown; did you mean 'top-images'"):
        load("imagenet_v2", tmp_path, variant="top-image")


def corrupted(root: Path) -> Path:
    """Fog and noise at two levels, noise in the folder of its group, beside another set with numbered folders."""
    places = [f"imagenet-c/{name}/{level}" for name in ("fog", "noise/shot_noise") for level in (1, 5)]
    write_images(root, [f"{place}/{wnid}/val_1.JPEG" for place in places for wnid in CODES])
    return write_images(root, ["imagenetv2-matched-frequency-format-val/1/a.jpeg"])


def test_each_corruption_and_level_is_a_split_of_its_own(tmp_path):
    dataset = load("imagenet_c", corrupted(tmp_path))
    assert list(dataset.splits) == ["test_fog_1", "test_fog_5", "test_shot_noise_1", "test_shot_noise_5"]
    assert listed(dataset)["test_fog_5"] == [(f"fog/5/{wnid}/val_1.JPEG", k) for k, wnid in enumerate(CODES)]
    assert listed(dataset)["test_shot_noise_1"][0] == (f"noise/shot_noise/1/{GOLDFISH}/val_1.JPEG", 0)
    assert (dataset.spec.classes, set(dataset.expected.values())) == (CLASSES, {50_000})


@pytest.mark.parametrize(
    ("corruption", "level", "splits"),
    [
        ("fog", "", ["test_fog_1", "test_fog_5"]),
        ("", "5", ["test_fog_5", "test_shot_noise_5"]),
        ("fog, shot_noise", "1", ["test_fog_1", "test_shot_noise_1"]),
        ("shot_noise", "5", ["test"]),
    ],
)
def test_options_choose_corruptions_and_levels(tmp_path, corruption, level, splits):
    dataset = load("imagenet_c", corrupted(tmp_path), corruption=corruption, severity_level=level)
    assert list(dataset.splits) == splits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "fogg"}, "--corruption 'fogg' is unknown; did you mean 'fog'"),
        ({"severity_level": "3"}, "--severity-level '3' is unknown; known: 1, 5"),
        ({"severity_level": "0"}, "--severity-level '0' is no list of levels 1 to 5"),
        ({"severity_level": "5-1"}, "--severity-level '5-1' is no list"),
    ],
)
def test_conditions_that_are_not_there_are_named(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        load("imagenet_c", corrupted(tmp_path), **options)


def test_a_folder_that_is_no_class_is_named(tmp_path):
    write_images(tmp_path / "imagenet-a", [f"{GOLDFISH}/1.jpg", "n99999999/1.jpg"])
    with pytest.raises(DataError, match=r"n99999999 is no class of ImageNet \(1 of 2 folders are none\)"):
        load("imagenet_a", tmp_path)


@pytest.mark.parametrize("name", [*FOLDERS, "imagenet_v2", "imagenet_c"])
def test_an_empty_folder_or_none_is_missing_data_with_its_source(tmp_path, name):
    (tmp_path / "photos.tar").write_bytes(b"x")
    for raw in (None, tmp_path, tmp_path / "nowhere", tmp_path / "photos.tar"):
        with pytest.raises(MissingDataError) as error:
            load(name, raw)
        assert str(error.value).endswith(SOURCES.get(name).where)


def test_a_model_of_1000_classes_is_measured_on_the_classes_that_are_there(tmp_path):
    """The probabilities are the softmax of the three logits alone, computed here from the model and the images."""
    raw = write_images(tmp_path / "raw", [f"imagenet-r/{wnid}/art_{k}.png" for wnid in CODES for k in (0, 1)])
    words = ["write-betons", "--dataset", "imagenet_r", "--raw", str(raw), "--out", str(tmp_path), "--mode", "raw"]
    assert run_command(lambda: dispatch.main(words)) == 0
    torch.manual_seed(3)
    model = make_model("small_resnet", 1000).eval()
    save_checkpoint(tmp_path / "weights.pth", {"state_dict": model.state_dict()})
    (tmp_path / "classes.txt").write_text("\n".join(imagenet_class_names()))
    given = ["--checkpoint", tmp_path / "weights.pth", "--arch", "small_resnet", "--classes", tmp_path / "classes.txt"]
    plain = ["--training.decoder_val", "simple", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--device", "cpu"]
    data = ["--data", tmp_path / "imagenet_r_test.beton", "--outdir", tmp_path / "out"]
    assert run_command(lambda: dispatch.main(["evaluate", *map(str, [*given, *plain, *data])])) == 0
    results = folder_of(tmp_path / "out")
    rows = pd.read_parquet(results / "predictions.parquet")
    images = [np.asarray(Image.open(raw / "imagenet-r" / path).convert("RGB")) for path in rows["path"]]
    with torch.no_grad():
        logits = model(torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1)
    expected = logits[:, list(CODES.values())].softmax(1).numpy()
    found = rows[[f"p_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert rows["label"].tolist() == [name for name in CLASSES for _ in range(2)]
    right = (expected.argmax(1) == np.repeat([0, 1, 2], 2)).mean()
    assert json.loads((results / "results.json").read_text())["test"]["accuracy"] == pytest.approx(right)
    assert (logits.argmax(1)[:, None] != torch.tensor(list(CODES.values()))).all(1).any()  # the mask changes answers
