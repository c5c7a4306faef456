"""What the face sets share: attribute tables, tasks over their columns, and From Fake to Real's base bias."""

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
# Class 0 goes with attribute 1 and class 1 with attribute 0: (not smiling, male) and (smiling, female), and so on.
CROSSED = ((1,), (0,))

BIAS_OPTIONS = (
    Option("base-bias", float, 0.9, "share of each class of train and val with its majority attribute; 0 keeps all"),
    Option("data-seed", int, 0, "which rows the base bias keeps; not the seed of training"),
)


def task_options(label: str, attribute: str) -> tuple[Option, Option]:
    """`--label` and `--attribute`, the columns that are the task of the beton; the others go into the sidecar."""
    return (
        Option("label", str, label, "which column is the class"),
        Option("attribute", str, attribute, "which column is the spurious attribute"),
    )


def task_spec(
    name: str,
    columns: Mapping[str, tuple[str, ...]],
    options: Mapping[str, Any],
    tasks: Mapping[str, tuple[tuple[int, ...], ...]],
) -> DatasetSpec:
    """The spec whose label and attribute are the two columns that the options name; UsageError for unknown ones."""
    label, attribute = options["label"], options["attribute"]
    for option, column in (("label", label), ("attribute", attribute)):
        if column not in columns:
            raise UsageError(
                f"--{option} '{column}' is no attribute of {name}{nearest(column, columns)} known: {', '.join(columns)}"
            )
    if label == attribute:
        raise UsageError(f"--label and --attribute are both '{label}'; a spurious attribute is another one")
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
    """Rows whose label and attribute are two of their columns."""
    return file_rows(tree, files, columns[spec.label_name], columns[spec.attribute_name], columns)


# --- CelebA's attribute tables -------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttributeTable:
    """Binary attributes of images, as CelebA lists them.

    names: [A]. files: [N], in the order of the file, each once. values: uint8 [N, A], 1 where the attribute holds.
    """

    names: tuple[str, ...]
    files: list[str]
    values: NDArray[np.uint8]

    def columns(self, rows: Ints) -> dict[str, Any]:
        """All attributes of some rows by name, as 0/1 codes."""
        return {name: np.ascontiguousarray(self.values[rows, k]) for k, name in enumerate(self.names)}

    def values_by_name(self) -> dict[str, tuple[str, ...]]:
        """`DatasetSpec.columns`: 'not X' and 'X' of each attribute, the two sexes of 'Male'."""
        return {name: SEX if name == "Male" else (f"not {name}", name) for name in self.names}


def read_attributes(text: str, where: str) -> AttributeTable:
    """The table in CelebA's text: a count, the names, then 'FILE -1 1 ...'; or as CSV with an image_id column.

    Lines become bytes one by one: 8 million fields as Python strings would fill half a gigabyte.
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
    """Train, val and test as the first 80, the next 10 and the last 10 % of a listing of n."""
    first, second = int(n * 0.8), int(n * 0.9)
    return {"train": slice(0, first), "val": slice(first, second), "test": slice(second, n)}


def check_base_bias(rate: float) -> None:
    if rate != 0 and not 0.5 <= rate < 1:
        raise UsageError(f"--base-bias {rate} must be 0, which keeps all rows, or from 0.5 up to below 1")


def base_biased(spec: DatasetSpec, columns: Mapping[str, Ints], split: str, options: Mapping[str, Any]) -> Ints:
    """Which rows of a split stay when `--base-bias` of each class shall have its majority attribute, ascending.

    Each class keeps floor(n_maj (1 - r) / r) rows of the minority attribute (From Fake to Real's code, which fixes
    r = 0.9), in float64 and this order: 666 majority rows keep 73 and not 74. It keeps all where it has fewer.
    """
    label, attribute = columns[spec.label_name], columns[spec.attribute_name]
    rate = options["base_bias"]
    kept = np.ones(len(label), bool)
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
        drawn = make_rng(options["data_seed"], spec.name, "base bias", split, code).permutation(minority)
        kept[drawn[int(n_majority * (1 - rate) / rate) :]] = False
    return np.flatnonzero(kept)
