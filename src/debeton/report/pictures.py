"""The images that a run got most wrong, group by group, and where it looked in those of its worst group."""

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
from debeton.data.views.view import View
from debeton.nets.saliency import grad_cam
from debeton.nets.trained import Trained, load_trained
from debeton.report.figures.pictures import Mistakes, plot_mistakes
from debeton.report.figures.plots import Plot, to_png
from debeton.report.runs import Setting
from debeton.report.write import Pictures
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.system.plugins import require_plugins_of
from debeton.system.seed import make_rng
from debeton.train.run_views import prepare_views

GROUPS, SHOWN, LOOKED_AT = 6, 6, 200  # groups of a figure, images of a group, rows of a group that are looked at


def pictures() -> Pictures:
    """`picture_plots` on the device at hand."""
    return functools.partial(picture_plots, device=pick_device("auto"))


def picture_plots(settings: Sequence[Setting], split: str, device: torch.device) -> list[Plot]:
    """A figure for the first seed of each setting; settings whose betons or checkpoints are gone are named and left
    out."""
    plots = []
    for number, setting in enumerate(settings, 1):
        if setting.stat("accuracy", split) is None:
            continue  # no classifier, such as a diffusion model
        run = setting.runs[0]
        try:
            found = worst_mistakes(run.folder, split, device)
        except (DataError, UsageError, OSError) as error:
            logger.warning("warning: no pictures of %s: %s", run.name, error)
            continue
        if found:
            caption = (
                f"{setting.label}, seed {run.seed}: its surest mistakes among up to {LOOKED_AT} "
                f"{split} rows of each group, the worst groups first; below those of the worst, Grad-CAM."
            )
            figure: Figure = plot_mistakes(found)
            plots.append(Plot(f"mistakes_{number}", caption, to_png(figure), round(100 * figure.get_figwidth())))
    return plots


def worst_mistakes(folder: Path, split: str, device: torch.device) -> list[Mistakes]:
    """The groups of a run's split with mistakes, the worst first, GROUPS of them at most.

    Errors of the configuration, its betons and its checkpoint are theirs.
    """
    trained = load_trained(folder)
    require_plugins_of(folder)
    view = prepare_views(load([folder / "config.yaml"])).get(split)
    if view is None:
        raise DataError(f"{folder} has no {split} split")
    looked = _some_of_each_group(view)
    probability = trained.probabilities(looked, device)
    label, group = looked.label[looked.rows], looked.group[looked.rows]
    said = probability.argmax(1)
    wrong = said != label
    rates = {g: wrong[group == g].mean() for g in np.unique(group)}
    worst = sorted((g for g in rates if rates[g] > 0), key=lambda g: -rates[g])[:GROUPS]
    return [
        _mistakes(trained, looked, np.flatnonzero(group == g), probability, label, device, with_heat=k == 0)
        for k, g in enumerate(worst)
    ]


def _some_of_each_group(view: View) -> View:
    group = view.group[view.rows]
    chosen = [make_rng(0, "pictures", g).permutation(np.flatnonzero(group == g))[:LOOKED_AT] for g in np.unique(group)]
    return view.subset(np.sort(np.concatenate(chosen)))


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
    """members: positions of the group's rows in the view."""
    said = probability.argmax(1)
    wrong = members[said[members] != label[members]]
    surest = wrong[np.argsort(-probability[wrong, said[wrong]], kind="stable")][:SHOWN]
    # A loader gives rows in file order, which the surest are put back into their own from.
    ascending = np.sort(surest)
    loader = trained.loader(view.subset(ascending), SHOWN, device)
    with loader.epoch(0) as batches:
        (image,) = [batch.image for batch in batches]
    image = image[torch.from_numpy(np.searchsorted(ascending, surest)).to(device)]
    spec, answers = view.spec, said[surest]
    heat = grad_cam(trained.bare, image, torch.from_numpy(answers).to(device)) if with_heat else None
    return Mistakes(
        group=spec.group_names[view.group[view.rows[surest[0]]]],
        right=len(members) - len(wrong),
        of=len(members),
        pixels=_pixels(trained, image),
        truth=tuple(spec.classes[k] for k in label[surest]),
        said=tuple(spec.classes[k] for k in answers),
        confidence=probability[surest, answers],
        heat=None if heat is None else heat.cpu().numpy(),
    )


def _pixels(trained: Trained, image: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 [n, H, W, 3] of normalised images."""
    mean, std = (torch.tensor(trained.network[key], device=image.device)[:, None, None] for key in ("mean", "std"))
    values = (image.detach().float() * std + mean).mul(255).round().clamp(0, 255)
    return values.byte().permute(0, 2, 3, 1).cpu().numpy()
