"""A linear probe of the attribute, from frozen features of the rows where it is known.

Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes" (arXiv 1610.01644), are the
usual reference for the probe. That few attribute labels serve is the setting of Nam et al. 2022 (arXiv 2204.02070).
"""

from __future__ import annotations

from debeton.methods.finder import Found, register_finder
from debeton.methods.parts.attribute_finder import attribute_groups, attribute_outline, check_attribute_finder
from debeton.methods.parts.attribute_models import LinearProbe
from debeton.train.run import Run


@register_finder(
    "probe",
    "attributes by a linear probe on frozen features of the rows whose attribute is known",
    paper="Alain and Bengio 2017 (linear probes)",
    needs="label, some attributes",
    cost="one pass without gradients, about a third of an epoch",
    kind="attribute",
    sections=("labelled",),
    check=check_attribute_finder,
    phases=attribute_outline,
)
def probe_groups(run: Run) -> Found:
    """Fit the probe on the known rows; the other training rows get the attribute that it tells."""
    return attribute_groups(run, lambda settings, attribute, size: LinearProbe(attribute, size, settings.c_grid))
