"""A frozen network whose features a method works on, and the features of a view's rows."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from debeton.data.views.view import View
from debeton.nets.describe import describe_network
from debeton.nets.models import named_head
from debeton.nets.transfer import starts_published
from debeton.nets.weight_fitting import load_run_weights
from debeton.system.errors import UsageError
from debeton.train.features import cached_features
from debeton.train.objective import Precision
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader


def network_of(run: Run, path: Path, key: str) -> nn.Module:
    """Return the configured network with the weights of a checkpoint; its head serves no purpose and may differ.

    path: a run folder, checkpoint or weight file.
    key: the setting that named it, for messages.
    """
    model, expected = run.fresh_network(), describe_network(run.config, run.views["train"].spec)
    load_run_weights(model, path, expected, key, head=named_head(model)[0])
    return model


def frozen_network(run: Run, checkpoint: str | None, key: str) -> nn.Module:
    """Return the network whose features are used: of a checkpoint, or as the run's networks begin.

    UsageError where its weights would be random.

    checkpoint: a run folder, checkpoint or weight file; None for model.checkpoint or published weights.
    key: the setting of the checkpoint, for messages.
    """
    if checkpoint is not None:
        return network_of(run, Path(checkpoint), key)
    model = run.config.model
    if not starts_published(run.config) and model.checkpoint is None and model.transfer == "NONE":
        raise UsageError(
            f"groups.from '{run.config.groups.finder}' looks at the features of a trained network, and those of this "
            f"run would be of random weights; name one with --{key} RUN, or take published weights with "
            "--model.pretrained true"
        )
    return run.network()


def row_features(run: Run, network: nn.Module, view: View) -> Tensor:
    """Return the input of the network's head for the rows of a view, float32 [M, D]; equal in each process.

    The features are kept in {training.outdir}/features, for all runs that need the same ones.
    """
    loader, precision = eval_loader(view, run.config, run.device), Precision(run.config.training.precision, run.device)
    folder = Path(run.config.training.outdir) / "features"
    return cached_features(network, loader, precision, folder, progress=run.progress)
