"""A trained classifier apart from its run: read from a checkpoint, and used on any images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from debeton.data.beton.image_decoding import MAX_PIXELS
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.raw.imagenet_classes import NUM_CLASSES, imagenet_class_names
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.nets.architecture import Architecture
from debeton.nets.heads import install_head
from debeton.nets.models import architecture, evaluating, make_model, named_head, rebuild
from debeton.nets.networks import MirrorAveraged
from debeton.nets.weight_files import WeightFile, read_weight_file
from debeton.nets.weight_fitting import fit_weights, load_weights, outputs_in
from debeton.system.errors import DataError, UsageError
from debeton.system.files import temporary_folder
from debeton.system.plugins import require_plugins_of

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
        """Compute class probabilities [M, C] of a view's M rows, in file order. DataError where one is not finite."""
        model = self.model.to(device)
        with torch.inference_mode(), evaluating(model), self.loader(view, batch_size, device).epoch(0) as batches:
            values = np.concatenate([model(batch.image).float().softmax(1).cpu().numpy() for batch in batches])
        if wrong := int((~np.isfinite(values).all(1)).sum()):
            raise DataError(
                f"the probabilities of {wrong} of {len(values)} images are not finite: the values of the "
                f"{self.network['arch']} overflow, so its training diverged, or its file is damaged; take another model"
            )
        return values


def load_trained(
    path: Path | None,
    *,
    arch: str | None = None,
    classes: Sequence[str] | None = None,
    pretrained: bool = False,
    resolution: int | None = None,
    decoder: str | None = None,
    blurpool: bool = False,
) -> Trained:
    """Load a classifier: of a run, of an exported folder, of a weight file of another program, or published.

    path: a run folder, the folder of an experiment, a checkpoint, an exported folder, or a weight file of another
        program, which needs `arch`. None with `pretrained` takes the published weights of `arch`.
    arch: name of the architecture, as model.arch takes it. A checkpoint that says its own must say the same.
    classes: names of the classes by code, where the file does not say them. None: those of ImageNet for 1,000 outputs,
        and else their numbers.
    pretrained: take the published weights; `path`, if given, is their file.
    resolution, decoder: side of the images in pixels, and their crop. None: as the run did, or as the architecture's
        weights are made for.
    blurpool: whether a weight file of another program was trained with it.

    UsageError for wrong arguments. DataError if the file holds no classifier, holds weights that are not finite, or was
    written before checkpoints described their inputs.
    """
    if path is None or pretrained:
        if arch is None or not pretrained:
            raise UsageError(
                "nothing says which classifier is meant; give a checkpoint, or an architecture and pretrained"
            )
        return _published(arch, path, classes, resolution, decoder)
    file = read_weight_file(path)
    if file.network is None:
        return _foreign(file, arch, classes, resolution, decoder, blurpool=blurpool)
    if arch is not None and arch != file.network["arch"]:
        raise UsageError(f"{file.path} holds a {file.network['arch']}, not a {arch}; leave the architecture out")
    inputs = file.content.get("inputs")
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"{file.path} does not describe its classes and the size of its images; a version wrote it that did not do "
            "so yet; train it again with this one"
        )
    if classes is not None and len(classes) != file.network["num_classes"]:
        raise UsageError(f"{file.path} has {file.network['num_classes']} classes, and {len(classes)} names are given")
    given = {"classes": None if classes is None else list(classes), "resolution": resolution, "decoder": decoder}
    return _rebuilt(file, {**inputs, **{key: value for key, value in given.items() if value is not None}})


def _rebuilt(file: WeightFile, inputs: Mapping[str, Any]) -> Trained:
    """Build a classifier from its descriptions and give it its weights."""
    network = file.network
    assert network is not None
    try:
        arch, num_classes = network["arch"], network["num_classes"]
        architecture(arch, network.get("config"))
    except KeyError as error:
        raise DataError(f"{file.path} is damaged: its description of the network has no {error}") from None
    except UsageError:
        if file.path.suffix == ".pt":
            require_plugins_of(file.path.resolve().parents[1])
        raise DataError(
            f"{file.path} holds a '{arch}', which is no classifier of images that is known here; a network of your own "
            "is loaded with --plugins FILE"
        ) from None
    model = rebuild(network)
    if "normalise_features" in network:
        install_head(model, num_classes, normalise=network["normalise_features"])
    load_weights(model, file.weights, file.path, arch)
    return Trained(MirrorAveraged(model).eval() if inputs["tta"] else model.eval(), dict(network), dict(inputs))


def _published(
    arch: str, path: Path | None, classes: Sequence[str] | None, resolution: int | None, decoder: str | None
) -> Trained:
    """Load the published weights of an architecture, from their usual place or from the file `path`.

    UsageError where they have no head of their own, so that nothing can be predicted.
    """
    chosen = architecture(arch)
    if path is None:
        num_classes = chosen.outputs if classes is None else len(classes)
        if num_classes is None or (chosen.outputs is not None and num_classes != chosen.outputs):
            raise UsageError(
                f"the published weights of {arch} "
                + (
                    "hold no classifier, only features"
                    if chosen.outputs is None
                    else f"tell {chosen.outputs} classes apart"
                )
                + "; train a last layer first, with --model.pretrained true"
            )
        model = make_model(arch, num_classes, pretrained=True)
        return _described(model, arch, chosen, classes, resolution, decoder)
    file = read_weight_file(path)
    num_classes = _outputs(replace(file, weights=chosen.convert(_on_meta(arch), file.weights)), arch, path)
    model = make_model(arch, num_classes, weights=path)
    return _described(model, arch, chosen, classes, resolution, decoder)


def _foreign(
    file: WeightFile,
    arch: str | None,
    classes: Sequence[str] | None,
    resolution: int | None,
    decoder: str | None,
    *,
    blurpool: bool,
) -> Trained:
    """Load a weight file of another program as the architecture `arch`."""
    if arch is None:
        raise DataError(
            f"{file.path} does not say which model it holds; name the architecture, such as resnet50 or timm:resnet50"
        )
    model = make_model(arch, _outputs(file, arch, file.path), blurpool=blurpool)
    fit_weights(model, file, arch)
    return _described(model, arch, architecture(arch), classes, resolution, decoder, blurpool=blurpool)


def _outputs(file: WeightFile, arch: str, path: Path) -> int:
    """Return the number of outputs of the classifier in a file. DataError if it has no last layer."""
    model = _on_meta(arch)
    head = named_head(model)[0]
    outputs = outputs_in(file, model, head)
    if outputs is None:
        raise DataError(
            f"{path} has no weights '{head}', the last layer of {arch}; if it holds a body alone, train a last layer "
            "on it with --model.checkpoint FILE --model.transfer FIXED"
        )
    return outputs


def _on_meta(arch: str) -> nn.Module:
    """Return the network without memory, for its names and shapes; with memory if it cannot be built without."""
    try:
        with torch.device("meta"):
            return make_model(arch, 2)
    except (RuntimeError, NotImplementedError):
        return make_model(arch, 2)


def _described(
    model: nn.Module,
    arch: str,
    chosen: Architecture,
    classes: Sequence[str] | None,
    resolution: int | None,
    decoder: str | None,
    *,
    blurpool: bool = False,
) -> Trained:
    """Return a classifier whose inputs are those of its architecture. UsageError for a wrong number of classes."""
    head = named_head(model)[1]
    outputs = head.out_features if isinstance(head, nn.Linear) else head.out_channels
    if classes is None:
        classes = imagenet_class_names() if outputs == NUM_CLASSES else [str(code) for code in range(outputs)]
    if len(classes) != outputs:
        raise UsageError(f"the classifier tells {outputs} classes apart, and {len(classes)} names are given")
    network = {
        "arch": arch,
        "num_classes": outputs,
        "mean": list(chosen.mean),
        "std": list(chosen.std),
        "blurpool": blurpool,
        **({} if chosen.config is None else {"config": dict(chosen.config)}),
    }
    inputs = {
        "dataset": "images",
        "classes": list(classes),
        "resolution": resolution or chosen.size or 224,
        "decoder": decoder or f"center_crop_{chosen.crop:g}",
        "tta": False,
        "images": asdict(WITHOUT_LOSS),
    }
    return Trained(model.eval(), network, inputs)


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
    with temporary_folder("predict") as folder:
        path = Path(folder, "images.beton")
        write_beton(path, rows, trained.spec, "test", trained.image_options)
        return trained.probabilities(View.whole(open_beton(path)), device, batch_size)
