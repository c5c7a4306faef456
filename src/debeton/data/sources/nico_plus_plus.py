"""NICO++: photos of 60 classes, each in six contexts that all classes share; 60 x 6 groups.

Zhang et al. 2023, "NICO++: Towards Better Benchmarking for Domain Generalization" (arXiv 2204.08040),
https://github.com/xxgege/NICO-plus; for research without economic purpose.

Layout: `public_dg_0416/train/CONTEXT/CLASS/*.jpg` of the owners' `track_1.zip`, with the contexts autumn, dim, grass,
outdoor, rock and water. RAW is that folder, or the folder around it or around `track_1/`. The owners'
`dg_label_id_mapping.json` in RAW numbers the classes; without it they are in sorted order. The labels of the owners'
test images are not public.

Splits:
- As SubpopBench (Yang et al. 2023, arXiv 2302.12254, https://github.com/YyzHarry/SubpopBench) makes them: of each
  group, 75 photos, or all if it has fewer, a third for val and two thirds for test; the rest is train. Its table
  `metadata.csv` (filename, y, a, split) is used if it lies in RAW. Else the rows are drawn with its generator from
  files in sorted order; SubpopBench has the order of its file system, so its rows differ.
- `--test-contexts autumn,rock`: test has the named contexts and train the others, as in the owners' benchmark. Its
  pairs are autumn and rock, dim and grass, outdoor and water.

Which context goes with a class is not defined, so there are no bias-aligned rows. Metric: worst-group accuracy, or
accuracy with `--test-contexts`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_root, known_choice, raw_folder
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.subpopbench import Codes, find_table, rows_by_split, splits_of_table
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError, UsageError
from debeton.system.json_files import read_json
from debeton.system.json_shapes import Table

CONTEXTS = ("autumn", "dim", "grass", "outdoor", "rock", "water")
FOLDER, MAPPING, TABLES = "public_dg_0416", "dg_label_id_mapping.json", ("metadata.csv", "metadata_nicopp.csv")
AROUND = ("", "track_1", "track_1/track_1", "nicopp", "nicopp/track_1")
PER_GROUP, SEED = 75, 666  # SubpopBench's photos of a group for val and test, and its seed


@register_source(
    "nico_plus_plus",
    "60 classes in six contexts, 60 x 6 groups, divided as in SubpopBench or by context (NICO++)",
    "get track_1.zip and dg_label_id_mapping.json by hand from the links in https://github.com/xxgege/NICO-plus and "
    f"unpack it: RAW/{FOLDER}/train/autumn/bear/*.jpg",
    (Option("test-contexts", str, "", "contexts of test, 'autumn,rock'; train has the others (default: SubpopBench)"),),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    needed = [f"train/{context}" for context in CONTEXTS]
    root = find_root(request, "nico_plus_plus", needed, [f"{place}/{FOLDER}".lstrip("/") for place in AROUND])
    raw, tree = raw_folder(request, "nico_plus_plus"), ImageTree(root)
    files = [file for context in CONTEXTS for file in tree.files(f"train/{context}/*/*")]
    order = _class_order(files, [raw, root, root.parent, root.parent.parent])
    code_of = {name: code for code, name in enumerate(order)}
    files.sort(key=lambda file: (CONTEXTS.index(file.split("/")[1]), code_of[file.split("/")[2]], file))
    codes = {file: (code_of[file.split("/")[2]], CONTEXTS.index(file.split("/")[1])) for file in files}
    groups = {label * len(CONTEXTS) + context for label, context in codes.values()}
    spec = DatasetSpec(
        "nico_plus_plus",
        order,
        CONTEXTS,
        missing=tuple(group for group in range(len(order) * len(CONTEXTS)) if group not in groups),
        attribute_name="context",
    )
    if request.options["test_contexts"]:
        return _by_context(request.options["test_contexts"], spec, tree, codes)
    table = find_table(TABLES, [raw, root, root.parent])
    split_of = _drawn(codes) if table is None else splits_of_table(table, spec, codes)
    note = (
        f"the splits are those of {table}"
        if table
        else f"the splits are drawn as SubpopBench draws them; its own rows need its {TABLES[0]} in RAW"
    )
    return Dataset(spec, rows_by_split(tree, codes, split_of, table or root), notes=(note,))


def _class_order(files: Sequence[str], folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the classes by code: by the owners' file if it is there, else in sorted order.

    DataError if the file does not number the classes of the folders from 0.
    """
    there = sorted({file.split("/")[2] for file in files})
    if not there:
        raise DataError(f"nico_plus_plus: no image train/CONTEXT/CLASS/* in {folders[1]}; unpack or fetch it again")
    path = find_table([MAPPING], folders)
    if path is None:
        return tuple(there)
    code_of = read_json(path, Table(others=int), remedy='expected the form {"bear": 0, ...}; fetch it again')
    if sorted(code_of.values()) != list(range(len(code_of))):
        raise DataError(f"{path}: the codes of the {len(code_of)} classes do not count from 0; fetch it again")
    strange = [name for name in there if name not in code_of]
    if strange:
        raise DataError(f"{path} has no code for the class '{strange[0]}' of the folders; fetch it again")
    return tuple(sorted(code_of, key=code_of.__getitem__))


def _drawn(codes: Codes) -> dict[str, str]:
    """Return the split of each file, drawn with SubpopBench's generator and seed, one context after the other.

    codes: in the order of context, class and name.
    """
    rng = random.Random(SEED)
    groups: dict[tuple[int, int], list[str]] = {}
    for file, pair in codes.items():
        groups.setdefault(pair, []).append(file)
    split_of = dict.fromkeys(codes, "train")
    for files in groups.values():
        rng.shuffle(files)
        held_out = files[:PER_GROUP]
        third = len(held_out) // 3
        split_of.update((file, "val" if row < third else "test") for row, file in enumerate(held_out))
    return split_of


def _by_context(text: str, spec: DatasetSpec, tree: ImageTree, codes: Codes) -> Dataset:
    """Return train and test with different contexts."""
    chosen = [known_choice("test-contexts", name.strip(), CONTEXTS) for name in text.split(",")]
    if len(set(chosen)) == len(CONTEXTS):
        raise UsageError("--test-contexts names every context, which leaves none for train")
    splits = {}
    for split in ("train", "test"):
        files = [file for file, (_, context) in codes.items() if (CONTEXTS[context] in chosen) == (split == "test")]
        if not files:
            raise DataError(f"nico_plus_plus: {tree.root} has no photo of the contexts of {split}; fetch it again")
        pairs = np.array([codes[file] for file in files], np.int64)
        splits[split] = file_rows(tree, files, pairs[:, 0], pairs[:, 1])
    return Dataset(spec, splits)
