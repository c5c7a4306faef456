"""Test sets for models of ImageNet's 1,000 classes: ImageNet-R, -A, -Sketch, V2 and -C. They have no training rows.

- imagenet_r: Hendrycks et al. 2021, "The Many Faces of Robustness" (arXiv 2006.16241); 30,000 renditions of 200
  classes, `imagenet-r/n01443537/art_0.jpg`. The kind of rendition that the name begins with is the column `rendition`.
  github.com/hendrycks/imagenet-r
- imagenet_a: Hendrycks et al. 2021, "Natural Adversarial Examples" (arXiv 1907.07174); 7,500 photos of 200 classes that
  a ResNet-50 gets wrong, `imagenet-a/n01498041/*.jpg`. github.com/hendrycks/natural-adv-examples
- imagenet_sketch: Wang et al. 2019, "Learning Robust Global Representations by Penalizing Local Predictive Power"
  (arXiv 1905.13549); black and white sketches of all classes, `sketch/n01440764/*.JPEG`. The owners state 50 a class.
  github.com/HaohanWang/ImageNet-Sketch
- imagenet_v2: Recht et al. 2019, "Do ImageNet Classifiers Generalize to ImageNet?" (arXiv 1902.10811); 10 new photos a
  class in each of three variants, `imagenetv2-VARIANT-format-val/0/*.jpeg` to `.../999/*.jpeg`. A folder is the number
  of its class, so its order is that of numbers, not of text. github.com/modestyachts/ImageNetV2
- imagenet_c: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
  Perturbations" (arXiv 1903.12261); the 50,000 validation photos, corrupted, `imagenet-c/fog/1/n01440764/*.JPEG`. The
  folders of a group (`blur/defocus_blur/1`) are read too. github.com/hendrycks/robustness

RAW is the folder of the class folders or the folder around it; all but imagenet_c may be a .zip. ImageNet's terms:
non-commercial research. The classes are those that have images, called as in source `imagenet`: by a file of names in
RAW, or else by the first of their names. Their codes count them in the usual order. A model of 1,000 classes is
measured with `debeton evaluate`, which leaves out the other classes, as the owners of -R and -A do. Metric: accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.imagenet_classes import names_of_wnids
from debeton.data.raw.imagenet_folders import (
    BY_NUMBER,
    BY_WNID,
    IMAGENET_A,
    IMAGENET_R,
    Files,
    class_rows,
    files_by_class,
)
from debeton.data.raw.layout import known_choice, missing_part_error, raw_folder
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError, UsageError

VARIANTS = ("matched-frequency", "threshold0.7", "top-images")
V2_ADDRESS = "https://huggingface.co/datasets/vaishaal/ImageNetV2"
C_ADDRESS = "https://zenodo.org/record/2235448"
# The groups of corruptions, an archive each: a folder by which it is known to be unpacked, and the hash of Zenodo.
C_ARCHIVES = {
    "noise": ("gaussian_noise", "e80562d7f6c3f8834afb1ecf27252745"),
    "blur": ("defocus_blur", "2d8e81fdd8e07fef67b9334fa635e45c"),
    "weather": ("snow", "33ffea4db4d93fe4a428c40a6ce0c25d"),
    "digital": ("contrast", "89157860d7b10d5797849337ca2e5c03"),
    "extra": ("speckle_noise", "d492dfba5fc162d8ec2c3cd8ee672984"),
}
LEVELS = "12345"
C_FOLDER, C_ROWS = "imagenet-c", 50_000
Condition = tuple[str, str]  # corruption, level


@register_source(
    "imagenet_r",
    "ImageNet-R: 30,000 renditions of 200 ImageNet classes, a test set for models of 1,000 classes",
    "--raw DIR --download fetches imagenet-r.tar of https://github.com/hendrycks/imagenet-r; or unpack it there "
    "yourself: RAW/imagenet-r/n01443537/*.jpg",
    archives=(IMAGENET_R,),
)
def load_r(request: Request) -> Dataset:
    """Return the test split, with the kind of rendition as a column."""
    dataset = _one_test(request, "imagenet_r", ("imagenet-r",), 30_000)
    rows = dataset.splits["test"]
    found = [re.fullmatch(r"([a-z]+)_\d+", PurePosixPath(name).stem) for name in rows.names]
    kinds = [match[1] if match else "" for match in found]
    names = tuple(sorted(set(kinds) - {""}))
    if not names:
        return dataset
    codes = np.array([names.index(kind) if kind else -1 for kind in kinds], np.int64)
    rows = replace(rows, columns={"rendition": codes})
    return replace(dataset, spec=replace(dataset.spec, columns={"rendition": names}), splits={"test": rows})


@register_source(
    "imagenet_a",
    "ImageNet-A: 7,500 photos of 200 ImageNet classes that a ResNet-50 gets wrong, a test set",
    "--raw DIR --download fetches imagenet-a.tar of https://github.com/hendrycks/natural-adv-examples; or unpack it "
    "there yourself: RAW/imagenet-a/n01498041/*.jpg",
    archives=(IMAGENET_A,),
)
def load_a(request: Request) -> Dataset:
    """Return the test split."""
    return _one_test(request, "imagenet_a", ("imagenet-a",), 7_500)


@register_source(
    "imagenet_sketch",
    "ImageNet-Sketch: black and white sketches of the 1,000 ImageNet classes, a test set",
    "get ImageNet-Sketch.zip by hand from the links of https://github.com/HaohanWang/ImageNet-Sketch and unpack it: "
    "RAW/sketch/n01440764/*.JPEG",
)
def load_sketch(request: Request) -> Dataset:
    """Return the test split.

    Its count is not checked: the 50 a class that the owners state may be rounded.
    """
    return _one_test(request, "imagenet_sketch", ("sketch", "ImageNet-Sketch", "imagenet-sketch"), None)


@register_source(
    "imagenet_v2",
    "ImageNetV2: 10 new photos of each of the 1,000 ImageNet classes, a test set in three variants",
    f"--raw DIR --download fetches the variant matched-frequency; or get any of them from {V2_ADDRESS} and unpack it: "
    "RAW/imagenetv2-matched-frequency-format-val/0/*.jpeg",
    (Option("variant", str, VARIANTS[0], f"{', '.join(VARIANTS)}"),),
    # The owners publish no hash.
    archives=(
        Archive(
            f"imagenetv2-{VARIANTS[0]}.tar.gz",
            f"{V2_ADDRESS}/resolve/main/imagenetv2-{VARIANTS[0]}.tar.gz",
            folder=f"imagenetv2-{VARIANTS[0]}-format-val",
        ),
    ),
)
def load_v2(request: Request) -> Dataset:
    """Return the test split of a variant."""
    variant = known_choice("variant", request.options["variant"], VARIANTS)
    raw = raw_folder(request, "imagenet_v2")
    other = next((name for name in VARIANTS if name in raw.name and name != variant), None)
    if other:
        raise UsageError(f"--raw {raw} holds the variant {other} and --variant is {variant}; add --variant {other}")
    folders = (f"imagenetv2-{variant}-format-val", f"imagenetv2-{variant}")
    return _one_test(request, "imagenet_v2", folders, 10_000, named=BY_NUMBER)


@register_source(
    "imagenet_c",
    "ImageNet-C: ImageNet's 50,000 validation photos under 19 corruptions at 5 levels, a split each",
    f"--raw DIR --download fetches noise.tar, blur.tar, weather.tar, digital.tar and extra.tar (66 GB) of {C_ADDRESS}; "
    f"or unpack some there yourself: RAW/{C_FOLDER}/fog/1/n01440764/*.JPEG",
    (
        Option("corruption", str, "", "corruptions to use, 'fog,snow' (default: all that are there)"),
        Option("severity-level", str, "", "levels to use, '5' or '1,3' or '1-5' (default: all that are there)"),
    ),
    archives=tuple(
        Archive(f"{group}.tar", f"{C_ADDRESS}/files/{group}.tar", f"md5:{md5}", f"{C_FOLDER}/{folder}", C_FOLDER)
        for group, (folder, md5) in C_ARCHIVES.items()
    ),
)
def load_c(request: Request) -> Dataset:
    """Return a split test_CORRUPTION_LEVEL for each condition, or `test` if the options name a single one."""
    raw = raw_folder(request, "imagenet_c")
    root = next((place for place in (raw, raw / C_FOLDER, raw / "ImageNet-C") if any(_conditions(place))), None)
    if root is None:
        raise missing_part_error("imagenet_c", f"{C_FOLDER}/CORRUPTION/LEVEL/", [raw])
    tree, folders = ImageTree(root), dict(_conditions(root))
    chosen = _chosen(request, sorted(folders))
    files = {condition: files_by_class(tree, folders[condition]) for condition in chosen}
    empty = [folders[condition] for condition, found in files.items() if not found]
    if empty:
        raise DataError(f"imagenet_c: {root / empty[0]} has no image in class folders; unpack or fetch it again")
    classes = names_of_wnids([raw, root])
    order = _present(classes, files.values(), root)
    single = len(chosen) == 1 and request.options["corruption"] and request.options["severity_level"]
    splits = {
        "test" if single else f"test_{name}_{level}": class_rows(tree, files[name, level], order)
        for name, level in chosen
    }
    spec = DatasetSpec("imagenet_c", tuple(classes[wnid] for wnid in order))
    return Dataset(spec, splits, dict.fromkeys(splits, C_ROWS))


def _conditions(root: Path) -> Iterator[tuple[Condition, str]]:
    """Yield (corruption, level) and the folder below `root` of each CORRUPTION/LEVEL/ that holds class folders."""
    for start in ("*", *(f"{group}/*" for group in C_ARCHIVES)):
        for folder in sorted(root.glob(f"{start}/[{LEVELS}]")):
            if any(BY_WNID.fullmatch(f"{path.name}/") for path in folder.iterdir()):
                yield (folder.parent.name, folder.name), folder.relative_to(root).as_posix()


def _chosen(request: Request, there: Sequence[Condition]) -> list[Condition]:
    """Return the conditions that the options name, of those that are there."""
    names, levels = ([*dict.fromkeys(part)] for part in zip(*there))
    wanted_names = [name.strip() for name in request.options["corruption"].split(",")]
    wanted_levels = _levels(request.options["severity_level"])
    if request.options["corruption"]:
        names = [known_choice("corruption", name, names) for name in wanted_names]
    if wanted_levels:
        levels = [known_choice("severity-level", level, sorted(levels)) for level in wanted_levels]
    chosen = [condition for condition in there if condition[0] in names and condition[1] in levels]
    absent = [(name, level) for name in names for level in wanted_levels if (name, level) not in there]
    if absent:
        raise DataError(f"imagenet_c: {absent[0][0]} is there, but not at level {absent[0][1]}; unpack all of it")
    return chosen


def _levels(text: str) -> list[str]:
    """Return the levels in '1-3,5'. UsageError for another form."""
    levels: list[str] = []
    for part in (part.strip() for part in text.split(",") if text):
        match = re.fullmatch(f"([{LEVELS}])(?:-([{LEVELS}]))?", part)
        if match is None or (match[2] or match[1]) < match[1]:
            raise UsageError(f"--severity-level '{text}' is no list of levels 1 to {LEVELS[-1]}, as in '1,3' or '2-5'")
        levels += map(str, range(int(match[1]), int(match[2] or match[1]) + 1))
    return levels


def _one_test(
    request: Request, name: str, places: Sequence[str], expected: int | None, named: re.Pattern[str] = BY_WNID
) -> Dataset:
    """Return a set with the one split `test`.

    name: of the data set.
    places: folders below RAW that may hold the class folders.
    expected: the published number of rows; None if it is not to be checked.
    named: how class folders are named.
    """
    raw = raw_folder(request, name)
    roots = [raw] if raw.is_file() else [raw, *(raw / place for place in places)]
    for root in roots:
        tree = ImageTree(root) if root.is_dir() or root.suffix == ".zip" else None
        files = files_by_class(tree, "", named) if tree else {}
        if tree and files:
            break
    else:
        raise missing_part_error(name, f"class folder in {places[0]}/", [raw])
    classes = names_of_wnids([raw.parent if raw.is_file() else raw])
    if named is BY_NUMBER:
        wnids = list(classes)
        files = {wnids[int(number)]: paths for number, paths in files.items()}
    order = _present(classes, [files], root)
    spec = DatasetSpec(name, tuple(classes[wnid] for wnid in order))
    return Dataset(spec, {"test": class_rows(tree, files, order)}, {} if expected is None else {"test": expected})


def _present(classes: Mapping[str, str], parts: Iterable[Files], root: Path) -> list[str]:
    """Return the wnids that have images, in the usual order. DataError for a folder that is no class of ImageNet."""
    there = {wnid for files in parts for wnid in files}
    strange = sorted(there - set(classes))
    if strange:
        raise DataError(
            f"{root}: {strange[0]} is no class of ImageNet ({len(strange)} of {len(there)} folders are none)"
        )
    return [wnid for wnid in classes if wnid in there]
