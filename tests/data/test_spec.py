"""The groups of a data set: by label and attribute, or by the attribute alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError

DOMAINS = DatasetSpec("sites", ("normal", "tumour"), ("a", "b", "c"), group_by="attribute")
CELLS = DatasetSpec("sites", ("normal", "tumour"), ("a", "b", "c"), aligned=((0,), (1, 2)), missing=(1, 2, 5))


def test_groups_by_attribute_are_the_attributes_whatever_the_label():
    label, attribute = np.array([0, 1, 1, 0]), np.array([2, 2, 0, -1])
    assert DOMAINS.num_groups == 3
    assert DOMAINS.group_names == ("a", "b", "c")
    assert DOMAINS.group(label, attribute).tolist() == [2, 2, 0, -1]
    assert DOMAINS.bias_of(label, attribute) is None
    assert DOMAINS.aligned_groups() is None


@pytest.mark.parametrize("spec", [DOMAINS, CELLS], ids=["by attribute", "by label and attribute"])
def test_each_cell_has_one_label_and_one_group_and_rows_find_their_cell(spec: DatasetSpec):
    label, attribute = (codes.ravel() for codes in np.mgrid[0:2, -1:3])
    group = spec.group(label, attribute)
    cell_label, cell_group, conflicting = spec.describe_cells()
    cell = spec.cell(label, group)
    assert sorted(cell.tolist()) == list(range(spec.num_cells)) == list(range(8))
    assert np.array_equal(cell_label[cell], label)
    assert np.array_equal(cell_group[cell], group)
    bias = spec.bias_of(label, attribute)
    assert np.array_equal(conflicting[cell], np.zeros(8, bool) if bias is None else bias[1])


def test_a_set_grouped_by_attribute_loses_its_pairs_and_the_attributes_that_no_class_has_stay_missing():
    domains = CELLS.grouped_by("attribute")
    assert domains.missing == (2,)
    assert domains.aligned == ()
    assert domains.num_groups == 3
    assert not domains.has_cell(0, 2)
    assert domains.has_cell(0, 1)
    assert domains.grouped_by("label_attribute").missing == (2, 5)
    assert CELLS.grouped_by("label_attribute") is CELLS


def test_the_grouping_survives_json_and_a_sidecar_without_it_groups_by_label_and_attribute():
    assert DatasetSpec.from_dict(json.loads(json.dumps(DOMAINS.to_dict()))) == DOMAINS
    older = {key: value for key, value in CELLS.to_dict().items() if key != "group_by"}
    assert DatasetSpec.from_dict(older) == CELLS


def test_pairs_or_an_unknown_grouping_are_refused():
    with pytest.raises(ValueError, match="know no bias-aligned pairs"):
        DatasetSpec("sites", ("normal", "tumour"), ("a", "b"), aligned=((0,), (1,)), group_by="attribute")
    with pytest.raises(ValueError, match="expected label_attribute or attribute"):
        DatasetSpec("sites", ("normal",), group_by="domain")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_hold_is_refused(name):
    with pytest.raises(DataError, match="holds a letter that no file can hold; give it another name"):
        DatasetSpec("pets", ("cat", name))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"std": (0.2, 0.0, 0.2)}, "std is 0.2, 0.0, 0.2; expected three finite numbers of at least 1e-09, one per"),
        ({"std": (0.2, 0.2, NAN)}, "std is 0.2, 0.2, nan; expected three finite numbers of at least 1e-09, one per"),
        ({"mean": (INF, 0.5, 0.5)}, "mean is inf, 0.5, 0.5; expected three finite numbers, one per channel"),
        ({"mean": (0.5,)}, "mean is 0.5; expected three finite numbers, one per channel"),
        ({"std": ()}, "std is empty; expected"),
    ],
    ids=["std 0", "std nan", "mean inf", "one channel", "none"],
)
def test_a_normalisation_that_gives_no_finite_images_is_refused_before_anything_is_written(values, said):
    with pytest.raises(DataError, match=f"spec pets: {said}"):
        DatasetSpec("pets", ("cat", "dog"), **values)
