"""Configuration: fastargs declares the keys, this module loads them strictly.

fastargs on its own ignores unknown keys, reads "False" as true, lets environment variables override the
command line, accepts abbreviated flags and ends an invalid run with status 0. `load` closes these traps:
whatever is wrong is a UsageError that names the key, where it was given and the nearest known key.

Order: command line > later --config-file > earlier > default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from fastargs import Param, Section
from fastargs.config import Config as FastargsConfig
from fastargs.state import get_current_config

from debeton.config.checkers import Bool, Float, Int, IntList, OneOf, Text
from debeton.config.yaml_files import read_mapping
from debeton.system.errors import UsageError, nearest

# --- the sections every run has (a method declares its own beside its code) --------------------

Section("training", "how to train").params(
    method=Param(Text(), "the method, see --list methods", default="erm"),
    seed=Param(Int(0), "drives weights, order and augmentation", default=0),
    epochs=Param(Int(0), "passes over the training view", default=60),
    batch_size=Param(Int(1), "rows of a step over all processes", default=512),
    eval_batch_size=Param(
        Int(0),
        "rows of a batch of an evaluation; 0: four times as many as of a step on a GPU, as many on a CPU",
        default=0,
    ),
    optimizer=Param(OneOf("sgd", "adam", "adamw"), "the optimizer", default="sgd"),
    lr=Param(Float(0), "peak learning rate", default=0.1),
    weight_decay=Param(Float(0), "weight decay", default=1e-4),
    momentum=Param(Float(0, 1), "SGD's momentum", default=0.9),
    nesterov=Param(Bool(), "Nesterov momentum", default=False),
    decay_norm=Param(Bool(), "weight decay on normalisation layers and biases too", default=True),
    lr_scheduler=Param(
        OneOf("steplr", "multisteplr", "cyclic", "cosine", "constant"), "how the learning rate moves", default="steplr"
    ),
    step_size=Param(Int(1), "epochs between drops of steplr", default=30),
    lr_milestones=Param(IntList(), "epochs of multisteplr's drops", default=()),
    lr_peak_epoch=Param(Float(0), "epoch at which cyclic peaks", default=5),
    warmup_epochs=Param(Float(0), "linear warm-up of cosine and constant", default=0),
    gamma=Param(Float(0), "factor of each drop", default=0.1),
    label_smoothing=Param(Float(0, 1), "label smoothing", default=0.0),
    clip_grad=Param(Float(0), "largest gradient norm, 0 for none", default=0.0),
    ema=Param(Float(0, 1), "decay of the weights' moving average that is evaluated, 0 for none", default=0.0),
    tta=Param(Bool(), "evaluate on the mean logits of an image and its mirror image", default=False),
    precision=Param(OneOf("fp32", "bf16", "fp16"), "of the forward pass", default="fp32"),
    channels_last=Param(Bool(), "memory layout of images and weights", default=True),
    compile=Param(Bool(), "torch.compile the model", default=False),
    cuda_graphs=Param(
        Bool(),
        "replay the network's training kernels as one CUDA graph; for networks too small to keep a GPU busy",
        default=False,
    ),
    deterministic=Param(Bool(), "deterministic GPU kernels, where torch has them", default=False),
    device=Param(Text(), "auto, cpu, cuda or cuda:K", default="auto"),
    selection=Param(
        OneOf("worst_group", "mean_group", "minority", "worst_class", "mean_class", "average", "loss", "last"),
        "which epoch is kept, by the validation split; ties by mean_group",
        default="worst_group",
    ),
    oracle=Param(
        Bool(),
        "measure the test split after every epoch too, and report the epoch that it would keep; it keeps none",
        default=False,
    ),
    empty_groups=Param(
        OneOf("error", "ignore"), "what a balancing method does when a group has no training row", default="error"
    ),
    granularity=Param(OneOf("auto", "global", "per_class"), "the accuracy that the log leads with", default="auto"),
    eval_epochs=Param(Int(1), "epochs between evaluations; the last is always evaluated", default=1),
    drop_last=Param(Bool(), "leave out the last partial batch of an epoch", default=False),
    decoder_train=Param(Text(), "random_resized_crop, center_crop_R, resized or simple", default="random_resized_crop"),
    decoder_val=Param(Text(), "as decoder_train, for evaluation", default="center_crop_224_256"),
    augment=Param(Text(), "operations such as 'flip,pad_crop:4,cutout:8', or none", default="flip"),
    num_workers=Param(Int(0), "decoding threads of a process, 0 for all cores", default=0),
    supercloud=Param(Bool(), "slow shared disk: quasi-random order, no memory map", default=False),
    data_root=Param(Text(), "folder of the betons", default="data"),
    outdir=Param(Text(), "folder of the runs", default="runs"),
    exp_name=Param(Text(), "name of the run; empty: made of dataset, method, seed and a hash", default=""),
    log_every=Param(Int(1), "steps between looks at the loss", default=50),
    disable_logging=Param(Bool(), "write no TensorBoard events", default=False),
)
Section("model", "the network").params(
    arch=Param(Text(), "see --list models", default="resnet18"),
    pretrained=Param(Bool(), "start from the architecture's published weights", default=False),
    blurpool=Param(Bool(), "blur before strided convolutions (ffcv-imagenet)", default=False),
    checkpoint=Param(
        Text(),
        "start from this checkpoint of a run: on the same classes, head included, or as transfer says",
        default="",
    ),
    transfer=Param(
        OneOf("NONE", "FIXED", "FULL"),
        "the checkpoint's body under a fresh head, frozen (FIXED) or not (FULL)",
        default="NONE",
    ),
    cache=Param(
        OneOf("auto", "on", "off"),
        "FIXED: take the body's features once and train on them; auto: where that is exact",
        default="auto",
    ),
    bn_mode=Param(
        OneOf("auto", "train", "eval"),
        "eval keeps batch-norm statistics frozen in training; auto: with FIXED",
        default="auto",
    ),
    normalisation=Param(
        OneOf("auto", "source", "dataset", "none"),
        "mean and std of the source, of the data set, or none; auto: of the source where there is one",
        default="auto",
    ),
)
Section("resolution", "image sizes in pixels").params(
    min_res=Param(Int(1), "training resolution before the ramp", default=160),
    max_res=Param(Int(1), "training resolution after the ramp", default=160),
    start_ramp=Param(Int(0), "epoch at which the ramp starts", default=0),
    end_ramp=Param(Int(0), "epoch at which the ramp ends", default=0),
    val_res=Param(Int(1), "evaluation resolution; of training too without prog_resizing", default=224),
    prog_resizing=Param(Bool(), "ramp the training resolution", default=False),
)
Section("data", "the data set").params(
    dataset=Param(Text(), "names the betons {data_root}/{dataset}_{split}.beton", default="dominoes"),
    train_path=Param(Text(), "training beton; relative paths count from data_root", default=""),
    val_path=Param(Text(), "validation beton", default=""),
    test_path=Param(Text(), "test beton", default=""),
    target_path=Param(Text(), "beton of the target set, where a method uses one", default=""),
    synthetic_path=Param(Text(), "beton of synthetic images, where they are not in the training beton", default=""),
    label=Param(Text(), "column that is the label; empty: the beton's own", default=""),
    attribute=Param(Text(), "column that is the spurious attribute; 'a,b' for a product; empty: its own", default=""),
    aligned=Param(
        Text(), "the attribute that goes with each class, 'class:attribute,...'; empty: as known", default=""
    ),
    custom_indices_path=Param(Text(), "file of train_indices, test_indices, ... (.pt, .npz, .json)", default=""),
    val_fraction=Param(
        Float(0, 0.9), "share of each training group held out where there is no validation beton", default=0.0
    ),
    mini_dataset=Param(Float(), "share of the training rows, evenly spaced; -1 or 1 for all", default=-1.0),
    folds=Param(Int(0), "cross-validation: number of folds of the training rows; 0 for none", default=0),
    fold=Param(Int(0), "the fold that is the validation set, from 0", default=0),
    bias_rate=Param(Float(0, 1), "bias-aligned share of each class in train and val; 0 leaves them", default=0.0),
    bias_rule=Param(OneOf("ffr", "scale"), "how bias_rate is made: leave rows out, or SCALE's split", default="ffr"),
    min_conflicting=Param(Int(0), "validation rows that each conflicting group keeps (ffr)", default=10),
    majority_size=Param(Int(1), "training rows of each bias-aligned group (scale)", default=10000),
    target_size=Param(Int(1), "rows of the target set, in equal groups (scale)", default=1000),
    balance=Param(OneOf("none", "class", "group"), "cut the training rows to equal classes or groups", default="none"),
    pseudo_groups=Param(Text(), "CSV of path and a column of 0 (aligned) and 1 (conflicting)", default=""),
    pseudo_column=Param(Text(), "that column", default="ddb"),
    seed=Param(Int(0), "drives splits and subsets, and nothing else", default=0),
)
Section("synthetic", "generated images beside real ones").params(
    mode=Param(
        OneOf("none", "usb", "asb", "only", "biased", "blind", "ffr", "ffr_biased", "ffr_blind", "ffr_reversed"),
        "real rows only, balanced with synthetic ones (usb, asb), synthetic ones alone (only), or first these and then "
        "the real ones (ffr)",
        default="none",
    ),
    share=Param(Float(0, 1), "of the synthetic images that a mode would take", default=1.0),
    per_cell=Param(Int(0), "synthetic images per (class, attribute); 0: as many as usb needs, evenly", default=0),
)
Section("loader", "how the betons are read; no setting here changes a pixel").params(
    residency=Param(
        OneOf("auto", "disk", "ram", "device"),
        "where images stay decoded, if every epoch shows the same part of them; "
        "auto: on the GPU or in memory, up to a quarter of what is left; disk: decoded every time",
        default="auto",
    ),
    os_cache=Param(Bool(), "map the beton and let the system cache it; off: read batch by batch", default=True),
    batches_ahead=Param(Int(1), "finished batches that may wait", default=3),
)
Section("dist", "several processes, started by torchrun").params(
    backend=Param(OneOf("auto", "nccl", "gloo"), "auto: nccl on GPUs", default="auto"),
    sync_bn=Param(Bool(), "batch-norm statistics over all processes (GPUs only)", default=False),
)
Section("logging", "mirrors of the results").params(
    tensorboard=Param(Bool(), "write TensorBoard events where it is installed", default=True),
    wandb=Param(
        Text(), "Weights & Biases project; empty for none (offline unless WANDB_MODE says otherwise)", default=""
    ),
    progress=Param(OneOf("auto", "on", "off"), "progress bars; auto: on a terminal", default="auto"),
)

# Where a run is stored and how it is watched do not change its results, so they do not change its identity.
NOT_IDENTITY = (
    "training.outdir",
    "training.exp_name",
    "training.num_workers",
    "training.eval_batch_size",
    "training.log_every",
    "training.disable_logging",
    "training.device",
    "loader.",
    "logging.",
    "dist.backend",
)


# --- loading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The resolved configuration: `config.training.lr`, or `config["training.lr"]`."""

    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __getattr__(self, section: str) -> Any:
        if section.startswith("_"):
            raise AttributeError(section)
        prefix = section + "."
        found = {key[len(prefix) :]: value for key, value in self.values.items() if key.startswith(prefix)}
        if not found:
            raise AttributeError(f"no configuration section '{section}'")
        return SimpleNamespace(**found)

    def nested(self) -> dict[str, dict[str, Any]]:
        """Sections of keys, plain values only, as config.yaml stores them."""
        result: dict[str, dict[str, Any]] = {}
        for key, value in sorted(self.values.items()):
            section, name = key.split(".", 1)
            result.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
        return result

    def identity_hash(self) -> str:
        """12 hex digits that change exactly when a setting that may change the results does."""
        identity = {key: value for key, value in self.values.items() if not key.startswith(NOT_IDENTITY)}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    def dump(self) -> str:
        """YAML that `--config-file` reads back to this configuration."""
        return yaml.safe_dump(self.nested(), sort_keys=False, allow_unicode=True)


def declared() -> dict[str, Param]:
    """Every declared key, dotted, with its fastargs Param."""
    config: FastargsConfig = get_current_config()
    return {".".join(path): param for path, param in config.entries.items()}


IMPLIED: dict[tuple[str, Any], Mapping[str, Any]] = {}


def imply(key: str, value: Any, implied: Mapping[str, Any]) -> None:
    """Where `key` is `value`, these settings have these values; giving them another one is an error."""
    IMPLIED[key, value] = implied


def load(files: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Resolve config files and command-line overrides (['--training.lr', '0.1', '--a.b=c']).

    Raises UsageError for a missing or malformed file, an unknown key, a wrong type or a bad value.
    """
    params = declared()
    # Defaults pass their checker too: 5 and 5.0 must not be two configurations.
    values: dict[str, Any] = {key: param.checker.check(param.default) for key, param in params.items()}
    given: list[tuple[str, str, Any]] = []
    for file in files:
        given += [(str(file), key, value) for key, value in _flatten(Path(file), params)]
    given += [("the command line", key, value) for key, value in _parse_overrides(overrides)]
    for where, key, value in given:
        if key not in params:
            raise UsageError(f"{where}: unknown key '{key}'{nearest_key(key, params)} see --help for all keys")
        values[key] = _checked(params[key], key, value, where)
    _add_implied(values, {key: where for where, key, _ in given})
    fastargs_config: FastargsConfig = get_current_config()
    fastargs_config.content = {tuple(key.split(".")): value for key, value in values.items()}
    return Config(values)


def _add_implied(values: dict[str, Any], given: Mapping[str, str]) -> None:
    for (key, value), implied in IMPLIED.items():
        for other, wanted in implied.items() if values.get(key) == value else ():
            if other in given and values[other] != wanted:
                raise UsageError(
                    f"{given[other]}: {other} is {values[other]!r}, but {key} '{value}' makes it {wanted!r}; "
                    "leave one of them out"
                )
            values[other] = wanted


def nearest_key(key: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a dotted key: the same name in another section, or the closest spelling."""
    known = list(known)
    name = key.rsplit(".", 1)[-1]
    elsewhere = [k for k in known if k.rsplit(".", 1)[-1] == name]
    return f"; did you mean '{elsewhere[0]}'?" if elsewhere else nearest(key, known)


def _checked(param: Param, key: str, value: Any, where: str) -> Any:
    try:
        return param.checker.check(value)
    except UsageError as error:
        raise UsageError(f"{where}: {key}: {error}") from None
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{where}: {key} is {value!r}; expected {param.checker.help()}") from None


def _flatten(path: Path, params: Mapping[str, Param]) -> list[tuple[str, Any]]:
    """The dotted keys of one YAML or JSON file."""
    content = read_mapping(path, "config file", "sections such as 'training:'")
    found: list[tuple[str, Any]] = []
    sections = sorted({key.split(".")[0] for key in params})
    for section, entries in content.items():
        if section not in sections:
            raise UsageError(
                f"{path}: unknown section '{section}'{nearest(str(section), sections)} known: {', '.join(sections)}"
            )
        if entries is None:
            continue
        if not isinstance(entries, dict):
            raise UsageError(
                f"{path}: section '{section}' is {entries!r}; expected keys below it, such as 'key: value'"
            )
        for name, value in entries.items():
            if value is None:
                raise UsageError(f"{path}: {section}.{name} has no value; give one or remove the line")
            found.append((f"{section}.{name}", value))
    return found


def _parse_overrides(tokens: Sequence[str]) -> list[tuple[str, str]]:
    found, i = [], 0
    while i < len(tokens):
        token = tokens[i]
        if not token.startswith("--"):
            raise UsageError(f"unexpected argument '{token}'; settings are written --section.key VALUE")
        key, equals, value = token[2:].partition("=")
        if not equals:
            if i + 1 >= len(tokens):
                raise UsageError(f"--{key} has no value{'' if key in declared() else nearest_key(key, declared())}")
            i += 1
            value = tokens[i]
        found.append((key, value))
        i += 1
    return found


def help_text() -> str:
    """All keys by section with type, default and meaning, as plain text."""
    config: FastargsConfig = get_current_config()
    lines = []
    for namespace, paths in config.sections_to_entries.items():
        lines.append(f"\n{'.'.join(namespace)}: {config.sections[namespace].desc}")
        for path in paths:
            param = config.entries[path]
            default = param.default if param.default not in ("", ()) else "empty"
            lines.append(f"  --{'.'.join(path):<28} {param.desc} [{param.checker.help()}; default {default}]")
    return "\n".join(lines)
