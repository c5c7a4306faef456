"""The sections of every run: training, model, resolution, loader, dist and logging; sections_data.py has those of data.

A method declares its own section beside its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from debeton.config.checkers import Bool, Float, FloatList, Int, IntList, OneOf, OrNull, TableName, Text, WordOr
from debeton.config.section import section, setting


@section("training", "the training loop: method, optimizer, epochs and evaluation")
@dataclass(frozen=True)
class Training:
    """The settings of section 'training'."""

    method: str = setting(Text(), "name of the method (--list methods)", default="erm")
    seed: int = setting(Int(0), "seed of weights, order and augmentation", default=0, identity="seed")
    order_seed: int | None = setting(
        OrNull(Int(0), -1), "seed of the order of the training rows; null: seed", default=None, identity="seed"
    )
    augment_seed: int | None = setting(
        OrNull(Int(0), -1), "seed of crops and augmentations; null: seed", default=None, identity="seed"
    )
    epochs: int = setting(Int(0), "number of passes over the training rows", default=60)
    batch_size: int = setting(Int(1), "rows of one step, over all processes", default=512)
    eval_batch_size: int | None = setting(
        OrNull(Int(1), 0),
        "rows of one batch of an evaluation; null: batch_size on a CPU, four times batch_size on a GPU",
        default=None,
        identity="none",
    )
    accumulate: int = setting(
        Int(1),
        "parts in which the network sees the rows of a step, so that a large batch fits into a small memory; the step "
        "is that of the whole batch, except that batch norm uses the rows of a part",
        default=1,
    )
    optimizer: str = setting(OneOf("sgd", "adam", "adamw"), "name of the optimizer", default="sgd")
    lr: float = setting(Float(0), "peak learning rate", default=0.1)
    head_lr_factor: float = setting(
        Float(0), "learning rate of the head (last layer) divided by that of the body", default=1.0
    )
    layer_decay: float | None = setting(
        OrNull(Float(0, 1), 0),
        "factor of the learning rate from each block to the one before it, often 0.65 to 0.9; the head has factor 1; "
        "null: 1 for all",
        default=None,
    )
    weight_decay: float = setting(Float(0), "weight decay", default=1e-4)
    momentum: float = setting(Float(0, 1), "momentum of sgd", default=0.9)
    nesterov: bool = setting(Bool(), "Nesterov momentum in sgd", default=False)
    decay_norm: bool = setting(Bool(), "weight decay also on normalisation layers and biases", default=True)
    lr_scheduler: str = setting(
        OneOf("steplr", "multisteplr", "cyclic", "cosine", "constant", "plateau"),
        "schedule of the learning rate",
        default="steplr",
    )
    step_size: int = setting(Int(1), "epochs between two drops of steplr", default=30)
    lr_milestones: tuple[int, ...] = setting(IntList(), "epochs at which multisteplr drops", default=())
    lr_peak_epoch: float = setting(Float(0), "epoch at which cyclic reaches its peak", default=5.0)
    lr_patience: int = setting(
        Int(1), "evaluations without a better epoch after which plateau drops; then the count starts anew", default=5
    )
    warmup_epochs: float = setting(
        Float(0), "epochs of linear warm-up, of every schedule but cyclic, which has lr_peak_epoch", default=0.0
    )
    gamma: float = setting(Float(0), "factor of the learning rate at each drop", default=0.1)
    patience: int | None = setting(
        OrNull(Int(1), 0),
        "evaluations without a better epoch, by training.selection, after which training ends; null: all epochs",
        default=None,
    )
    label_smoothing: float = setting(Float(0, 1), "share of label smoothing in the loss", default=0.0)
    class_weights: str | tuple[float, ...] | None = setting(
        OrNull(WordOr("balanced", FloatList(above=0, at_least=1))),
        "weights of the classes in the cross-entropy, in the order of the classes; balanced: inverse to the rows of a "
        "class; null: all weigh 1",
        default=None,
    )
    clip_grad: float | None = setting(
        OrNull(Float(0), 0), "largest norm of the gradient; longer ones are cut; null: no limit", default=None
    )
    ema: float | None = setting(
        OrNull(Float(0, 1), 0),
        "decay of the moving average of the weights, which is evaluated; null: no average",
        default=None,
    )
    tta: bool = setting(Bool(), "evaluation on the mean logits of an image and its mirror image", default=False)
    precision: str = setting(OneOf("fp32", "bf16", "fp16"), "number format of the forward pass", default="fp32")
    channels_last: bool = setting(Bool(), "memory layout channels_last for images and weights", default=True)
    compile: bool = setting(Bool(), "torch.compile for the model", default=False)
    cuda_graphs: bool = setting(
        Bool(),
        "one CUDA graph for all training kernels; helps networks that are too small to keep a GPU busy",
        default=False,
    )
    deterministic: bool = setting(
        Bool(), "deterministic GPU kernels where torch has them; a warning names the others", default=False
    )
    device: str = setting(
        Text(), "auto, cpu, cuda or cuda:K; auto: a GPU where there is one", default="auto", identity="none"
    )
    selection: str = setting(
        OneOf("worst_group", "mean_group", "minority", "worst_class", "mean_class", "average", "loss", "last"),
        "metric of the validation split that selects the epoch; ties go by mean_group",
        default="worst_group",
    )
    oracle: bool = setting(
        Bool(),
        "measure the test split after every epoch and report its best epoch; selection does not use it",
        default=False,
    )
    empty_groups: str = setting(
        OneOf("error", "ignore"),
        "answer of a balancing method to a group without training rows, and of the selection rule to one without "
        "validation rows; ignore: the other groups serve, and tables say so",
        default="error",
    )
    granularity: str = setting(
        OneOf("auto", "global", "per_class"),
        "accuracy that starts each log line; auto: the metric of the data set",
        default="auto",
    )
    eval_epochs: int = setting(Int(1), "epochs between two evaluations; the last one is always evaluated", default=1)
    drop_last: bool = setting(Bool(), "leave out the last batch of an epoch where it is not full", default=False)
    order: str = setting(
        OneOf("random", "quasi_random"),
        "order of the training rows; quasi_random reads neighbouring rows together, for slow shared disks; a beton "
        "sorted by class then needs write_betons --shuffle-seed",
        default="random",
    )
    decoder_train: str = setting(
        Text(),
        "crop of training images: random_resized_crop, center_crop_R, resized or simple",
        default="random_resized_crop",
    )
    decoder_val: str = setting(
        Text(), "crop of images in evaluation, named as for decoder_train", default="center_crop_224_256"
    )
    augment: str = setting(
        Text(),
        "augmentations in order, such as 'flip,pad_crop:4,cutout:8' (debeton list augmentations); none: none of them",
        default="flip",
    )
    num_workers: int | None = setting(
        OrNull(Int(1), 0),
        "decoding threads of a process; null: one for every core that the process may use",
        default=None,
        identity="none",
    )
    data_root: str = setting(Text(), "folder of the betons", default="data", identity="place")
    outdir: str = setting(Text(), "folder of the runs", default="runs", identity="none")
    exp_name: str | None = setting(
        OrNull(Text()),
        "name of the run; null: made of data set, method, seed and a hash",
        default=None,
        identity="none",
    )
    log_every: int = setting(Int(1), "steps between two checks of the loss", default=50, identity="none")


@section("model", "the network and the weights that it starts from")
@dataclass(frozen=True)
class Model:
    """The settings of section 'model'."""

    arch: str = setting(
        Text(),
        "name of the architecture (--list models), or timm:NAME, open_clip:NAME@WEIGHTS or hf:FOLDER",
        default="resnet18",
    )
    pretrained: bool = setting(Bool(), "start from the published weights of the architecture", default=False)
    blurpool: bool = setting(Bool(), "blur before strided convolutions (ffcv-imagenet)", default=False)
    checkpoint: str | None = setting(
        OrNull(Text()),
        "weights to start from: a run folder, a checkpoint, or a weight file of another program (.pt, .safetensors); "
        "with the head where transfer is NONE, else the body; null: none",
        default=None,
    )
    weights: str | None = setting(
        OrNull(Text()),
        "file of the architecture's published weights (.safetensors, .pt, .pth, .bin), in place of a download; null: "
        "none",
        default=None,
    )
    transfer: str = setting(
        OneOf("NONE", "FIXED", "FULL"),
        "train a fresh head on the source's body, which is frozen (FIXED) or trained (FULL); NONE: no transfer",
        default="NONE",
    )
    cache: str = setting(
        OneOf("auto", "on", "off"),
        "with FIXED, compute the features once and train on them; auto: where the result is the same",
        default="auto",
    )
    bn_mode: str = setting(
        OneOf("auto", "train", "eval"),
        "batch-norm statistics in training; eval: frozen; auto: frozen with FIXED",
        default="auto",
    )
    normalisation: str = setting(
        OneOf("auto", "source", "dataset", "none"),
        "mean and std of the images: of the source, of the data set, or none; auto: of the source if there is one",
        default="auto",
    )


@section("resolution", "image sizes in pixels")
@dataclass(frozen=True)
class Resolution:
    """The settings of section 'resolution'."""

    min_res: int = setting(Int(1), "training resolution before the ramp, pixels", default=160)
    max_res: int = setting(Int(1), "training resolution after the ramp, pixels", default=160)
    start_ramp: int = setting(Int(0), "epoch at which the ramp starts", default=0)
    end_ramp: int = setting(Int(0), "epoch at which the ramp ends", default=0)
    val_res: int = setting(
        Int(1), "resolution of evaluation, pixels; without prog_resizing of training also", default=224
    )
    prog_resizing: bool = setting(Bool(), "raise the training resolution from min_res to max_res", default=False)


@section("loader", "the reading of betons; no setting here changes a pixel", identity="none")
@dataclass(frozen=True)
class Loader:
    """The settings of section 'loader'."""

    residency: Literal["auto", "disk", "ram", "device"] = setting(
        OneOf("auto", "disk", "ram", "device"),
        "memory that keeps decoded images, if every epoch shows the same part of them; disk: decode every time; "
        "auto: the GPU or main memory, at most a quarter of the free part",
        default="auto",
    )
    os_cache: bool = setting(
        Bool(), "map the beton into memory and let the system cache it; false: read batch by batch", default=True
    )
    verify: bool = setting(
        Bool(), "compare each image with its checksum in the beton when a process first reads it", default=True
    )
    batches_ahead: int = setting(Int(1), "largest number of finished batches that wait for the model", default=3)


@section("dist", "several processes, started by torchrun")
@dataclass(frozen=True)
class Dist:
    """The settings of section 'dist'."""

    backend: str = setting(
        OneOf("auto", "nccl", "gloo"),
        "backend of torch.distributed; auto: nccl on GPUs, gloo on CPUs",
        default="auto",
        identity="none",
    )
    sync_bn: bool = setting(
        Bool(),
        "batch-norm statistics over the rows of all processes, so that their number changes no result; false: each "
        "process uses those of its own rows, and a run must keep its number of processes",
        default=True,
    )


@section("logging", "predictions, copies of the results for other programs, and progress bars", identity="none")
@dataclass(frozen=True)
class Logging:
    """The settings of section 'logging'."""

    predictions: str | None = setting(
        OrNull(TableName()),
        "file of the run folder for the predictions of every measured row, NAME.parquet or NAME.csv; null: none",
        default="predictions.parquet",
    )
    tensorboard: bool = setting(Bool(), "write TensorBoard events where TensorBoard is installed", default=True)
    wandb: str | None = setting(
        OrNull(Text()),
        "Weights & Biases project, offline unless WANDB_MODE says otherwise; null: none",
        default=None,
    )
    progress: str = setting(OneOf("auto", "on", "off"), "progress bars; auto: on a terminal", default="auto")
