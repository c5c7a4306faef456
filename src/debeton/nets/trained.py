"""A trained classifier apart from its run: read from a checkpoint, and used on any images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.raw.image_files import IMAGE_SUFFIXES
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.nets.checkpoint import BEST_CHECKPOINT, load_network, load_weights
from debeton.nets.heads import install_head
from debeton.nets.models import architecture, evaluating, make_model
from debeton.nets.networks import MirrorAveraged
from debeton.system.errors import DataError, UsageError
from debeton.system.plugins import require_plugins_of

WEIGHTS, CARD = "model.safetensors", "model.json"  # of an exported model
JPEGS = (".jpg", ".jpeg")
AT_ONCE = 256  # images that are unpacked for the loader before the next are


@dataclass(frozen=True)
class Trained:
    """A classifier in evaluation mode and what its inputs are. network: what rebuilds it, with its normalisation.

    inputs: 'dataset', 'classes', 'resolution' in pixels, 'decoder' and 'tta', as `describe_inputs` gives them.
    """

    model: nn.Module
    network: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.inputs["classes"])

    @property
    def bare(self) -> nn.Module:
        """The network itself, without the averaging over mirror images."""
        return self.model.model if isinstance(self.model, MirrorAveraged) else self.model

    @property
    def spec(self) -> DatasetSpec:
        """The data set as the classifier saw it: its classes and normalisation, and no attributes."""
        mean, std = tuple(self.network["mean"]), tuple(self.network["std"])
        return DatasetSpec(self.inputs["dataset"], self.classes, mean=mean, std=std)

    def loader(self, view: View, batch_size: int, device: torch.device) -> Loader:
        """Every row of a view once, in file order, as the classifier takes its images."""
        options = LoaderOptions(decoder=self.inputs["decoder"], resolution=self.inputs["resolution"], device=device)
        return make_loader(replace(view, order="sequential"), batch_size, tail="keep", options=options)

    def probabilities(self, view: View, device: torch.device, batch_size: int = 64) -> NDArray[np.float32]:
        """[M, C] of a view's M rows, in file order."""
        model = self.model.to(device)
        with torch.inference_mode(), evaluating(model), self.loader(view, batch_size, device).epoch(0) as batches:
            return np.concatenate([model(batch.image).float().softmax(1).cpu().numpy() for batch in batches])


def load_trained(path: Path) -> Trained:
    """The classifier in a run folder, in a checkpoint of one, or in an exported folder.

    DataError where the file holds no classifier, or was written before checkpoints named their inputs.
    """
    if path.is_dir() and (path / CARD).is_file():
        return _exported(path)
    if path.is_dir():
        path = path / BEST_CHECKPOINT
    content = load_network(path)
    inputs = content.get("inputs")
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"{path} does not name its classes and the size of its images, as checkpoints of older versions do not; "
            "train it again with this one"
        )
    return _rebuilt(path, content["model"], inputs, content["state_dict"])


def _exported(folder: Path) -> Trained:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        return _rebuilt(folder, card["model"], card["inputs"], load_file(folder / WEIGHTS))
    except (ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{folder} is no exported model, or is damaged ({type(error).__name__}: {error}); export it again"
        ) from None


def _rebuilt(
    path: Path, network: Mapping[str, Any], inputs: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> Trained:
    arch, num_classes = network["arch"], network["num_classes"]
    try:
        architecture(arch)
    except UsageError:
        if path.is_file():
            require_plugins_of(path.resolve().parents[1])
        raise DataError(
            f"{path} holds a '{arch}', which is no classifier of images that is known here; a network of your own is "
            "loaded with --plugins FILE"
        ) from None
    model = make_model(arch, num_classes, blurpool=network.get("blurpool", False))
    if "normalise_features" in network:
        install_head(model, num_classes, normalise=network["normalise_features"])
    load_weights(model, weights, path, arch)
    return Trained(MirrorAveraged(model).eval() if inputs["tta"] else model.eval(), dict(network), dict(inputs))


def images_in(folder: Path) -> list[Path]:
    """Image files in a folder and those below it, in order of their names; UsageError where there is none."""
    if not folder.is_dir():
        raise UsageError(f"no folder of images at {folder}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise UsageError(
            f"{folder} holds no image; looked for {', '.join(sorted(IMAGE_SUFFIXES))}, in folders below it too"
        )
    return files


def predict(
    trained: Trained, files: Sequence[Path], device: torch.device, batch_size: int = 64
) -> Iterator[tuple[list[Path], NDArray[np.float32]]]:
    """(files, their probabilities [n, C]), a few hundred at a time, in order.

    Each file goes the way that it would go through a beton: decoded, cropped, resized and normalised as the run
    evaluated. DataError names the files that are no images.
    """
    for first in range(0, len(files), AT_ONCE):
        some = list(files[first : first + AT_ONCE])
        found = np.empty((len(some), len(trained.classes)), np.float32)
        for are_jpeg in (True, False):  # JPEG files go as they are, others as pixels: neither loses anything
            kind = np.array([k for k, file in enumerate(some) if (file.suffix.lower() in JPEGS) == are_jpeg], int)
            if len(kind):
                chosen = [some[k] for k in kind]
                found[kind] = _probabilities(trained, chosen, "jpg" if are_jpeg else "raw", device, batch_size)
        yield some, found


def _probabilities(
    trained: Trained, files: Sequence[Path], mode: str, device: torch.device, batch_size: int
) -> NDArray[np.float32]:
    zeros = np.zeros(len(files), np.int64)
    rows = Rows(zeros, zeros, lambda k: files[k], [str(file) for file in files])
    with tempfile.TemporaryDirectory(prefix="debeton_predict_") as folder:
        path = Path(folder, "images.beton")
        write_beton(path, rows, trained.spec, "test", WriteOptions(mode=mode, quality=100))
        return trained.probabilities(View.whole(open_beton(path)), device, batch_size)
