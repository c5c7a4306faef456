"""9-class ImageNet: 42 classes of ImageNet in nine groups. ImageNet-A's photos of these classes are the test split.

Bahng et al. 2020, "Learning De-biased Representations with Biased Representations" (ReBias, arXiv 1910.02806).
https://github.com/clovaai/rebias lists the classes, as indices of the 1,000 sorted WordNet ids: dog 151, 207, 234, 235,
254; cat 281-285; frog 30-32; turtle 33-37; bird 89, 90, 94, 96, 97; monkey 372-375, 378; fish 393-397; crab 118-121;
insect 306-310. This is not the "ImageNet-9" of Xiao et al. 2020 (backgrounds challenge).
ImageNet-A: Hendrycks et al. 2021, "Natural Adversarial Examples" (arXiv 1907.07174), 7,500 photos of 200 classes that a
ResNet-50 gets wrong. 21 of these classes are among the 42, and none is a crab. ImageNet's terms: non-commercial
research.

Layout. RAW is the folder around all:
- ImageNet as `imagenet.py` reads it, e.g. `train/nXXXXXXXX/*` with `val/nXXXXXXXX/*`, or Kaggle's folders as they are;
- `imagenet-a/nXXXXXXXX/*`.

ImageNet's own validation split is val here, which chooses an epoch. ImageNet-A is the split that is reported.

There is no attribute: the shortcuts (texture, background) are natural and nobody labelled them. ReBias clusters
textures instead. The column `synset` has the WordNet id of each row.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.imagenet_folders import IMAGENET_A, imagenet_rows
from debeton.data.raw.layout import find_root
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError

SYNSETS = {
    "dog": ("n02085620", "n02099601", "n02106550", "n02106662", "n02110958"),
    "cat": ("n02123045", "n02123159", "n02123394", "n02123597", "n02124075"),
    "frog": ("n01641577", "n01644373", "n01644900"),
    "turtle": ("n01664065", "n01665541", "n01667114", "n01667778", "n01669191"),
    "bird": ("n01819313", "n01820546", "n01833805", "n01843383", "n01847000"),
    "monkey": ("n02486410", "n02487347", "n02488291", "n02488702", "n02492035"),
    "fish": ("n02607072", "n02640242", "n02641379", "n02643566", "n02655020"),
    "crab": ("n01978287", "n01978455", "n01980166", "n01981276"),
    "insect": ("n02174001", "n02177972", "n02190166", "n02206856", "n02219486"),
}
GROUP_OF = {synset: code for code, group in enumerate(SYNSETS.values()) for synset in group}
SPEC = DatasetSpec("imagenet9", tuple(SYNSETS))
ADVERSARIAL = IMAGENET_A.folder


@register_source(
    "imagenet9",
    "nine groups of 42 ImageNet classes, 54,600 + 2,100 RGB photos, tested on ImageNet-A (ReBias)",
    "get ImageNet by hand from https://image-net.org (ILSVRC 2012, needs an account): RAW/train/n02085620/*, "
    "RAW/val/n02085620/*; ImageNet-A, RAW/imagenet-a/n02085620/*, comes with --download or from "
    "https://github.com/hendrycks/natural-adv-examples",
    archives=(IMAGENET_A,),
)
def load(request: Request) -> Dataset:
    root = find_root(request, "imagenet9", (ADVERSARIAL,))
    splits = {**_imagenet_rows(root), "test": _adversarial_rows(ImageTree(root))}
    # Counts of the paper: 1,300 and 50 rows a class.
    return Dataset(SPEC, splits, {"train": 54600, "val": 2100})


def _imagenet_rows(root: Path) -> dict[str, Rows]:
    """Return ImageNet's training and validation rows of the 42 classes, in sorted order of the classes."""
    synsets = sorted(GROUP_OF)
    imagenet = imagenet_rows("imagenet9", root, synsets)
    splits = {}
    for split, name in (("train", "train"), ("val", "test")):
        synset_of_row = [synsets[code] for code in imagenet[name].label.tolist()]
        label = np.array([GROUP_OF[synset] for synset in synset_of_row], np.int64)
        splits[split] = replace(imagenet[name], label=label, columns={"synset": synset_of_row})
    return splits


def _adversarial_rows(tree: ImageTree) -> Rows:
    """Return the rows of ImageNet-A, in sorted order of their classes."""
    files = [file for synset in sorted(GROUP_OF) for file in tree.files(f"{ADVERSARIAL}/{synset}/*")]
    if not files:
        raise DataError(f"imagenet9: {tree.root / ADVERSARIAL} has no photo of the 42 classes; fetch it again")
    synsets = [file.split("/")[1] for file in files]
    return file_rows(tree, files, [GROUP_OF[synset] for synset in synsets], columns={"synset": synsets})
