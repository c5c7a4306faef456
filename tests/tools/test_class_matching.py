"""Classes of data matched with a model's outputs, and the logits that are left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from debeton.data.raw.imagenet_classes import imagenet_aliases, imagenet_class_names
from debeton.system.errors import DataError, UsageError
from debeton.tools.class_matching import ClassMatch, MatchedClasses, match_classes, read_class_map


class Fixed(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(image), -1)


def test_the_same_classes_need_no_note_and_another_sequence_is_followed():
    assert match_classes(["cat", "dog"], ["cat", "dog"]) == ClassMatch(((0,), (1,)), "")
    assert match_classes(["dog", "cat"], ["cat", "dog"]) == ClassMatch(((1,), (0,)), "")


def test_a_part_of_the_classes_masks_the_others_and_says_so():
    match = match_classes(["dog", "owl"], ["cat", "dog", "fox", "owl"])
    assert match.codes == ((1,), (3,))
    assert "2 of the model's 4 classes" in match.note
    logits = MatchedClasses(Fixed(9.0, 1.0, 8.0, 2.0), match)(torch.zeros(3, 3, 2, 2))
    assert logits.tolist() == [[1.0, 2.0]] * 3
    masked = torch.tensor([-torch.inf, 1.0, -torch.inf, 2.0]).softmax(0)[[1, 3]]
    torch.testing.assert_close(logits.softmax(1)[0], masked)


def test_wnids_of_imagenet_are_names_of_its_classes():
    names = imagenet_class_names()
    assert imagenet_aliases(names)["n01443537"] == names.index("goldfish") == 1
    assert match_classes(["n01443537", "n01440764"], names).codes == ((1,), (0,))
    wnids = list(imagenet_aliases(names))[-1000:]
    assert match_classes(["goldfish", "tench"], wnids).codes == ((1,), (0,))
    assert imagenet_aliases(["a"] * 1000) == imagenet_aliases(names[:10]) == {}


def test_numbers_are_the_outputs_of_a_model_with_names():
    match = match_classes(["10", "2"], [f"class {k}" for k in range(12)])
    assert match.codes == ((10,), (2,))
    assert "numbers" in match.note
    assert "2 of the model's 12" in match.note


def test_names_go_to_the_outputs_of_a_model_without_names_in_their_sequence_and_a_note_says_so():
    match = match_classes(["cat", "dog"], ["0", "1"])
    assert match.codes == ((0,), (1,))
    assert "in the sequence of the data's classes (cat, dog)" in match.note


@pytest.mark.parametrize(
    ("data", "model"), [(["cats", "dog"], ["cat", "dog"]), (["7"], ["a", "b"]), (["cat", "dog"], ["0", "1", "2"])]
)
def test_classes_that_the_model_does_not_have_are_named(data, model):
    with pytest.raises(DataError, match=rf"no classes of the model: '{data[0]}'.*--class-map"):
        match_classes(data, model)


def test_a_table_sums_the_probabilities_of_the_outputs_that_stand_for_a_class(tmp_path):
    (tmp_path / "map.csv").write_text("class,model_class\npet,cat\npet,dog\nwild,fox\n")
    match = match_classes(["wild", "pet"], ["cat", "dog", "fox", "car"], read_class_map(tmp_path / "map.csv"))
    assert match.codes == ((2,), (0, 1))
    logits = (0.3, -1.0, 0.5, 4.0)
    found = MatchedClasses(Fixed(*logits), match)(torch.zeros(1, 3, 2, 2)).softmax(1)[0]
    weights = torch.tensor(logits).exp()
    torch.testing.assert_close(found, torch.stack([weights[2], weights[0] + weights[1]]) / weights[:3].sum())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("pet,cat", "no line for the class 'wild'"),
        ("pet,cat\nwild,foxx", "class 'wild': the model has no class 'foxx'; did you mean 'fox'?"),
        ("pet,cat\nwild,cat", "gives the model's class 'cat' to 'wild' and to 'pet'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(lines, message, tmp_path):
    (tmp_path / "map.csv").write_text(f"class,model_class\n{lines}\n")
    with pytest.raises(UsageError) as error:
        match_classes(["wild", "pet"], ["cat", "dog", "fox"], read_class_map(tmp_path / "map.csv"))
    assert message in str(error.value)


def test_a_table_that_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--class-map: there is no file .*none.csv"):
        read_class_map(tmp_path / "none.csv")
