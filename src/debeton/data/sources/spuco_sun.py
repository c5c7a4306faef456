"""SpuCoSun: scenes of SUN397 as classes, with an object in front that goes with the class; K x K groups.

Joshi et al. 2023, "Towards Mitigating more Challenging Spurious Correlations" (arXiv 2306.11957); the package spuco,
https://github.com/BigML-CS-UCLA/SpuCo (MIT). The objects come from a text-to-image model. There is an easy and a hard
version. The owners publish neither an address nor counts: ask them for a copy.

Layout: `train/CLASS/SPURIOUS/*`, `val/...` and `test/...`, as the package's SpuCoImageFolder reads it, with K classes
and K folders SPURIOUS in each, one for each class. RAW is the folder of the splits, or the folder around `spuco_sun/`.
The package numbers folders in the order of the file system. Here they are sorted, numbers by value, and the k-th
SPURIOUS goes with the k-th CLASS. A class may lack some SPURIOUS folders.
"""

from __future__ import annotations

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, find_root
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError

SPLITS = ("train", "val", "test")


@register_source(
    "spuco_sun",
    "scenes with an object in front as the shortcut, K x K groups (SpuCoSun)",
    "ask the owners of https://github.com/BigML-CS-UCLA/SpuCo for it, easy or hard, and unpack it: "
    "RAW/train/CLASS/SPURIOUS/*, RAW/val/CLASS/SPURIOUS/*, RAW/test/CLASS/SPURIOUS/*",
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    tree = ImageTree(find_root(request, "spuco_sun", SPLITS, ("spuco_sun", "spucosun")))
    files = {split: find_images(tree, (f"{split}/*/*/*",), "spuco_sun") for split in SPLITS}
    classes, attributes = (_names(files, level) for level in (1, 2))
    if len(classes) != len(attributes):
        raise DataError(
            f"spuco_sun: {tree.root} has the {len(classes)} classes {', '.join(classes)} and the {len(attributes)} "
            f"attributes {', '.join(attributes)}; expected as many folders train/CLASS/SPURIOUS as there are classes"
        )
    prefix = "" if classes != attributes else "object "
    spec = DatasetSpec(
        "spuco_sun",
        classes,
        tuple(f"{prefix}{name}" for name in attributes),
        aligned=tuple((code,) for code in range(len(classes))),
        label_name="scene",
        attribute_name="object",
    )

    def rows(split: str) -> Rows:
        parts = [file.split("/") for file in files[split]]
        label = [classes.index(part[1]) for part in parts]
        return file_rows(tree, files[split], label, [attributes.index(part[2]) for part in parts])

    return Dataset(spec, {split: rows(split) for split in SPLITS})


def _names(files: dict[str, list[str]], level: int) -> tuple[str, ...]:
    """Return the sorted names of the folders at a level of the paths, numbers by value and before other names."""
    names = {file.split("/")[level] for paths in files.values() for file in paths}
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))
