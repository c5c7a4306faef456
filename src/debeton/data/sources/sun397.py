"""SUN397: 108,754 photos of 397 kinds of scene. Each official split uses 39,700 of them.

Xiao et al. 2010, "SUN Database: Large-scale Scene Recognition from Abbey to Zoo" (CVPR); no licence stated.

Layout:
- `SUN397/a/abbey/sun_*.jpg`. RAW is `SUN397` or the folder around it.
- From the owners' Partitions.zip, in `Partitions/`, in `SUN397/` or in RAW: `ClassName.txt` ('/a/abbey' a line, the
  classes in order), `Training_01.txt` and `Testing_01.txt` ('/a/abbey/sun_aqswjsnjlrfzzhiz.jpg' a line).

Splits: ten official ones, `--partition 1` by default, of 50 photos a class for train and 50 for test: 19,850 each. The
name of a class has no initial, e.g. 'apartment_building/outdoor'. Metric: accuracy.
"""

from __future__ import annotations

from pathlib import Path

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, MissingDataError
from debeton.data.raw.layout import Listed, check_partition, class_codes, find_root, listed_rows, raw_folder
from debeton.data.raw.source import SOURCES, Dataset, Option, Request, register_source
from debeton.data.raw.tables import read_fields
from debeton.data.spec import DatasetSpec


@register_source(
    "sun397",
    "photos of 397 kinds of scene, 19,850 + 19,850",
    "--raw DIR --download fetches SUN397.tar.gz (39 GB) and Partitions.zip from vision.princeton.edu/projects/2010/"
    "SUN/ into DIR, or unpack them there: DIR/SUN397/a/abbey/*.jpg and DIR/Partitions/Training_01.txt",
    (Option("partition", int, 1, "the number of the official split, 1 to 10"),),
    (
        Archive(
            "SUN397.tar.gz",
            "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            "md5:8ca2778205c41d23104230ba66911c7a",
            folder="SUN397",
        ),
        # Nobody publishes a hash of the lists.
        Archive(
            "Partitions.zip",
            "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
            folder="Partitions/Training_01.txt",
            into="Partitions",
        ),
    ),
)
def load(request: Request) -> Dataset:
    partition = check_partition(request.options["partition"])
    root = find_root(request, "sun397", ("a/abbey",), ("SUN397",))
    names = {"train": f"Training_{partition:02}.txt", "test": f"Testing_{partition:02}.txt"}
    lists = _find_lists(raw_folder(request, "sun397"), root, (*names.values(), "ClassName.txt"))
    paths = [line[0] for line in read_fields(lists["ClassName.txt"], width=1)]
    splits = {split: _listed(lists[name], paths) for split, name in names.items()}
    rows = listed_rows(ImageTree(root), splits, lists[names["train"]].parent)
    classes = tuple(path.split("/", 2)[-1] for path in paths)
    return Dataset(DatasetSpec("sun397", classes, label_name="scene"), rows, {"train": 19850, "test": 19850})


def _find_lists(raw: Path, root: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the path of each list.

    The archive of the images holds only ClassName.txt, that of the partitions holds all lists.
    """
    places = (raw / "Partitions", root / "Partitions", root.parent / "Partitions", raw, root)
    paths = {name: next((place / name for place in places if (place / name).is_file()), None) for name in names}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        raise MissingDataError(
            f"sun397: the photos lie in {root}, but there is no {absent[0]} in {places[0]}, {raw} or {root}; "
            f"{SOURCES.get('sun397').where}"
        )
    return {name: path for name, path in paths.items() if path is not None}


def _listed(path: Path, classes: list[str]) -> Listed:
    files = [line[0] for line in read_fields(path, width=1)]
    return [file.lstrip("/") for file in files], class_codes([file.rpartition("/")[0] for file in files], classes, path)
