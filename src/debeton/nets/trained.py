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

from debeton.data.beton.image_decoding import MAX_PIXELS
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.image_names import IMAGE_SUFFIXES, is_image, listed
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.nets.checkpoint import BEST_CHECKPOINT, load_network, load_weights
from debeton.nets.heads import install_head
from debeton.nets.models import architecture, evaluating, make_model
from debeton.nets.networks import MirrorAveraged
from debeton.system.errors import DataError, UsageError
from debeton.system.plugins import require_plugins_of

WEIGHTS, CARD = "model.safetensors", "model.json"  # of an exported model
WITHOUT_LOSS = WriteOptions(raw_pixels=MAX_PIXELS)  # JPEG files as they are, others as pixels
FILES_AT_ONCE = 256  # files that `predict` writes into one temporary beton


@dataclass(frozen=True)
class Trained:
    """A classifier in evaluation mode, with the description of its network and its inputs.

    network: the values that rebuild the network, with its normalisation.
    inputs: 'dataset', 'classes', 'resolution' in pixels, 'decoder', 'tta' and 'images' (`describe_inputs`).
    """

    model: nn.Module
    network: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names by code."""
        return tuple(self.inputs["classes"])

    @property
    def bare(self) -> nn.Module:
        """Return the network itself, without the averaging over mirror images."""
        return self.model.model if isinstance(self.model, MirrorAveraged) else self.model

    @property
    def spec(self) -> DatasetSpec:
        """Return the data set as the classifier saw it: its classes and normalisation, and no attributes."""
        mean, std = tuple(self.network["mean"]), tuple(self.network["std"])
        return DatasetSpec(self.inputs["dataset"], self.classes, mean=mean, std=std)

    @property
    def image_options(self) -> WriteOptions:
        """Return the options that store a file as the run's beton did, or without loss if these are not known."""
        known = self.inputs.get("images")
        return WriteOptions(**known) if known and known["mode"] != "proportion" else WITHOUT_LOSS

    @property
    def note_on_images(self) -> str:
        """Return a sentence if files cannot be stored as the run's beton stored its images, else ''."""
        known = self.inputs.get("images")
        if known and known["mode"] != "proportion":
            return ""
        beton = "the beton of this classifier's run stored"
        why = (
            f"{beton} a random share of {known['compress_probability']:g} as JPEG"
            if known
            else (f"it is not recorded how {beton} images")
        )
        return f"{why}; files are read without loss here, so a prediction can differ from the run's"

    def loader(self, view: View, batch_size: int, device: torch.device) -> Loader:
        """Return a loader of every row of a view once, in file order, with images as the classifier takes them."""
        options = LoaderOptions(decoder=self.inputs["decoder"], resolution=self.inputs["resolution"], device=device)
        return make_loader(replace(view, order="sequential"), batch_size, tail="keep", options=options)

    def probabilities(self, view: View, device: torch.device, batch_size: int = 64) -> NDArray[np.float32]:
        """Compute class probabilities [M, C] of a view's M rows, in file order."""
        model = self.model.to(device)
        with torch.inference_mode(), evaluating(model), self.loader(view, batch_size, device).epoch(0) as batches:
            return np.concatenate([model(batch.image).float().softmax(1).cpu().numpy() for batch in batches])


def load_trained(path: Path) -> Trained:
    """Load the classifier of a run folder, of a run's checkpoint, or of an exported folder.

    DataError if the file holds no classifier, or was written before checkpoints described their inputs.
    """
    if path.is_dir() and (path / CARD).is_file():
        return _exported(path)
    if path.is_dir():
        path = path / BEST_CHECKPOINT
    content = load_network(path)
    inputs = content.get("inputs")
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"{path} does not describe its classes and the size of its images; a version wrote it that did not do so "
            "yet; train it again with this one"
        )
    return _rebuilt(path, content["model"], inputs, content["state_dict"])


def _exported(folder: Path) -> Trained:
    """Load the classifier of an exported folder."""
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
    """Build a classifier from its descriptions and give it its weights."""
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
    """Return the image files in a folder and below it, sorted by name. UsageError if there is none."""
    if not folder.is_dir():
        raise UsageError(f"no folder of images at {folder}")
    files = sorted(file for file in folder.rglob("*") if is_image(file) and file.is_file())
    if not files:
        raise UsageError(f"{folder} holds no image; looked for {listed(IMAGE_SUFFIXES)}, also in the folders below it")
    return files


def predict(
    trained: Trained, files: Sequence[Path], device: torch.device, batch_size: int = 64
) -> Iterator[tuple[list[Path], NDArray[np.float32]]]:
    """Yield (files, their class probabilities [n, C]), a few hundred files at a time, in the files' sequence.

    Each image is stored, decoded, cropped, resized and normalised as the run's beton and its evaluation did. DataError
    names the files that are no images.
    """
    for first in range(0, len(files), FILES_AT_ONCE):
        part = list(files[first : first + FILES_AT_ONCE])
        yield part, _probabilities(trained, part, device, batch_size)


def _probabilities(
    trained: Trained, files: Sequence[Path], device: torch.device, batch_size: int
) -> NDArray[np.float32]:
    """Compute the class probabilities of image files by way of a temporary beton."""
    zeros = np.zeros(len(files), np.int64)
    rows = Rows(zeros, zeros, lambda k: files[k], [str(file) for file in files])
    with tempfile.TemporaryDirectory(prefix="debeton_predict_") as folder:
        path = Path(folder, "images.beton")
        write_beton(path, rows, trained.spec, "test", trained.image_options)
        return trained.probabilities(View.whole(open_beton(path)), device, batch_size)
