"""Oxford 102 Flowers: 8,189 photos of flowers, 102 kinds, 40 to 258 photos each.

Nilsback and Zisserman 2008, "Automated Flower Classification over a Large Number of Classes" (ICVGIP); no licence
stated.

Layout. RAW is the folder around these files, or the folder around torchvision's `flowers-102`:
- `jpg/image_00001.jpg`, the content of 102flowers.tgz;
- `imagelabels.mat`: labels, 1 to 102, image by image;
- `setid.mat`: trnid, valid and tstid, the numbers of the images in each split.

Splits: the official ones. As in the transfer-learning literature train and val, 1,020 each, are train together, 2,040;
`--keep-val` keeps them apart. test has 6,149. These files give the labels no names. The names are the owners' list of
categories in the order of the labels. Metric: mean per-class accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import Listed, find_root, listed_rows, read_mat, train_and_val
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError

URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
SETS = {"train": "trnid", "val": "valid", "test": "tstid"}
CLASSES = tuple(
    """pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
    bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
    globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
    fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
    sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
    cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia,
    bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula,
    sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata,
    japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris,
    windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus,
    toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
    watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow,
    mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily""".replace("\n   ", "").split(", ")
)


@register_source(
    "flowers",
    "Oxford 102 Flowers: photos of 102 kinds of flower, 2,040 + 6,149",
    "--raw DIR --download fetches 102flowers.tgz (345 MB), imagelabels.mat and setid.mat from "
    "www.robots.ox.ac.uk/~vgg/data/flowers/102/ into DIR, or put the two there and unpack the first: "
    "DIR/jpg/image_00001.jpg",
    (Option("keep-val", bool, False, "keep the official validation split apart instead of training on it"),),
    (
        Archive("102flowers.tgz", URL + "102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa", folder="jpg"),
        Archive("imagelabels.mat", URL + "imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d"),
        Archive("setid.mat", URL + "setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c"),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    keep_val = request.options["keep_val"]
    root = find_root(request, "flowers", ("jpg", "imagelabels.mat", "setid.mat"), ("flowers-102", "flowers"))
    (labels,) = read_mat(root / "imagelabels.mat", "labels")
    numbers = dict(zip(SETS, read_mat(root / "setid.mat", *SETS.values()), strict=True))
    total = sum(map(len, numbers.values()))
    if total != len(labels):
        raise DataError(
            f"{root}: setid.mat divides {total} images and imagelabels.mat has {len(labels)} labels; fetch both again"
        )
    listed = {
        split: _listed(np.asarray(ids, np.int64), np.asarray(labels, np.int64), root) for split, ids in numbers.items()
    }
    splits = {**train_and_val(listed["train"], listed["val"], keep_val=keep_val), "test": listed["test"]}
    sizes = {"train": 1020, "val": 1020} if keep_val else {"train": 2040}
    return Dataset(
        DatasetSpec("flowers", CLASSES, metric="mean_per_class", label_name="flower"),
        listed_rows(ImageTree(root), splits, root / "setid.mat"),
        {**sizes, "test": 6149},
    )


def _listed(ids: np.ndarray, labels: np.ndarray, root: Path) -> Listed:
    """Return the files and labels of the images with these numbers. Images and labels are numbered from 1."""
    for kind, values, largest in (("image", ids, len(labels)), ("label", labels, len(CLASSES))):
        if len(values) and not 1 <= values.min() <= values.max() <= largest:
            raise DataError(f"{root}: {kind}s from {values.min()} to {values.max()}; expected 1 to {largest}")
    return [f"jpg/image_{number:05}.jpg" for number in ids.tolist()], (labels[ids - 1] - 1).tolist()
