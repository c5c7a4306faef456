"""Transfer: the body of a trained source network under a fresh head, frozen (FIXED) or not (FULL).

Salman et al. 2022 (arXiv 2207.02842). A source is a run's checkpoint, a checkpoint of the published code, or an
architecture's published weights. Two things differ from the published code. It trains batch norm in FIXED too; here a
frozen body is in evaluation mode unless model.bn_mode is 'train'. And here the head replaces only the last layer, so
that alexnet, vgg and densenet keep the layers before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from debeton.config import Config
from debeton.data.spec import IMAGENET_MEAN, IMAGENET_STD
from debeton.nets.checkpoint import load_checkpoint, load_weights
from debeton.nets.models import architecture, make_model, named_head, replace_head
from debeton.system.errors import DataError, UsageError


@dataclass(frozen=True)
class Source:
    """A trained network to start from.

    arch, num_classes, blurpool: the values that rebuild the network.
    mean, std: normalisation of its inputs.
    weights: its tensors by name.
    trained_on: `describe_training` of its run; empty if its checkpoint does not have it.
    """

    arch: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Mapping[str, Tensor]
    blurpool: bool = False
    trained_on: Mapping[str, Any] = field(default_factory=dict)


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
        return {"checkpoint": model.checkpoint, **read_source(Path(model.checkpoint)).trained_on}
    return {"published": model.arch} if model.pretrained else None


def check_transfer(config: Config) -> None:
    """Raise UsageError if model.transfer has no source, or one that is not the configured network.

    A checkpoint goes before published weights.
    """
    model = config.model
    if model.transfer != "NONE" and model.checkpoint is None and not model.pretrained:
        raise UsageError(
            f"model.transfer {model.transfer} needs a source: a run's checkpoint (--model.checkpoint FILE) or "
            "published weights (--model.pretrained true); to train from scratch, use --model.transfer NONE"
        )
    if model.transfer != "NONE" and model.checkpoint is not None:
        _fitting_source(config, Path(model.checkpoint))


def body_is_still(config: Config) -> bool:
    """Return whether everything but the head stays as it is, batch norm included."""
    return bool(config.model.transfer == "FIXED" and config.model.bn_mode != "train")


def transferred(config: Config, num_classes: int) -> nn.Module:
    """Build the source's body under a fresh head of `num_classes`; with FIXED only the head is trainable.

    torch's global generator draws the head.
    """
    name = config.model.arch
    if config.model.checkpoint is not None:
        checkpoint = Path(config.model.checkpoint)
        source = _fitting_source(config, checkpoint)
        model = make_model(name, source.num_classes, blurpool=source.blurpool)
        load_weights(model, source.weights, checkpoint, name)
    else:
        model = make_model(name, num_classes, pretrained=True, blurpool=config.model.blurpool)
    replace_head(model, num_classes, fresh=True)
    if config.model.transfer == "FIXED":
        model.requires_grad_(False)
        named_head(model)[1].requires_grad_(True)
    return model


def _fitting_source(config: Config, checkpoint: Path) -> Source:
    """Read the source in model.checkpoint. UsageError if it is not the configured network."""
    source = read_source(checkpoint)
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
    if config.model.transfer != "NONE" and config.model.checkpoint is not None:
        source = read_source(Path(config.model.checkpoint))
        return source.mean, source.std
    if config.model.pretrained:
        published = architecture(config.model.arch)
        return published.mean, published.std
    return None


def read_source(path: Path) -> Source:
    """Read the network in a checkpoint of a run or of the published bias-transfer code.

    DataError if the file is neither.
    """
    content = load_checkpoint(path)
    weights, network, metadata = (content.get(key) for key in ("state_dict", "model", "run_metadata"))
    if isinstance(weights, Mapping) and isinstance(network, Mapping):
        arch, num_classes, mean, std = (network[key] for key in ("arch", "num_classes", "mean", "std"))
        blurpool, trained_on = bool(network.get("blurpool", False)), content.get("trained_on") or {}
        return Source(arch, num_classes, tuple(mean), tuple(std), weights, blurpool, trained_on)
    if isinstance(weights, Mapping) and isinstance(metadata, Mapping) and "model_building_args" in metadata:
        return _published_source(path, weights, metadata["model_building_args"])
    raise DataError(
        f"{path} is no checkpoint of a run: it does not say which model it holds; expected checkpoint_latest.pt or "
        "checkpoint_best.pt of a run folder"
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
    return Source(arch, num_classes, IMAGENET_MEAN, IMAGENET_STD, weights)
