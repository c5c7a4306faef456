"""EIIL: GroupDRO over environments that break the invariance of a first network.

Creager et al. 2021 (arXiv 2010.07249). The environments are those of the group finder 'eiil' (finders/eiil.py).
"""

from __future__ import annotations

from torch import nn

from debeton.methods.groupdro import check_groupdro, train_groupdro
from debeton.methods.method import register_method
from debeton.methods.parts.marked_rows import describe_marks, minority_rows
from debeton.train.run import Run


@register_method(
    "eiil",
    "GroupDRO over environments in which a first network is not invariant",
    needs="label",
    paper="Creager et al. 2021 (EIIL)",
    sections=("eiil", "groupdro"),
    finder="eiil",
    check=check_groupdro,
)
def eiil(run: Run) -> nn.Module:
    """Train GroupDRO over (class, environment), from fresh weights of the same seed as the first network's."""
    marked = minority_rows(run.views["train"])
    run.notes["eiil"] = describe_marks(run.views["train"], marked, "conflicting_row")
    return train_groupdro(run, run.views["train"])
