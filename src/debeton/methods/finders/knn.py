"""The attribute of the nearest rows where it is known, in the cosine distance of frozen features.

Cover and Hart 1967, "Nearest neighbor pattern classification"; on frozen features with cosine similarity as in Wu et
al. 2018 (arXiv 1805.01978).
"""

from __future__ import annotations

from debeton.methods.finder import Found, register_finder
from debeton.methods.parts.attribute_finder import attribute_groups, attribute_outline, check_attribute_finder
from debeton.methods.parts.attribute_models import NearestRows
from debeton.train.run import Run


@register_finder(
    "knn",
    "attributes of the nearest rows, by frozen features, of those whose attribute is known",
    paper="Cover and Hart 1967; Wu et al. 2018",
    needs="label, some attributes",
    cost="one pass without gradients, about a third of an epoch",
    kind="attribute",
    sections=("labelled",),
    check=check_attribute_finder,
    phases=attribute_outline,
)
def knn_groups(run: Run) -> Found:
    """Let the k nearest known rows vote on the attribute of each other training row."""
    return attribute_groups(run, lambda settings, attribute, size: NearestRows(attribute, size, settings.k))
