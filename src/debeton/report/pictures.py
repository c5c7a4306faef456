"""Pictures of a run's mistakes with the highest confidence, by group, with Grad-CAM maps for the worst group."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import load
from debeton.data.views.subsets import sample_groups
from debeton.data.views.view import View
from debeton.nets.saliency import grad_cam
from debeton.nets.trained import Trained, load_trained
from debeton.report.figures.pictures import Mistakes, plot_mistakes
from debeton.report.figures.plots import Plot, to_png
from debeton.report.runs import Setting
from debeton.report.write import PicturePlotter
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.system.plugins import require_plugins_of
from debeton.train.run_data import check_data, describe_data, recorded_data
from debeton.train.run_views import prepare_views

GROUPS, SHOWN, SAMPLED = 6, 6, 200  # groups of a figure, images of a group, rows of a group that are classified


def picture_plotter() -> PicturePlotter:
    """Return `picture_plots` for the GPU if there is one, else for the CPU."""
    return functools.partial(picture_plots, device=pick_device("auto"))


def picture_plots(settings: Sequence[Setting], split: str, device: torch.device) -> list[Plot]:
    """Plot the mistakes of each setting, for its first seed.

    A setting whose betons or checkpoints are gone is left out with a warning. A setting without accuracy, such as a
    diffusion model, is left out without one.

    settings: settings of finished runs.
    split: 'test' or 'val'.
    device: device that classifies the images.
    """
    plots = []
    for number, setting in enumerate(settings, 1):
        if setting.stat("accuracy", split) is None:
            continue
        run = setting.runs[0]
        try:
            mistakes = worst_mistakes(run.folder, split, device)
        except (DataError, UsageError, OSError) as error:
            logger.warning("warning: no pictures of %s: %s", run.name, error)
            continue
        if mistakes:
            caption = (
                f"{setting.label}, seed {run.seed}: the mistakes with the highest confidence among up to {SAMPLED} "
                f"{split} rows of each group. The worst group comes first, with Grad-CAM maps below its images."
            )
            figure: Figure = plot_mistakes(mistakes)
            plots.append(Plot(f"mistakes_{number}", caption, to_png(figure), round(100 * figure.get_figwidth())))
    return plots


def worst_mistakes(folder: Path, split: str, device: torch.device) -> list[Mistakes]:
    """Return the mistakes of a run in its worst groups: at most GROUPS groups, the worst first.

    folder: run folder.
    split: 'test' or 'val'.
    device: device that classifies the images.

    DataError: the run has no such split. Errors of the configuration, the betons and the checkpoint are passed on.
    """
    trained = load_trained(folder)
    require_plugins_of(folder)
    views = prepare_views(load([folder / "config.yaml"]))
    check_data(recorded_data(folder), describe_data(views), str(folder))
    view = views.get(split)
    if view is None:
        raise DataError(f"{folder} has no {split} split")
    sample = sample_groups(view, dict.fromkeys(range(view.spec.num_strata), SAMPLED), 0, "pictures")
    probability = trained.probabilities(sample, device)
    label, group = sample.label[sample.rows], sample.strata
    wrong = probability.argmax(1) != label
    rates = {g: wrong[group == g].mean() for g in np.unique(group)}
    worst = sorted((g for g in rates if rates[g] > 0), key=lambda g: -rates[g])[:GROUPS]
    return [
        _mistakes(trained, sample, np.flatnonzero(group == g), probability, label, device, with_heat=k == 0)
        for k, g in enumerate(worst)
    ]


def _mistakes(
    trained: Trained,
    view: View,
    members: NDArray[np.int64],
    probability: NDArray[np.float32],
    label: NDArray[np.int64],
    device: torch.device,
    *,
    with_heat: bool,
) -> Mistakes:
    """Return the mistakes of one group with the highest confidence, at most SHOWN.

    trained: the classifier.
    view: the rows that were classified, N of them.
    members: positions of the group's rows in the view, [n].
    probability: [N, classes].
    label: [N].
    device: device for the images.
    with_heat: compute Grad-CAM maps.
    """
    predicted = probability.argmax(1)
    wrong = members[predicted[members] != label[members]]
    surest = wrong[np.argsort(-probability[wrong, predicted[wrong]], kind="stable")][:SHOWN]
    # The loader reads rows in file order; `searchsorted` below puts the images back into the order of `surest`.
    ascending = np.sort(surest)
    loader = trained.loader(view.subset(ascending), SHOWN, device)
    with loader.epoch(0) as batches:
        (image,) = [batch.image for batch in batches]
    image = image[torch.from_numpy(np.searchsorted(ascending, surest)).to(device)]
    spec, answers = view.spec, predicted[surest]
    heat = grad_cam(trained.bare, image, torch.from_numpy(answers).to(device)) if with_heat else None
    return Mistakes(
        group=spec.stratum_names[view.strata[surest[0]]],
        correct=len(members) - len(wrong),
        total=len(members),
        pixels=_pixels(trained, image),
        labels=tuple(spec.classes[k] for k in label[surest]),
        predicted=tuple(spec.classes[k] for k in answers),
        confidence=probability[surest, answers],
        heat=None if heat is None else heat.cpu().numpy(),
    )


def _pixels(trained: Trained, image: torch.Tensor) -> NDArray[np.uint8]:
    """Return normalised images [n, 3, H, W] as pixels, uint8 [n, H, W, 3]."""
    mean, std = (torch.tensor(trained.network[key], device=image.device)[:, None, None] for key in ("mean", "std"))
    values = (image.detach().float() * std + mean).mul(255).round().clamp(0, 255)
    return values.byte().permute(0, 2, 3, 1).cpu().numpy()
