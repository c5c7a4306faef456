"""MetaShift: photos of Visual Genome by class and context, such as cat(sofa); cats and dogs indoors and outdoors.

Liang and Zou 2022, "MetaShift: A Dataset of Datasets for Evaluating Contextual Distribution Shifts and Training
Conflicts" (arXiv 2202.06523), https://github.com/Weixin-Liang/MetaShift (MIT). The photos are those of GQA (Visual
Genome, CC BY 4.0). RAW is one of these folders, or the folder around it (`--form`; `auto` takes the first that is
there):
- cat_dog: `MetaShift-Cat-Dog-indoor-outdoor/` with `train/cat/cat(indoor)`, `train/dog/dog(outdoor)`,
  `test/cat/cat(outdoor)` and `test/dog/dog(indoor)`. 2 x 2 groups, divided as in SubpopBench (Yang et al. 2023,
  arXiv 2302.12254, https://github.com/YyzHarry/SubpopBench): 25 % of all are test and 10 % val. Its table
  `metadata_metashift.csv` (filename, y, a, split) is used if it lies in RAW. Else the rows are drawn as there, from
  files in sorted order; SubpopBench has the order of its file system, so its rows differ.
- mixed: `MetaShift-subpopulation-shift/` with `train/cat/*`, `val_out_of_domain/cat/*` and `imageID_to_group.pkl`. The
  groups of the second split are equally frequent; it is test, the split that the owners report.
- subsets: `CLASS/CLASS(CONTEXT)/*` of the owners' other scripts, with or without `train/` and `test/` around it. The
  attribute is the context. Without these two folders all is train. `--train-subsets` and `--test-subsets` choose
  subsets; a photo of a test subset is then left out of train. A photo may be in several subsets of one class.
  `--distance` has the subsets of the paper's cats and dogs: cats on sofas and beds, dogs in two contexts at that
  distance from those of test, on shelves.

The owners' metadata decide how many photos there are; no count is published beside it, so none is checked. Metric:
worst-group accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, known_choice, missing_part_error, raw_folder
from debeton.data.raw.pickles import load_pickle
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.subpopbench import find_table, rows_by_split, splits_of_table
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.regular_files import MAX_NOTE_BYTES, read_regular

FORMS = ("cat_dog", "mixed", "subsets")
FOLDERS = {
    "cat_dog": "MetaShift-Cat-Dog-indoor-outdoor",
    "mixed": "MetaShift-subpopulation-shift",
    "subsets": "MetaDataset-full",
}
TABLE, GROUPS = "metadata_metashift.csv", "imageID_to_group.pkl"
SPEC = DatasetSpec(
    "metashift",
    ("dog", "cat"),
    ("outdoor", "indoor"),
    aligned=((0,), (1,)),
    label_name="animal",
    attribute_name="place",
)
# In the order in which SubpopBench lists the rows before it draws.
CAT_DOG = ("train/cat/cat(indoor)", "train/dog/dog(outdoor)", "test/cat/cat(outdoor)", "test/dog/dog(indoor)")
SHARES = {"test": 0.25, "val": 0.1}
SUBSET = re.compile(r"(.+)\((.+)\)")
DISTANCES = {
    "0.44": ("dog(cabinet)", "dog(bed)"),
    "0.71": ("dog(bag)", "dog(box)"),
    "1.12": ("dog(bench)", "dog(bike)"),
    "1.43": ("dog(boat)", "dog(surfboard)"),
}
CATS, SHELVES = ("cat(sofa)", "cat(bed)"), ("cat(shelf)", "dog(shelf)")


@register_source(
    "metashift",
    "cats and dogs indoors and outdoors, 2 x 2 groups, or any classes and their contexts (MetaShift)",
    "make it with the scripts in dataset/ of https://github.com/Weixin-Liang/MetaShift, or get SubpopBench's "
    "metashift.tar.gz by its script (https://github.com/YyzHarry/SubpopBench): "
    f"RAW/{FOLDERS['cat_dog']}/train/cat/cat(indoor)/*.jpg",
    (
        Option("form", str, "auto", f"{', '.join(FORMS)}, or auto: what lies in RAW"),
        Option("train-subsets", str, "", "form subsets: 'cat(sofa),dog(bench)', those of train (default: all)"),
        Option("test-subsets", str, "", "form subsets: the subsets of test (default: those in test/)"),
        Option("distance", str, "", f"form subsets: the paper's distance of train and test, {', '.join(DISTANCES)}"),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    form, root = _find(request)
    if form != "subsets":
        for option in ("train_subsets", "test_subsets", "distance"):
            if request.options[option]:
                raise UsageError(f"--{option.replace('_', '-')} is of the form subsets, and {root} holds {form}")
    if form == "mixed":
        return _mixed(root)
    if form == "cat_dog":
        return _cat_dog(request, root)
    return _subsets(request, root)


def _find(request: Request) -> tuple[str, Path]:
    """Return the form and its folder. MissingDataError if none of the wanted forms is there."""
    raw = raw_folder(request, "metashift")
    wanted = known_choice("form", request.options["form"], ("auto", *FORMS))
    forms = FORMS if wanted == "auto" else (wanted,)
    for form in forms:
        for place in (raw, raw / "metashift"):
            for root in (place / FOLDERS[form], place):
                if root.is_dir() and _holds(form, root):
                    return form, root
    what = {"cat_dog": f"{CAT_DOG[0]}/*", "mixed": f"train/cat/* with {GROUPS}", "subsets": "CLASS/CLASS(CONTEXT)/*"}
    raise missing_part_error("metashift", " or ".join(what[form] for form in forms), [raw])


def _holds(form: str, root: Path) -> bool:
    """Return whether a folder has the layout of a form."""
    if form == "cat_dog":
        return all((root / folder).is_dir() for folder in CAT_DOG)
    if form == "mixed":
        return (root / GROUPS).is_file() and (root / "val_out_of_domain").is_dir()
    return any(_subset_folders(root).values())


# --- cats and dogs -----------------------------------------------------------------------------------------------


def _cat_dog(request: Request, root: Path) -> Dataset:
    """Return SubpopBench's splits, by its table or drawn."""
    tree = ImageTree(root)
    files = [file for folder in CAT_DOG for file in find_images(tree, (f"{folder}/*",), "metashift")]
    codes = {file: _codes(file.split("/")[-2]) for file in files}
    table = find_table([TABLE], [root, root.parent, raw_folder(request, "metashift")])
    split_of = _drawn(files) if table is None else splits_of_table(table, SPEC, codes)
    note = (
        f"the splits are those of {table}"
        if table
        else f"the splits are drawn as SubpopBench draws them; its own rows need its {TABLE} in RAW"
    )
    return Dataset(SPEC, rows_by_split(tree, codes, split_of, table or root), notes=(note,))


def _drawn(files: Sequence[str]) -> dict[str, str]:
    """Return the split of each file, drawn with SubpopBench's generator and seed."""
    rng, rest = np.random.RandomState(42), np.arange(len(files))
    split_of = dict.fromkeys(files, "train")
    for split, share in SHARES.items():
        chosen = rng.choice(rest, size=int(len(files) * share), replace=False)
        split_of.update((files[row], split) for row in chosen)
        rest = np.setdiff1d(rest, chosen)
    return split_of


def _codes(subset: str) -> tuple[int, int]:
    """Return the label and the attribute of 'cat(indoor)' and the like."""
    match = SUBSET.fullmatch(subset)
    if match is None or match[1] not in SPEC.classes or match[2] not in SPEC.attributes:
        raise DataError(f"metashift: '{subset}' is not cat or dog with (indoor) or (outdoor)")
    return SPEC.classes.index(match[1]), SPEC.attributes.index(match[2])


def _mixed(root: Path) -> Dataset:
    """Return the owners' train and test, with the groups of the pickle beside them."""
    tree, group_of = ImageTree(root), _group_of_image(root / GROUPS)
    splits = {}
    for split, folder in (("train", "train"), ("test", "val_out_of_domain")):
        files = find_images(tree, [f"{folder}/{name}/*" for name in SPEC.classes], "metashift")
        codes = []
        for file in files:
            path = PurePosixPath(file)
            if path.stem not in group_of:
                raise DataError(f"metashift: {root / GROUPS} has no group of the photo {file}; make both again")
            label, attribute = _codes(group_of[path.stem])
            if SPEC.classes[label] != path.parent.name:
                raise DataError(f"metashift: {file} is {group_of[path.stem]} in {root / GROUPS}; make both again")
            codes.append((label, attribute))
        splits[split] = file_rows(tree, files, [label for label, _ in codes], [place for _, place in codes])
    return Dataset(SPEC, splits)


def _group_of_image(path: Path) -> dict[str, str]:
    """Return the subset of each photo. The pickle is {photo: [subset]}, or {subset: photos} as its README says."""
    content = load_pickle(read_regular(path, MAX_NOTE_BYTES), str(path), encoding="latin1")
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a table of photos; make it again")
    found: dict[str, str] = {}
    for key, values in content.items():
        for value in [values] if isinstance(values, str) else values:
            subset, photo = (key, value) if SUBSET.fullmatch(str(key)) else (value, key)
            found[PurePosixPath(str(photo)).stem] = str(subset)
    return found


# --- any subsets -------------------------------------------------------------------------------------------------


def _subset_folders(root: Path) -> dict[str, dict[str, str]]:
    """Return the folder of each subset, by the part of the set: 'train', 'test', or '' without these two folders."""
    parts = {part: part for part in ("train", "test") if (root / part).is_dir()} or {"": "."}
    return {
        part: {
            path.name: path.relative_to(root).as_posix()
            for path in sorted((root / folder).glob("*/*(*)"))
            if path.is_dir() and SUBSET.fullmatch(path.name) and path.name.startswith(f"{path.parent.name}(")
        }
        for part, folder in parts.items()
    }


def _subsets(request: Request, root: Path) -> Dataset:
    """Return train and test of chosen subsets, with the context as the attribute."""
    tree, folders = ImageTree(root), _subset_folders(root)
    wanted = _wanted(request)
    chosen: dict[str, list[str]] = {}
    for split in ("train", "test"):
        of_part = folders.get(split, folders.get("", {}))
        names = wanted[split] or (list(of_part) if split in folders or split == "train" else [])
        unknown = [name for name in names if name not in of_part]
        if unknown:
            raise UsageError(
                f"--{split}-subsets '{unknown[0]}' is no subset in {root / (split if split in folders else '')}"
                f"{nearest(unknown[0], of_part)} known: {', '.join(sorted(of_part))}"
            )
        chosen[split] = [of_part[name] for name in names]
    files = {
        split: [file for folder in paths for file in find_images(tree, (f"{folder}/*",), "metashift")]
        for split, paths in chosen.items()
        if paths
    }
    of_test = {PurePosixPath(file).name for file in files.get("test", ())}
    files["train"] = [file for file in files.get("train", ()) if PurePosixPath(file).name not in of_test]
    if not files["train"]:
        raise DataError(f"metashift: every photo of train is also in test in {root}; choose other subsets")
    pairs = {split: [_parts(file) for file in names] for split, names in files.items()}
    every = {pair for of_split in pairs.values() for pair in of_split}
    classes, contexts = (tuple(sorted({pair[k] for pair in every})) for k in (0, 1))
    cells = [(name, context) for name in classes for context in contexts]
    spec = DatasetSpec(
        "metashift",
        classes,
        contexts,
        missing=tuple(group for group, cell in enumerate(cells) if cell not in every),
        attribute_name="context",
    )
    rows = {
        split: file_rows(
            tree,
            names,
            [classes.index(name) for name, _ in pairs[split]],
            [contexts.index(context) for _, context in pairs[split]],
        )
        for split, names in files.items()
    }
    return Dataset(spec, rows)


def _wanted(request: Request) -> dict[str, list[str]]:
    """Return the subsets of train and test that the options name; none: all."""
    options = request.options
    lists = {
        split: [name.strip() for name in options[f"{split}_subsets"].split(",") if name.strip()]
        for split in ("train", "test")
    }
    if not options["distance"]:
        return lists
    if any(lists.values()):
        raise UsageError("--distance names the subsets of train and test; give it without --train-subsets and others")
    dogs = DISTANCES[known_choice("distance", options["distance"], tuple(DISTANCES))]
    return {"train": [*CATS, *dogs], "test": list(SHELVES)}


def _parts(file: str) -> tuple[str, str]:
    """Return the class and the context of a file in the folder of a subset."""
    match = SUBSET.fullmatch(PurePosixPath(file).parent.name)
    assert match is not None  # `_subset_folders` takes no other folder
    return match[1], match[2]
