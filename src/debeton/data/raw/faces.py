"""Shared code of the face sets: attribute tables, tasks over their columns, and From Fake to Real's base bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.source import Option
from debeton.data.raw.tables import require_unique
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.seed import make_rng

SEX = ("Female", "Male")
# `DatasetSpec.aligned`: class 0 goes with attribute 1 and class 1 with attribute 0, e.g. (not smiling, male).
CROSSED = ((1,), (0,))

BIAS_OPTIONS = (
    Option("base-bias", float, 0.9, "share of each class with its majority attribute, in train and val; 0 keeps all"),
    Option("data-seed", int, 0, "seed of the rows that the base bias keeps; training has its own seed"),
)


def task_options(label: str, attribute: str) -> tuple[Option, Option]:
    """Return the options `--label` and `--attribute`: the two columns that are the task of the beton.

    The other columns go into the sidecar. label, attribute: the defaults.
    """
    return (
        Option("label", str, label, "the column that is the class"),
        Option("attribute", str, attribute, "the column that is the spurious attribute"),
    )


def task_spec(
    name: str,
    columns: Mapping[str, tuple[str, ...]],
    options: Mapping[str, Any],
    tasks: Mapping[str, tuple[tuple[int, ...], ...]],
) -> DatasetSpec:
    """Return the spec whose label and attribute are the two columns that the options name.

    name: of the data set.
    columns: names by code of each column.
    options: values of `--label` and `--attribute`. UsageError for unknown columns.
    tasks: the known pairings, `DatasetSpec.tasks`.
    """
    label, attribute = options["label"], options["attribute"]
    for option, column in (("label", label), ("attribute", attribute)):
        if column not in columns:
            raise UsageError(
                f"--{option} '{column}' is no attribute of {name}{nearest(column, columns)} known: {', '.join(columns)}"
            )
    if label == attribute:
        raise UsageError(f"--label and --attribute are both '{label}'; give two different columns")
    aligned = tasks.get(f"{label} x {attribute}", ())
    return DatasetSpec(
        name,
        columns[label],
        columns[attribute],
        aligned,
        label_name=label,
        attribute_name=attribute,
        columns=columns,
        tasks=tasks,
    )


def task_rows(tree: ImageTree, files: Sequence[str], columns: Mapping[str, Any], spec: DatasetSpec) -> Rows:
    """Return rows whose label and attribute are two of their columns.

    files: [N] paths in the tree.
    columns: [N] codes by name.
    """
    return file_rows(tree, files, columns[spec.label_name], columns[spec.attribute_name], columns)


# --- CelebA's attribute tables -------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttributeTable:
    """Binary attributes of images, as CelebA lists them.

    names: [A].
    files: [N], each once, in the order of the table.
    values: uint8 [N, A], 1 if the image has the attribute.
    """

    names: tuple[str, ...]
    files: list[str]
    values: NDArray[np.uint8]

    def columns(self, rows: Ints) -> dict[str, Any]:
        """Return all attributes of the given rows by name, as 0/1 codes."""
        return {name: np.ascontiguousarray(self.values[rows, k]) for k, name in enumerate(self.names)}

    def values_by_name(self) -> dict[str, tuple[str, ...]]:
        """Return `DatasetSpec.columns`: 'not X' and 'X' for each attribute, and the two sexes for 'Male'."""
        return {name: SEX if name == "Male" else (f"not {name}", name) for name in self.names}


def read_attributes(text: str, where: str) -> AttributeTable:
    """Read a table of attributes in CelebA's text format, or as CSV with the column image_id.

    The text has a count, the names, then 'FILE -1 1 ...'. DataError names the line that does not fit.
    Each line becomes bytes at once: 8 million fields as Python strings would fill half a gigabyte.

    text: the content of the file.
    where: the name of the file, for messages.
    """
    lines = text.replace(",", " ").splitlines()
    counted = bool(lines) and lines[0].strip().isdecimal()
    header = (lines[counted : counted + 1] or [""])[0].split()
    names = tuple(header if counted else header[1:])
    if not names or (not counted and header[0] != "image_id"):
        raise DataError(f"{where} begins with neither a count nor 'image_id'; it is not CelebA's list of attributes")
    files, codes = [], bytearray()
    for number, line in enumerate(lines[counted + 1 :], start=counted + 2):
        file, *fields = line.split() or [""]
        if not file:
            continue
        if len(fields) != len(names):
            raise DataError(f"{where}, line {number}: {len(fields)} values, expected {len(names)}: '{line[:80]}'")
        files.append(file)
        codes += "".join(fields).replace("-1", "0").encode()
        if len(codes) != len(files) * len(names) or codes[-len(names) :].strip(b"01"):
            raise DataError(f"{where}, line {number}: values other than -1, 0 and 1: '{line[:80]}'")
    if counted and len(files) != int(lines[0]):
        raise DataError(f"{where} has {len(files)} rows but promises {int(lines[0])}; fetch it again")
    if not files:
        raise DataError(f"{where} has no row below its header")
    require_unique(files, where)
    values = np.frombuffer(bytes(codes), np.uint8).reshape(len(files), len(names)) - ord("0")
    return AttributeTable(names, files, values)


# --- From Fake to Real's splits ------------------------------------------------------------------------------


def eighty_ten_ten(n: int) -> dict[str, slice]:
    """Return slices of n names: train the first 80 %, val the next 10 %, test the rest."""
    first, second = int(n * 0.8), int(n * 0.9)
    return {"train": slice(0, first), "val": slice(first, second), "test": slice(second, n)}


def check_base_bias(rate: float) -> None:
    """Raise UsageError unless the base bias is 0 or in [0.5, 1)."""
    if rate != 0 and not 0.5 <= rate < 1:
        raise UsageError(f"--base-bias {rate} must be 0, which keeps all rows, or at least 0.5 and below 1")


def rows_after_base_bias(
    spec: DatasetSpec, columns: Mapping[str, Ints], split: str, options: Mapping[str, Any]
) -> Ints:
    """Return the rows of a split that remain under `--base-bias`, ascending.

    In each class all rows with the majority attribute remain, and floor(n_maj (1 - r) / r) others, with r the base
    bias. This is the code of From Fake to Real, which fixes r = 0.9. The formula is computed in float64 in this order:
    666 majority rows keep 73 rows and not 74. A class with fewer rows keeps all of them.

    spec: the data set; `aligned` names the majority attribute of each class.
    columns: codes by name, [N] each.
    split: the name of the split, which enters the seed.
    options: values of `--base-bias` and `--data-seed`.
    """
    label, attribute = columns[spec.label_name], columns[spec.attribute_name]
    rate = options["base_bias"]
    remains = np.ones(len(label), bool)
    for code in range(spec.num_classes if rate else 0):
        majority = np.isin(attribute, spec.aligned[code])
        n_majority = int(np.sum((label == code) & majority))
        if not n_majority:
            names = ", ".join(spec.attributes[k] for k in spec.aligned[code])
            raise DataError(
                f"{spec.name}/{split}: no row of the class '{spec.classes[code]}' has the attribute '{names}', so it "
                "cannot be biased; --base-bias 0 keeps all rows"
            )
        minority = np.flatnonzero((label == code) & ~majority)
        shuffled = make_rng(options["data_seed"], spec.name, "base bias", split, code).permutation(minority)
        remains[shuffled[int(n_majority * (1 - rate) / rate) :]] = False
    return np.flatnonzero(remains)
