"""Weights of a file fitted to a network: by name, with a message for every name that does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from debeton.nets.checkpoint import BEST_NAME, copy_weights
from debeton.nets.finite import check_finite
from debeton.nets.weight_files import WeightFile, read_weight_file
from debeton.system.errors import DataError, UsageError, first_names
from debeton.system.log import logger


def check_described(file: WeightFile, expected: Mapping[str, Any], key: str, arch_key: str = "model.arch") -> None:
    """Raise UsageError if a file describes another network, or another normalisation, than `expected`.

    A file of another program describes nothing and passes.

    expected: `describe_network` of the run.
    key, arch_key: the settings that named the file and the architecture, for messages.
    """
    remedies = {
        "arch": f"set --{arch_key} to that of the checkpoint",
        "num_classes": "take a checkpoint of this data set",
        "mean": "set --model.normalisation as that run did",
        "std": "set --model.normalisation as that run did",
        "blurpool": "set --model.blurpool as that run did",
    }
    if file.network is None:
        return
    for name, remedy in remedies.items():
        default = False if name == "blurpool" else None
        stored, value = file.network.get(name, default), expected.get(name, default)
        if stored != value:
            raise UsageError(f"{key} {file.path}: its {name} is {stored}, this run's is {value}; {remedy}")


def load_run_weights(
    model: nn.Module,
    path: Path,
    expected: Mapping[str, Any],
    key: str,
    arch_key: str = "model.arch",
    names: Sequence[str] = (BEST_NAME,),
    head: str | None = None,
) -> None:
    """Load the weights of a checkpoint, head included: of a run, or of another program.

    path: a file or folder as `read_weight_file` takes it, with `names`.
    expected, key, arch_key: as in `check_described`.
    head: name of the head if that of another program's file may differ, because it is replaced.

    UsageError if the network or its normalisation is another. DataError if the weights do not fit, e.g. because a
    method replaced the head.
    """
    file = read_weight_file(path, names)
    check_described(file, expected, key, arch_key)
    if file.network is not None:
        load_weights(model, file.weights, file.path, expected["arch"])
        return
    advice = "if only the last layer is another, take the rest with --model.transfer FULL"
    remedy = advice if key == "model.checkpoint" else ""
    fit_weights(model, file, expected["arch"], head=head, remedy=remedy)


def load_weights(model: nn.Module, weights: Mapping[str, Any], path: Path, arch: str) -> None:
    """Load the weights of a run, read from `path`, into the model.

    DataError if they are not those of `arch`, or are not finite.
    """
    try:
        copy_weights(model, weights)
    except RuntimeError as error:
        reason = _mismatches(_shapes(model.state_dict()), _shapes(weights)) or " ".join(str(error).split())[:300]
        raise DataError(f"{path} does not hold the weights of {arch}: {reason}") from None
    check_finite(model, str(path))


def _shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name."""
    return {name: tuple(value.shape) for name, value in weights.items() if isinstance(value, Tensor)}


def _mismatches(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Return what does not fit: names that are missing, left over or of another shape; '' if all fit.

    The number of steps of a batch norm may be missing.
    """
    wrong = {
        "missing": [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")],
        "not in the network": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {list(shape)} instead of {list(wanted[name])}"
            for name, shape in found.items()
            if name in wanted and shape != wanted[name]
        ],
    }
    return ". ".join(f"{len(names)} {kind}: {first_names(names)}" for kind, names in wrong.items() if names)


def matched(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file of another program under the names that the model has.

    Programs put words such as 'module.', 'model.' or 'backbone.' in front of all names, or leave out those that are in
    the model. The word is chosen under which the most names fit. Names under that word that fit nothing stay in the
    result, as names of the model that are missing do in `fit_weights`.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    cut, added = max(
        ((a, b) for a in _fronts(weights) for b in _fronts(wanted)),
        key=lambda pair: _score(weights, wanted, *pair),
    )
    if not _score(weights, wanted, cut, added)[0]:
        cut, added = "", ""  # nothing fits, and the message shall name everything
    found = {added + name.removeprefix(cut): value for name, value in weights.items() if name.startswith(cut)}
    for name, value in weights.items():  # a head beside the body, such as fc beside backbone.layer1
        for front in _parents(name):
            inner = name.removeprefix(front)
            if not name.startswith(cut) and inner in wanted and inner not in found:
                found[inner] = value
    unused = len(weights) - len(found)
    if unused:
        logger.info("%d weights of the file are not below '%s' and are not used", unused, cut.rstrip("."))
    return found


def _fronts(names: Mapping[str, Any]) -> list[str]:
    """Return the words in front of a tenth of the names or more, with their dots, and an empty one."""
    counts = Counter(front for name in names for front in _parents(name))
    return ["", *(front for front, count in counts.items() if front and 10 * count >= len(names))]


def _parents(name: str) -> Iterator[str]:
    """Yield '', 'a.', 'a.b.' and so on of the name 'a.b.c'."""
    parts = name.split(".")
    return (".".join(parts[:k]) + "." if k else "" for k in range(len(parts)))


def _score(
    weights: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], cut: str, added: str
) -> tuple[int, int, int, int]:
    """Return how well names fit if `cut` goes and `added` comes: names and shapes, few others, short words."""
    inside = [(added + name[len(cut) :], value) for name, value in weights.items() if name.startswith(cut)]
    fitting = sum(name in wanted for name, _ in inside)
    shapes = sum(wanted.get(name) == tuple(value.shape) for name, value in inside)
    return fitting + shapes, fitting - len(inside), -len(added), -len(cut)


def fit_weights(
    model: nn.Module, file: WeightFile, arch: str, *, head: str | None = None, remedy: str = ""
) -> list[str]:
    """Load the weights of another program's file into the model, by name. Return the names left as they are.

    head: name of the head if it may be missing or have another shape, because it is replaced; None: it must fit.
    remedy: what to do where weights do not fit.

    DataError names the weights that are missing, left over or of another shape, or one that is not finite.
    """
    found, wanted = matched(model, file.weights), _shapes(model.state_dict())
    needed, given = dict(wanted), _shapes(found)
    if head is not None:
        children = {name for name, _ in model.named_children()}
        for name in [*given, *needed]:
            of_head = name.rpartition(".")[0] == head or name.startswith(f"{head}.")
            if of_head or (name.partition(".")[0] not in children and name not in needed):
                given.pop(name, None)  # a head, perhaps of another name, is no part of the body
            if of_head:
                needed.pop(name, None)
    if reason := _mismatches(needed, given):
        raise DataError(f"{file.path} does not hold the weights of {arch}: {reason}{'; ' + remedy if remedy else ''}")
    kept = {name: value for name, value in found.items() if wanted.get(name) == tuple(value.shape)}
    copy_weights(model, kept, strict=False)
    check_finite(model, str(file.path))
    return [name for name in wanted if name not in kept]


def outputs_in(file: WeightFile, model: nn.Module, head: str) -> int | None:
    """Return the number of outputs of the head in another program's file; None if there is none."""
    weight = matched(model, file.weights).get(f"{head}.weight")
    return None if weight is None else int(weight.shape[0])
