"""SPARE: clusters of an early network's outputs within each class.

Yang, Gan, Dziugaite and Mirzasoleiman 2024, "Identifying Spurious Biases Early in Training through the Lens of
Simplicity Bias" (arXiv 2305.18761). A shortcut that is simpler than the task is learnt first, and its rows then lie
apart from the others of their class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Float, Int
from debeton.data.views.view import View
from debeton.methods.finder import (
    Found,
    Groups,
    early_network,
    found_groups,
    identify_outline,
    register_finder,
)
from debeton.methods.parts.class_clusters import clusters_of_rows
from debeton.methods.parts.clusters import ClusterRule, Floats
from debeton.train.evaluation import CLEAN, evaluate_presentations
from debeton.train.run import Run


@section("spare", "SPARE: the clusters of an early network's outputs")
@dataclass(frozen=True)
class SpareSettings:
    """The settings of section 'spare'."""

    max_clusters: int = setting(Int(2), "largest number of clusters of a class that is tried, from 2", default=5)
    min_silhouette: float = setting(
        Float(-1, 1), "a class whose best division has no larger mean silhouette is not divided", default=0.0
    )


def class_probabilities(run: Run, network: nn.Module, view: View) -> Floats:
    """Return the network's class probabilities of the view's rows in order, [M, C]; equal in each process."""
    (evaluation,) = evaluate_presentations(run, network, view, [CLEAN], logits_of=0)
    return evaluation.probabilities


@register_finder(
    "spare",
    "clusters of an early network's outputs by class",
    paper="Yang et al. 2024 (SPARE)",
    needs="label",
    cost="finder.epochs, and one pass",
    kind="cluster",
    sections=("spare",),
    phases=identify_outline,
)
def spare_groups(run: Run) -> Found:
    """Train ERM for finder.epochs and divide each class into clusters of its class probabilities by k-means."""
    network, settings = early_network(run), run.config.section(SpareSettings)
    rule = ClusterRule(
        "kmeans",
        most=settings.max_clusters,
        restarts=10,
        mean="rows",
        least_silhouette=settings.min_silhouette,
        seed=run.config.training.seed,
    )

    clusters_of = clusters_of_rows(run.views["train"], partial(class_probabilities, run, network), rule)

    def groups_of(view: View) -> Groups:
        return Groups(*clusters_of(view))

    hint = "train the network more or less (--finder.epochs, --finder.lr), or lower --spare.min_silhouette"
    return found_groups(run, network, groups_of, kind="cluster", hint=hint)
