"""What a data set is, in the field's terms: classes, spurious attributes, groups, and which go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

Ints = NDArray[np.int64]


def group_index(label: Ints, attribute: Ints, num_attributes: int) -> Ints:
    """Group of each row: label * num_attributes + attribute, the same in every split."""
    return np.asarray(label, np.int64) * num_attributes + np.asarray(attribute, np.int64)


@dataclass(frozen=True)
class DatasetSpec:
    """Names and conventions of one data set.

    name: as on the command line.
    classes, attributes: names by code. A set without a spurious attribute has the one attribute 'any'.
    aligned: aligned[label] is the tuple of attribute codes that go with the class in training
        (bias-aligned); empty where the set defines no such pairing.
    missing: names of (label, attribute) cells that do not exist in any split, as group indices.
    mean, std: per channel, of images in [0, 1].
    metric: 'top1' or 'mean_per_class', the number its owners report.
    """

    name: str
    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ("any",)
    aligned: tuple[tuple[int, ...], ...] = ()
    missing: tuple[int, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    metric: str = "top1"

    def __post_init__(self) -> None:
        if self.aligned and len(self.aligned) != len(self.classes):
            raise ValueError(f"spec {self.name}: aligned names {len(self.aligned)} of {len(self.classes)} classes")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_groups(self) -> int:
        return len(self.classes) * len(self.attributes)

    @property
    def group_names(self) -> tuple[str, ...]:
        """'class, attribute' by group index; only the class where there is one attribute."""
        if len(self.attributes) == 1:
            return self.classes
        return tuple(f"{c}, {a}" for c in self.classes for a in self.attributes)

    def group(self, label: Ints, attribute: Ints) -> Ints:
        """Group index of each row; DataError names the first code out of range."""
        for kind, codes, names in (("label", label, self.classes), ("attribute", attribute, self.attributes)):
            bad = np.flatnonzero((np.asarray(codes) < 0) | (np.asarray(codes) >= len(names)))
            if len(bad):
                raise DataError(
                    f"{self.name}: {kind} {int(np.asarray(codes)[bad[0]])} of row {int(bad[0])} is out of range; "
                    f"there are {len(names)} {kind}s (0 to {len(names) - 1}) and {len(bad)} such rows"
                )
        return group_index(label, attribute, len(self.attributes))

    def is_aligned(self, label: Ints, attribute: Ints) -> NDArray[np.bool_] | None:
        """Whether each row is bias-aligned; None where the set defines no pairing."""
        if not self.aligned:
            return None
        table = np.zeros((self.num_classes, len(self.attributes)), bool)
        for k, codes in enumerate(self.aligned):
            table[k, list(codes)] = True
        return table[label, attribute]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the sidecar stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetSpec:
        """The inverse of `to_dict`; JSON's lists become tuples."""

        def freeze(value: Any) -> Any:
            return tuple(freeze(v) for v in value) if isinstance(value, list) else value

        return cls(**{key: freeze(value) for key, value in values.items()})


# An image before it is written: pixels (uint8, [H, W, 3] or [H, W]), the bytes of an encoded file, or its path.
RawImage = NDArray[np.uint8] | bytes | Path


@dataclass(frozen=True)
class Rows:
    """One split before it is written: columns, and a way to read image i.

    label, attribute: int64 [N].
    image: row number -> RawImage; called from several threads.
    names: [N], how messages call a row (a relative path or 'train-images[17]'); unique.
    columns: more per-row values for the sidecar, each of length N, JSON-serialisable.
    source: 0 real, 1 synthetic; int64 [N] or None for all real.
    """

    label: Ints
    attribute: Ints
    image: Callable[[int], RawImage]
    names: Sequence[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    source: Ints | None = None

    def __len__(self) -> int:
        return len(self.label)
