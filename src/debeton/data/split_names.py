"""The names of splits: those that training looks for, and the words that other data sets use for them.

Every list of split names in the project is here. A beton of another name is used only where a setting names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from debeton.system.errors import DataError, nearest
from debeton.system.file_names import file_name

SPLITS = ("train", "val", "test")
FURTHER = ("target", "synthetic")  # the set of methods that use one, and generated images in a beton of their own
TEST_PREFIX = "test_"
FILE_NAME = r"\w[\w.-]*"  # names that may be a part of a file name
KNOWN = f"{', '.join((*SPLITS, *FURTHER))} and {TEST_PREFIX}NAME"
NUMBERS = dict(zip("012", SPLITS))  # as WILDS, group DRO and CelebA number them

SYNONYMS = {
    **dict.fromkeys(("train", "training", "trainset", "train_set", "training_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "val_set", "validation_set", "dev", "devel"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "test_set", "testing_set"), "test"),
    **{name: name for name in FURTHER},
}
# A validation set of the training distribution chooses the epoch, unless there is a set that is called just val.
IN_DISTRIBUTION_VAL = ("id_val", "val_id", "in_distribution_val", "val_in_distribution")
_WORDS = {"validation": "val", "valid": "val", "val": "val", "dev": "val", "testing": "test", "test": "test"}


def beton_name(dataset: str, split: str) -> str:
    """Return the file name of a split's beton, DATASET_SPLIT.beton. It is no path, whatever the data set's name."""
    return f"{file_name(dataset)}_{split}.beton"


def is_known_split(name: str) -> bool:
    """Return True for a split that training looks for: train, val, test, target, synthetic or test_NAME."""
    return name in SPLITS or name in FURTHER or re.fullmatch(TEST_PREFIX + FILE_NAME, name) is not None


def is_split_word(name: str) -> bool:
    """Return True for train, val and test and the other words for them; not for numbers and longer names."""
    return SYNONYMS.get(_plain(name).lower()) in SPLITS


def is_train_name(name: str) -> bool:
    """Return True for 'train' and the other words for it, such as 'Train' and 'training'."""
    return _translate(name) == "train"


def known_split(name: str) -> str | None:
    """Return the split that a name stands for, or None if it is none that is known.

    Capitals do not count, and '-' and ' ' stand for '_'.
    'val_NAME' and 'NAME_val' are further tests, 'test_val_NAME': models are measured on them, none is chosen on them.
    'NAME_test' is 'test_NAME'.
    """
    if is_known_split(name):
        return name
    return _translate(name)


def _of_number(text: str) -> str | None:
    """Return the split of a number, also with decimals ('0.0'), as NUMBERS has it."""
    number = re.fullmatch(r"(\d+)(\.0*)?", text)
    return NUMBERS.get(number[1]) if number else None


def _plain(name: str) -> str:
    """Return the name with '_' for '-' and for spaces."""
    return re.sub(r"[\s-]+", "_", name.strip())


def _translate(name: str) -> str | None:
    text = _plain(name)
    lower = text.lower()
    if lower in SYNONYMS:
        return SYNONYMS[lower]
    first, _, rest = text.partition("_")
    front, _, last = text.rpartition("_")
    further = None
    if first.lower() in _WORDS and rest:
        further = (_WORDS[first.lower()], rest)
    elif last.lower() in _WORDS and front and not is_train_name(front):
        further = (_WORDS[last.lower()], front)
    if further is None or is_train_name(further[1]):
        return None
    kind, which = further
    split = f"{TEST_PREFIX}{which}" if kind == "test" else f"{TEST_PREFIX}val_{which}"
    return split if is_known_split(split) else None


def name_splits(names: Iterable[str], where: str, *, numbers: bool = False) -> tuple[dict[str, str], list[str]]:
    """Return the split of each name, and a sentence for each name that is not that of its split.

    A name that is not known keeps its own, and the writer refuses it. Numbers are mapped without a sentence.

    names: as a data set calls its splits.
    where: the folder or table of the names, for messages.
    numbers: whether 0, 1 and 2 stand for train, val and test.

    DataError if two names stand for one split: nothing is merged.
    """
    listed = list(dict.fromkeys(names))
    split_of = {name: (_of_number(name) if numbers else None) or known_split(name) or name for name in listed}
    for name in listed:
        if _plain(name).lower() in IN_DISTRIBUTION_VAL and "val" not in split_of.values():
            split_of[name] = "val"
    name_of: dict[str, str] = {}
    for name, split in split_of.items():
        before = name_of.setdefault(split, name)
        if before != name:
            raise DataError(
                f"{where}: '{before}' and '{name}' are both the split '{split}'; give one of them another name "
                f"(known: {KNOWN}), or put their rows together"
            )
    notes = [
        f"'{name}' in {where} is the split '{split}'"
        + (": models are measured on it, and none is chosen by it" if split.startswith(f"{TEST_PREFIX}val_") else "")
        for name, split in split_of.items()
        if name != split and not name[:1].isdigit()
    ]
    return split_of, notes


def refuse_unknown_splits(splits: Iterable[str], where: str, *, named: bool = False) -> None:
    """Raise DataError that names every split that training would not look for.

    named: whether the user named these splits. Then only a name that is no part of a file name is refused.
    """
    unknown = [split for split in unknown_splits(splits) if not (named and re.fullmatch(FILE_NAME, split))]
    if unknown:
        raise DataError(
            f"{where}: training does not look for the split {' or '.join(map(repr, unknown))}"
            f"{nearest(unknown[0], SPLITS)} known: {KNOWN}. Give it another name, or list with --splits what to write"
        )


def unknown_splits(splits: Iterable[str]) -> list[str]:
    """Return the splits that training does not look for."""
    return [split for split in splits if not is_known_split(split)]


def first_in_order(splits: Mapping[str, object]) -> list[str]:
    """Return the names of splits: train, val and test first, then the others by name."""
    return [*(name for name in SPLITS if name in splits), *sorted(set(splits) - set(SPLITS))]
