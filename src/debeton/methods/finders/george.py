"""GEORGE: clusters of a trained network's features within each class.

Sohoni, Dunnmon, Angus, Gu and Re 2020, "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained
Classification Problems" (arXiv 2011.12945).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.config import phase_setting, section, setting
from debeton.config.checkers import Float, Int, OneOf
from debeton.data.views.view import View
from debeton.methods.finder import (
    IDENTIFY,
    Found,
    Groups,
    early_network,
    found_groups,
    identify_outline,
    register_finder,
)
from debeton.methods.parts.class_clusters import clusters_of_rows
from debeton.methods.parts.clusters import ClusterRule
from debeton.train.features import extract_features
from debeton.train.objective import Precision
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader


@section("george", "GEORGE: the trained network, and the clusters of its features")
@dataclass(frozen=True)
class GeorgeSettings:
    """The settings of section 'george'."""

    epochs: int | None = phase_setting("epochs", IDENTIFY)
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)
    algorithm: Literal["gmm", "kmeans"] = setting(
        OneOf("gmm", "kmeans"), "kind of clusters: of a Gaussian mixture, or of k-means", default="gmm"
    )
    components: int = setting(Int(1), "principal components of a class's features that are clustered", default=2)
    max_clusters: int = setting(Int(2), "largest number of clusters of a class that is tried, from 2", default=10)
    min_silhouette: float = setting(
        Float(-1, 1), "a class whose best division has no larger mean silhouette is not divided", default=0.0
    )
    parts: int = setting(
        Int(1), "parts of each cluster that over-clustering tries to tell apart; 1: no over-clustering", default=5
    )


def network_features(run: Run, network: nn.Module, view: View) -> NDArray[np.float32]:
    """Return the inputs of the network's head for the view's rows in order, [M, D]; equal in each process."""
    loader, precision = eval_loader(view, run.config, run.device), Precision(run.config.training.precision, run.device)
    return np.asarray(extract_features(network, loader, precision, progress=run.progress).numpy(), np.float32)


@register_finder(
    "george",
    "clusters of a trained network's features by class",
    paper="Sohoni et al. 2020 (GEORGE)",
    needs="label",
    cost="george.epochs (by default training.epochs), and one pass",
    kind="cluster",
    sections=("george",),
    phases=partial(identify_outline, section=GeorgeSettings),
)
def george_groups(run: Run) -> Found:
    """Train ERM to its end and divide each class into clusters of its features."""
    network, settings = early_network(run, GeorgeSettings), run.config.section(GeorgeSettings)
    rule = ClusterRule(
        settings.algorithm,
        most=settings.max_clusters,
        restarts=3,
        mean="clusters",
        least_silhouette=settings.min_silhouette,
        components=settings.components,
        parts=settings.parts,
        seed=run.config.training.seed,
    )

    clusters_of = clusters_of_rows(run.views["train"], partial(network_features, run, network), rule)

    def groups_of(view: View) -> Groups:
        return Groups(*clusters_of(view))

    hint = "train the network otherwise (--george.epochs, --george.lr), or take more --george.components"
    return found_groups(run, network, groups_of, kind="cluster", hint=hint)
