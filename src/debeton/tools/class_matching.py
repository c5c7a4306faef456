"""Classes of data matched with the outputs of a classifier by name, by number, or by a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from debeton.data.raw.imagenet_classes import imagenet_aliases
from debeton.data.raw.tables import read_csv
from debeton.system.errors import DataError, UsageError, first_names, nearest

ClassMap = Mapping[str, Sequence[str]]  # the model's classes that stand for a class of the data, by its name
SHOWN = 5  # names that a message lists


@dataclass(frozen=True)
class ClassMatch:
    """The outputs of a classifier that stand for the classes of data.

    codes: by class of the data, the codes of the model's classes.
    note: a sentence for the user where the two are not simply the same, else ''.
    """

    codes: tuple[tuple[int, ...], ...]
    note: str = ""


class MatchedClasses(nn.Module):
    """A classifier whose logits are those of the matched classes alone, [B, classes of the data].

    The logit of several outputs is the logarithm of their summed exponentials, so that their probabilities add up. The
    others are left out, as if their logits were minus infinity.
    """

    def __init__(self, model: nn.Module, match: ClassMatch):
        super().__init__()
        self.model, self.codes = model, [list(codes) for codes in match.codes]

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of images [B, 3, H, W]."""
        logits: Tensor = self.model(image)
        if all(len(codes) == 1 for codes in self.codes):
            return logits[:, [code for (code,) in self.codes]]
        return torch.stack([logits[:, codes].float().logsumexp(1) for codes in self.codes], dim=1)


def match_classes(data: Sequence[str], model: Sequence[str], class_map: ClassMap | None = None) -> ClassMatch:
    """Match each class of the data with outputs of a model.

    Without a table the names must be those of the model's classes, or a part of them. The wnids of ImageNet are names
    of its classes too. Whole numbers are the model's codes where its classes have names. The numbers of a model whose
    class names are not known are taken in the sequence of the data's classes, if there are as many.

    DataError names the classes that differ.
    """
    codes = {name: code for code, name in enumerate(model)}
    if class_map is not None:
        return ClassMatch(_mapped(data, codes, class_map), "the classes are matched by the given table")
    if tuple(data) == tuple(model):
        return ClassMatch(tuple((code,) for code in range(len(model))))
    known = {**imagenet_aliases(model), **codes}
    if all(name in known for name in data):
        found = [known[name] for name in data]
        return ClassMatch(_single(found), _note_on_subset(len(set(found)), len(model)))
    are_numbers, are_unnamed = (all(re.fullmatch(r"\d+", name) for name in names) for names in (data, model))
    if are_numbers and not are_unnamed and max(map(int, data)) < len(model):
        note = "the classes of the data are numbers, and are taken as the model's outputs"
        subset = _note_on_subset(len(data), len(model))
        return ClassMatch(_single([int(name) for name in data]), f"{note}; {subset}" if subset else note)
    if are_unnamed and len(data) == len(model):
        return ClassMatch(
            _single(range(len(model))),
            f"the model does not name its classes; its {len(model)} outputs are taken in the sequence of the data's "
            f"classes ({', '.join(data[:SHOWN])}{', ...' if len(data) > SHOWN else ''}); name them with --classes",
        )
    unknown = [f"'{name}'{nearest(name, known).rstrip(';')}" for name in data if name not in known]
    raise DataError(
        f"{len(unknown)} of the {len(data)} classes of the data are no classes of the model: {first_names(unknown)}; "
        f"the model has {len(model)}: {', '.join(model[:SHOWN])}{', ...' if len(model) > SHOWN else ''}. Name the "
        "model's outputs with --classes, or say which of them stand for each class with --class-map"
    )


def _single(codes: Sequence[int] | range) -> tuple[tuple[int, ...], ...]:
    return tuple((code,) for code in codes)


def _note_on_subset(present: int, classes: int) -> str:
    """Return a note on outputs that are left out; '' if all classes are present."""
    if present == classes:
        return ""
    return (
        f"the data has {present} of the model's {classes} classes; the others are left out of every prediction (their "
        "logits are masked)"
    )


def _mapped(data: Sequence[str], codes: Mapping[str, int], class_map: ClassMap) -> tuple[tuple[int, ...], ...]:
    """Return the codes of each class of the data by the user's table. UsageError for a name that is missing."""
    known = {**imagenet_aliases(list(codes)), **{str(code): code for code in codes.values()}, **codes}
    used: dict[int, str] = {}
    result = []
    for name in data:
        if name not in class_map:
            raise UsageError(f"--class-map has no line for the class '{name}' of the data{nearest(name, class_map)}")
        for other in class_map[name]:
            if other not in known:
                raise UsageError(
                    f"--class-map, class '{name}': the model has no class '{other}'{nearest(other, known)}"
                )
            if used.setdefault(known[other], name) != name:
                raise UsageError(
                    f"--class-map gives the model's class '{other}' to '{used[known[other]]}' and to '{name}'; it can "
                    "stand for one of them"
                )
        result.append(tuple(sorted({known[other] for other in class_map[name]})))
    return tuple(result)


def read_class_map(path: Path) -> dict[str, list[str]]:
    """Read a CSV of the columns class and model_class.

    It has a line for each output that stands for a class of the data.
    """
    if not path.is_file():
        raise UsageError(f"--class-map: there is no file {path}")
    table: dict[str, list[str]] = {}
    for record in read_csv(path, ("class", "model_class")):
        table.setdefault(record["class"], []).append(record["model_class"])
    return table
