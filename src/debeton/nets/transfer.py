"""Transfer: the body of a trained source network under a fresh head, frozen (FIXED) or not (FULL).

Salman et al. 2022 (arXiv 2207.02842). A source is a run's checkpoint, a checkpoint of the published code, a weight file
of another program, or an architecture's published weights. Two things differ from the published code. It trains batch
norm in FIXED too; here a frozen body is in evaluation mode unless model.bn_mode is 'train'. And here the head replaces
only the last layer, so that alexnet, vgg and densenet keep the layers before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from debeton.config import Config
from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD
from debeton.nets.models import architecture, make_model, named_head, rebuild, replace_head
from debeton.nets.weight_files import WeightFile, read_weight_file
from debeton.nets.weight_fitting import fit_weights, load_weights
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger


@dataclass(frozen=True)
class Source:
    """A trained network to start from.

    arch, num_classes, blurpool: the values that rebuild the network.
    mean, std: normalisation of its inputs.
    weights: its tensors by name.
    path: its file.
    config: plain values that rebuild the network of another library (`Architecture.config`).
    trained_on: `describe_training` of its run; empty if its checkpoint does not have it.
    """

    arch: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Mapping[str, Tensor]
    path: Path
    blurpool: bool = False
    config: Mapping[str, Any] | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> dict[str, Any]:
        """Return the values that rebuild the network."""
        return {key: getattr(self, key) for key in ("arch", "num_classes", "blurpool", "config")}


def describe_training(config: Config) -> dict[str, Any]:
    """Describe the data that a network was trained on; checkpoints carry this for networks that start from them."""
    spurious = config.spurious
    planted = spurious.spurious_perc > 0 and spurious.splits != "test"
    return {
        "dataset": config.data.dataset,
        "seed": config.training.seed,
        "trigger": spurious.spurious_type if planted else "none",
        "trigger_classes": spurious.spurious_file if planted else "",
        "trigger_rate": spurious.spurious_perc if planted else 0.0,
    }


def describe_source(config: Config) -> dict[str, Any] | None:
    """Describe the source of a run's network: its checkpoint and training, or published weights.

    None for fresh weights.
    """
    model = config.model
    if model.checkpoint is not None and model.transfer != "NONE":
        source = read_source(Path(model.checkpoint), model.arch)
        return {"checkpoint": model.checkpoint, **(source.trained_on if isinstance(source, Source) else {})}
    if model.weights is not None:
        return {"published": model.arch, "weights": model.weights}
    return {"published": model.arch} if model.pretrained else None


def check_transfer(config: Config) -> None:
    """Raise UsageError if model.transfer has no source, or one that is not the configured network.

    A checkpoint goes before published weights.
    """
    model = config.model
    if model.weights is not None and model.checkpoint is not None:
        raise UsageError(
            f"model.weights {model.weights} and model.checkpoint {model.checkpoint} both give the weights to start "
            "from; leave one out"
        )
    if model.transfer != "NONE" and model.checkpoint is None and not starts_published(config):
        raise UsageError(
            f"model.transfer {model.transfer} needs a source: a run's checkpoint (--model.checkpoint FILE) or "
            "published weights (--model.pretrained true); to train from scratch, use --model.transfer NONE"
        )
    if architecture(model.arch).names_weights and model.checkpoint is None and not starts_published(config):
        logger.warning(
            "warning: model.arch %s names weights, but model.pretrained is false, so that the network starts from "
            "random weights; to start from those, add --model.pretrained true",
            model.arch,
        )
    if model.transfer != "NONE" and model.checkpoint is not None:
        _fitting_source(config, Path(model.checkpoint))


def starts_published(config: Config) -> bool:
    """Return whether the network starts from published weights: downloaded, packaged, or in model.weights."""
    return bool(config.model.pretrained or config.model.weights is not None)


def body_is_still(config: Config) -> bool:
    """Return whether everything but the head stays as it is, batch norm included."""
    return bool(config.model.transfer == "FIXED" and config.model.bn_mode != "train")


def configured_network(config: Config, num_classes: int, *, blurpool: bool | None = None) -> nn.Module:
    """Build the network of section 'model' where nothing is transferred. model.checkpoint is not read.

    blurpool: None takes the setting.
    """
    model = config.model
    return make_model(
        model.arch,
        num_classes,
        pretrained=model.pretrained,
        blurpool=model.blurpool if blurpool is None else blurpool,
        weights=None if model.weights is None else Path(model.weights),
    )


def transferred(config: Config, num_classes: int) -> nn.Module:
    """Build the source's body under a fresh head of `num_classes`; with FIXED only the head is trainable.

    torch's global generator draws the head.
    """
    name = config.model.arch
    if config.model.checkpoint is not None:
        checkpoint = Path(config.model.checkpoint)
        source = _fitting_source(config, checkpoint)
        if isinstance(source, Source):
            model = rebuild(source.network)
            load_weights(model, source.weights, source.path, name)
        else:
            model = make_model(name, num_classes, blurpool=config.model.blurpool)
            fit_weights(model, source, name, head=named_head(model)[0])
    else:
        weights = None if config.model.weights is None else Path(config.model.weights)
        model = make_model(name, num_classes, pretrained=True, blurpool=config.model.blurpool, weights=weights)
    replace_head(model, num_classes, fresh=True)
    if config.model.transfer == "FIXED":
        model.requires_grad_(False)
        named_head(model)[1].requires_grad_(True)
    return model


def _fitting_source(config: Config, checkpoint: Path) -> Source | WeightFile:
    """Read the source in model.checkpoint, or the file of another program. UsageError if the network is another."""
    source = read_source(checkpoint, config.model.arch)
    if isinstance(source, WeightFile):
        return source
    if source.arch != config.model.arch:
        raise UsageError(
            f"model.checkpoint {checkpoint} holds a {source.arch}, and model.arch is {config.model.arch}; "
            f"set --model.arch {source.arch}"
        )
    if source.blurpool != config.model.blurpool:
        raise UsageError(
            f"model.checkpoint {checkpoint} was trained with model.blurpool {source.blurpool}, and it is "
            f"{config.model.blurpool} here; set --model.blurpool {source.blurpool}"
        )
    return source


def hold_body(model: nn.Module) -> None:
    """Put everything but the head in evaluation mode: its statistics stay as they are, and nothing is dropped out."""
    model.eval()
    named_head(model)[1].train()


def source_normalisation(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and std that the source was trained with; None if nothing is transferred or pretrained."""
    published = architecture(config.model.arch)
    if config.model.checkpoint is not None:
        source = read_source(Path(config.model.checkpoint), config.model.arch)
        if isinstance(source, WeightFile):
            return published.mean, published.std
        if config.model.transfer != "NONE":
            return source.mean, source.std
    return (published.mean, published.std) if starts_published(config) else None


@overload
def read_source(path: Path, arch: None = None) -> Source: ...
@overload
def read_source(path: Path, arch: str) -> Source | WeightFile: ...
def read_source(path: Path, arch: str | None = None) -> Source | WeightFile:
    """Read the network in a checkpoint of a run or of the published bias-transfer code.

    path: a file or folder, as `read_weight_file` takes it.
    arch: the architecture that a file of another program holds, which is then returned as it is. None: such a file is
        an error.

    DataError if the file is neither.
    """
    file = read_weight_file(path)
    if file.network is not None:
        if absent := [key for key in ("arch", "num_classes", "mean", "std") if key not in file.network]:
            raise DataError(f"{file.path} is no checkpoint of a run: it does not say {absent[0]} of its network")
        arch, num_classes, mean, std = (file.network[key] for key in ("arch", "num_classes", "mean", "std"))
        blurpool, trained_on = bool(file.network.get("blurpool", False)), file.content.get("trained_on") or {}
        return Source(
            arch,
            num_classes,
            tuple(mean),
            tuple(std),
            file.weights,
            file.path,
            blurpool=blurpool,
            config=file.network.get("config"),
            trained_on=trained_on,
        )
    metadata = file.content.get("run_metadata")
    if isinstance(metadata, Mapping) and "model_building_args" in metadata:
        return _published_source(file.path, file.weights, metadata["model_building_args"])
    if arch is not None:
        return file
    raise DataError(
        f"{file.path} is no checkpoint of a run: it does not say which model it holds; expected checkpoint_latest.pt "
        "or checkpoint_best.pt of a run folder"
    )


# The networks that MadryLab/bias-transfer transfers without a change: its body is the sequence of the children but the
# last, so steps between children that are functions, not modules, are lost.
PUBLISHED_TRANSFERRED = (
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "mobilenet_v2",
    "mnasnet1_0",
)


def _published_source(path: Path, weights: Mapping[str, Tensor], building_args: Mapping[str, Any]) -> Source:
    """Return the source in a checkpoint of MadryLab/bias-transfer, whose images have ImageNet's normalisation.

    Its transferred networks number the layers of the body (backbone.0, ...) and call the head fc. DataError for a
    transferred network whose body is another one than torchvision's.
    """
    params = building_args["params"]
    arch, num_classes = str(params["arch"]), int(params["num_classes"])
    if building_args["model_stage"] == "transfer":
        if arch not in PUBLISHED_TRANSFERRED:
            lost = "its network has no ReLU before the pooling" if arch.startswith("densenet") else "its body is cut"
            raise DataError(
                f"{path} holds a {arch} that the bias-transfer code has transferred, and {lost}, so it is not "
                f"torchvision's {arch} and would predict something else here; use the checkpoint of its source "
                f"network, or a transferred {', '.join(PUBLISHED_TRANSFERRED[:-1])} or {PUBLISHED_TRANSFERRED[-1]}"
            )
        model = make_model(arch, num_classes)
        names = [name for name, _ in model.named_children()]
        head = named_head(model)[0]
        renamed = {}
        for key, value in weights.items():
            part, _, rest = key.partition(".")
            number, _, inner = rest.partition(".")
            renamed[f"{names[int(number)]}.{inner}" if part == "backbone" else f"{head}.{rest}"] = value
        weights = renamed
    return Source(arch, num_classes, IMAGENET_MEAN, IMAGENET_STD, weights, path)
