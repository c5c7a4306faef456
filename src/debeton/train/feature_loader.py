"""Training of a head on cached features. The frozen body sees each image once; every epoch reuses its output.

With batch norm frozen and a fixed crop, the body's output for an image is always the same. Only the augmentation 'flip'
may show the mirror image instead. The features of both are computed once, and then an epoch takes the time of a linear
layer. Order, flips and steps are those of training on the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from debeton.data.draws import sample_keys
from debeton.data.loader.augment import is_mirrored
from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.loader.producer import PlannedBatch
from debeton.data.spec import Ints
from debeton.nets.models import named_head
from debeton.system.errors import UsageError
from debeton.train.features import cached_features
from debeton.train.objective import Precision


class HeadOnly(nn.Module):
    """The head of a network, trained by itself on features. It is saved and restored as the whole network."""

    network: nn.Module

    def __init__(self, network: nn.Module):
        super().__init__()
        self.head = named_head(network)[1]
        object.__setattr__(self, "network", network)  # not a submodule: its parameters are not trained

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [B, C] of features [B, D]."""
        logits: Tensor = self.head(features)
        return logits

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights of the whole network, under its own names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load these weights into the whole network."""
        return self.network.load_state_dict(*args, **kwargs)


def reason_against_cache(
    network: nn.Module, options: LoaderOptions, *, prog_resizing: bool, ema: float | None, tta: bool
) -> str:
    """Return the reason why training this network's head on features differs from training on images; empty if none.

    options: of the training loader.
    prog_resizing, ema, tta: settings of the configuration.
    """
    if options.decoder == "random_resized_crop":
        return "training.decoder_train random_resized_crop shows another part of an image in every epoch"
    others = [op.strip() for op in options.ops.split(",") if op.strip() not in ("", "none", "flip")]
    if others:
        return f"training.augment {others[0]} changes an image in every epoch"
    if prog_resizing:
        return "resolution.prog_resizing changes the images during training"
    if tta:
        return "training.tta evaluates on mirror images too"
    if ema is not None:
        return "training.ema averages the whole network"
    if not isinstance(named_head(network)[1], nn.Linear):
        return f"{type(network).__name__} does more after its head"
    return ""


@dataclass(frozen=True)
class FeatureStore:
    """The features of a network with a frozen body, for loaders of its images.

    network: the whole network.
    precision: of the forward pass.
    folder: keeps the features, so that another run with the same body needs no forward pass.
    progress: show a progress bar.
    """

    network: nn.Module
    precision: Precision
    folder: Path
    progress: bool = False
    head: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", named_head(self.network)[1])

    def serves(self, model: nn.Module) -> bool:
        """Return True if the model is this network, or its head, and no method has replaced that head (DFR does)."""
        network = model.network if isinstance(model, HeadOnly) else model
        return network is self.network and named_head(network)[1] is self.head

    def training(self, loader: Loader) -> FeatureLoader:
        """Return a loader of features for a training loader: of its images and, with flips, of their mirror images."""
        plain = replace(loader.options, ops="")
        flips = "flip" in loader.options.ops
        return FeatureLoader(
            loader, [self._of(loader, plain), *([self._of(loader, replace(plain, ops="mirror"))] if flips else [])]
        )

    def evaluation(self, loader: Loader) -> FeatureLoader:
        """Return a loader of features for an evaluation loader: of clean images, and with each of its triggers."""
        return FeatureLoader(
            loader,
            list(self._of(loader, loader.options).unbind(0)) if loader.triggers else [self._of(loader, loader.options)],
        )

    def _of(self, loader: Loader, options: LoaderOptions) -> Tensor:
        """Return features of the view's rows in file order: [M, D], or [1 + T, M, D] with T triggers."""
        rows = np.unique(loader.view.rows)
        view = replace(loader.view, rows=rows, order="sequential", weights=None, draws=None, since=None)
        same = Loader(view, loader.batch_size, seed=0, tail="keep", options=options, triggers=loader.triggers)
        same.resolution = loader.resolution
        features = cached_features(self.network, same, self.precision, self.folder, progress=self.progress)
        return features.to(self.precision.device)


class FeatureLoader(Loader):
    """A loader whose images are features [B, D].

    loader: the loader of images that this one stands for.
    tables: feature tables [M, D] of every row of the view in file order. In training: plain and mirrored. In
        evaluation: clean, then with each trigger.
    """

    def __init__(self, loader: Loader, tables: Sequence[Tensor]):
        self._images = loader
        super().__init__(
            loader.view,
            loader.batch_size,
            seed=loader.seed,
            tail=loader.tail,
            least_rows=loader.least_rows,
            options=loader.options,
            triggers=loader.triggers,
        )
        self.tables = torch.stack(list(tables))
        self.flips = len(tables) > 1 and not loader.triggers
        position = torch.full((len(loader.view.beton),), -1)
        position[torch.from_numpy(np.unique(loader.view.rows))] = torch.arange(self.tables.shape[1])
        self.position = position.to(self.tables.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureLoader, (self._images, list(self.tables.unbind(0)))

    def epoch(self, epoch: int, start: int = 0) -> FeatureEpoch:  # type: ignore[override]
        """Return batches `start`, start + 1, ... of epoch `epoch`, with the rows and flips of the loader of images."""
        self.check_unchanged()
        batches = self.planned_batches(epoch)[start:]
        return FeatureEpoch(self, batches, self._mirrored(epoch, [positions for positions, _, _ in batches]))

    def _mirrored(self, epoch: int, positions: Sequence[Ints]) -> Tensor | None:
        """Return 1 for each sample of the batches that is shown mirrored and 0 for the others; None without flips."""
        if not self.flips or not positions:
            return None
        mirrored = is_mirrored(sample_keys(self.augment_seed, epoch, np.concatenate(positions)))
        return torch.from_numpy(mirrored.astype(np.int64)).to(self.tables.device)


class FeatureEpoch(Iterator[Batch]):
    """The batches of one epoch of features: a context manager, like the epochs of a loader. It never waits."""

    waited = 0.0

    def __init__(self, loader: FeatureLoader, batches: Sequence[PlannedBatch], mirrored: Tensor | None):
        self._loader, self._batches, self._next = loader, batches, 0
        rows = np.concatenate([rows for _, rows, _ in batches]) if batches else np.empty(0, np.int64)
        self._rows = torch.from_numpy(rows).to(loader.tables.device)
        self._mirrored, self._done = mirrored, 0

    def __len__(self) -> int:
        """Return the number of batches still to come."""
        return len(self._batches) - self._next

    def __next__(self) -> Batch:
        if self._next == len(self._batches):
            raise StopIteration
        loader, (_, rows, share) = self._loader, self._batches[self._next]
        part = slice(self._done, self._done + len(rows))
        self._next, self._done = self._next + 1, part.stop
        row = self._rows[part]
        position = loader.position[row]
        if self._mirrored is not None:
            image, triggered = loader.tables[self._mirrored[part], position], ()
        else:
            image, triggered = loader.tables[0, position], tuple(table[position] for table in loader.tables[1:])
        columns = {name: column[row] for name, column in loader.columns.items()}
        return Batch(image=image, row=row, share=share, triggered=triggered, **columns)

    def __enter__(self) -> FeatureEpoch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing runs in the background."""


def refuse_cache(reason: str) -> UsageError:
    """Return the error for `--model.cache on` where cached features would not be exact."""
    return UsageError(f"model.cache is on, but {reason}; leave it at auto or off to train on the images")
