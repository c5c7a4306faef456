"""Stanford Cars: 16,185 photos of cars, 196 makes, models and years.

Krause et al. 2013, "3D Object Representations for Fine-Grained Categorization"; for non-commercial research. The
owners' address no longer exists; copies keep their layout.

Layout. RAW is the folder around these files, or the folder around torchvision's `stanford_cars`:
- `devkit/cars_meta.mat` (class_names) and `devkit/cars_train_annos.mat`;
- `cars_test_annos_withlabels.mat`, in `devkit/` or beside it (fields fname and class, from 1);
- the photos `cars_train/00001.jpg` and `cars_test/00001.jpg`.

Splits: the official ones, 8,144 and 8,041. Metric: accuracy.
"""

from __future__ import annotations

from pathlib import Path

from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import Listed, find_root, listed_rows, read_mat
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError

TEST_LABELS = "cars_test_annos_withlabels.mat"


@register_source(
    "stanford_cars",
    "photos of 196 makes and models of cars, 8,144 + 8,041",
    "the owners' address (ai.stanford.edu/~jkrause/cars/car_dataset.html) no longer exists; a copy such as "
    "kaggle.com/datasets/rickyyyyyyy/torchvision-stanford-cars goes into DIR: DIR/devkit/cars_meta.mat, "
    f"DIR/devkit/cars_train_annos.mat, DIR/{TEST_LABELS}, DIR/cars_train/*.jpg, DIR/cars_test/*.jpg",
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    needed = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_train", "cars_test")
    root = find_root(request, "stanford_cars", needed, ("stanford_cars",))
    (names,) = read_mat(root / "devkit" / "cars_meta.mat", "class_names")
    classes = tuple(str(name) for name in names)
    test = root / TEST_LABELS if (root / TEST_LABELS).is_file() else root / "devkit" / TEST_LABELS
    if not test.is_file():
        raise DataError(
            f"stanford_cars: {root} has no {TEST_LABELS}; cars_test_annos.mat of the devkit comes without labels, "
            "take the file with them from where the photos came from"
        )
    splits = {
        "train": _listed(root / "devkit" / "cars_train_annos.mat", "cars_train", len(classes)),
        "test": _listed(test, "cars_test", len(classes)),
    }
    rows = listed_rows(ImageTree(root), splits, root)
    return Dataset(DatasetSpec("stanford_cars", classes, label_name="car"), rows, {"train": 8144, "test": 8041})


def _listed(path: Path, folder: str, num_classes: int) -> Listed:
    """Return the files and labels of one list. DataError for a class out of range."""
    (annotations,) = read_mat(path, "annotations")
    fields = annotations.dtype.names or ()
    if "fname" not in fields or "class" not in fields:
        raise DataError(
            f"{path}: the annotations have the fields {', '.join(fields) or 'none'}; expected fname and class"
        )
    label = [int(number) - 1 for number in annotations["class"]]
    for row, code in enumerate(label, start=1):
        if not 0 <= code < num_classes:
            raise DataError(
                f"{path}, row {row}: class {code + 1} is out of range; cars_meta.mat has 1 to {num_classes}"
            )
    return [f"{folder}/{name}" for name in annotations["fname"]], label
