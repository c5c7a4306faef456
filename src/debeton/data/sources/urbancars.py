"""UrbanCars: urban and country cars with two shortcuts at once, the background and an object beside the car.

Li et al. 2023, "A Whac-A-Mole Dilemma" (arXiv 2212.04825), https://github.com/facebookresearch/Whac-A-Mole. The set is
not shipped. `scripts/prepare_dataset_models/create_urbancars.sh` there composes it, 256x256, from Stanford Cars, Places
and LVIS (COCO), each under its own licence, for research.

Layout, as that script leaves it. RAW is `urbancars/` or the folder around it:
- `bg-0.95_co_occur_obj-0.95/train/CELL/*.jpg`;
- `bg-0.5_co_occur_obj-0.5/val/CELL/*.jpg` and `.../test/CELL/*.jpg`.

CELL is obj-X_bg-Y_co_occur_obj-Z, with X, Y and Z urban or country. The PNG files beside the photos are masks. Rows
stay in the order of the owners' loader: by X, Y and Z, urban first.

Label: the car's body. Attribute: the background and the object, four combinations. A row is aligned if both go with the
car. Each of the two is also a column of its own, so `--data.attribute background` or `co_object` takes it alone.
In train each of them goes with 95 % of the cars of a class, independently: 3,610, 190, 190 and 10 of 4,000.
Results give, under `shortcut_gaps`, the accuracy in the training distribution and the gaps to it.
"""

from __future__ import annotations

from itertools import product

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, find_root
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec, Factor, Rows

KINDS = ("urban", "country")
RATE = 0.95
FOLDERS = {
    "train": f"bg-{RATE}_co_occur_obj-{RATE}/train",
    "val": "bg-0.5_co_occur_obj-0.5/val",
    "test": "bg-0.5_co_occur_obj-0.5/test",
}
COLUMNS = {
    "background": ("urban background", "country background"),
    "co_object": ("urban object", "country object"),
}
SPEC = DatasetSpec(
    "urbancars",
    classes=KINDS,
    # No comma in a name: settings list attributes separated by commas.
    attributes=tuple(" + ".join(pair) for pair in product(*COLUMNS.values())),
    aligned=((0,), (3,)),
    label_name="car",
    attribute_name=",".join(COLUMNS),  # the name of this product of columns in settings
    columns=COLUMNS,
    tasks={f"car x {name}": ((0,), (1,)) for name in COLUMNS},
    factors=tuple(Factor(name, values, aligned=(0, 1), rate=RATE) for name, values in COLUMNS.items()),
)
# Rows by group, from the paper and its generator.
TRAIN, BALANCED = (3610, 190, 190, 10, 10, 190, 190, 3610), (125,) * 8


@register_source(
    "urbancars",
    "urban and country cars, background and a second object are shortcuts, 8,000 + 1,000 + 1,000 RGB 256x256",
    "compose it with scripts/prepare_dataset_models/create_urbancars.sh of "
    "https://github.com/facebookresearch/Whac-A-Mole: "
    f"RAW/urbancars/{FOLDERS['train']}/obj-urban_bg-urban_co_occur_obj-urban/000.jpg, ...",
)
def load(request: Request) -> Dataset:
    tree = ImageTree(find_root(request, "urbancars", (FOLDERS["train"],), ("urbancars",)))
    expected = {"train": TRAIN, "val": BALANCED, "test": BALANCED}
    return Dataset(SPEC, {split: _rows(tree, folder) for split, folder in FOLDERS.items()}, expected)


def _rows(tree: ImageTree, folder: str) -> Rows:
    """Return the rows of one split. folder: of the split, below the tree."""
    files: list[str] = []
    cells: list[tuple[int, ...]] = []
    for cell in product(range(len(KINDS)), repeat=3):
        car, background, co_object = (KINDS[code] for code in cell)
        pattern = f"{folder}/obj-{car}_bg-{background}_co_occur_obj-{co_object}/*.jpg"
        images = find_images(tree, (pattern,), "urbancars")
        files += images
        cells += [cell] * len(images)
    label, *factors = (list(codes) for codes in zip(*cells, strict=True))
    attribute = [len(KINDS) * background + co_object for background, co_object in zip(*factors, strict=True)]
    return file_rows(tree, files, label, attribute, dict(zip(COLUMNS, factors, strict=True)))
