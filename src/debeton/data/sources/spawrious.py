"""Spawrious: four breeds of dogs at six locations, which change between training and test; 4 x 6 groups, 224x224.

Lynch et al. 2023, "Spawrious: A Benchmark for Fine Control of Spurious Correlation Biases" (arXiv 2303.05470),
https://github.com/aengusl/spawrious; CC BY 4.0. The images come from a text-to-image model.

Layout: `spawrious224/ENVIRONMENT/LOCATION/BREED/*.png`, ENVIRONMENT 0 or 1, with 3,168 images in a folder. The archive
of one challenge has the folders that it needs, that of the entire dataset all. RAW is the folder of the environments or
the folder around it.

Six challenges (`--challenge`), each with two training environments and a test:
- o2o_easy, o2o_medium, o2o_hard: one to one. A breed is nearly always at its own location: 97 % of environment 0, 87 %
  of environment 1. The other images of all breeds are at one further location. In test each breed is at another one.
- m2m_easy, m2m_medium, m2m_hard: many to many. Two breeds share two locations and exchange them between the training
  environments. In test they are at two locations of the other pair. All images are of folder 0.

The bias-aligned locations of a breed are those of its training environments, without the further one. The column
`environment` is the owners' name of the part. In one to one the first images of a folder are used. The owners take them
in the order of the file system; here they are sorted by name. Groups without an image in train and test are missing.

The owners take 20 % of train as val at random (`data.val_fraction`). Metric: accuracy on test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, find_root, known_choice
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec, Rows

BREEDS = ("bulldog", "corgi", "dachshund", "labrador")
LOCATIONS = ("desert", "jungle", "dirt", "mountain", "snow", "beach")
ENVIRONMENTS = ("SC_group_1", "SC_group_2", "Test")
TEST = 2
PER_FOLDER = 3168
RATES = (0.97, 0.87)  # bias-aligned share of the environments, one to one


@dataclass(frozen=True)
class Challenge:
    """The locations of the breeds, in the order of ORDER.

    train, test: a location for each breed. Many to many: breeds 0 and 1 share locations 0 and 1, and so do 2 and 3.
    further: the location of the other training images, one to one; '' for many to many.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    further: str = ""


ORDER = ("bulldog", "dachshund", "labrador", "corgi")
CHALLENGES = {
    "o2o_easy": Challenge(("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), "beach"),
    "o2o_medium": Challenge(("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), "desert"),
    "o2o_hard": Challenge(("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), "beach"),
    "m2m_easy": Challenge(("desert", "mountain", "dirt", "jungle"), ("dirt", "jungle", "mountain", "desert")),
    "m2m_medium": Challenge(("beach", "snow", "mountain", "desert"), ("desert", "mountain", "beach", "snow")),
    "m2m_hard": Challenge(("dirt", "jungle", "snow", "beach"), ("snow", "beach", "dirt", "jungle")),
}


@dataclass(frozen=True)
class Part:
    """The images of one folder in a split.

    environment: the code of the part, as in ENVIRONMENTS.
    folder: 0 or 1, the owners' folder.
    location, breed: the names of the folders below.
    count: the number of its first images to use.
    """

    environment: int
    folder: int
    location: str
    breed: str
    count: int = PER_FOLDER

    @property
    def group(self) -> int:
        """The group of the images."""
        return BREEDS.index(self.breed) * len(LOCATIONS) + LOCATIONS.index(self.location)


@register_source(
    "spawrious",
    "four breeds of dogs at six locations that change in test, six challenges, 25,344 + 25,344 images (Spawrious)",
    "get the archive of a challenge, or of the entire dataset, from the links in https://github.com/aengusl/spawrious "
    "and unpack it: RAW/spawrious224/0/desert/bulldog/*.png; --challenge names the challenge",
    (Option("challenge", str, "o2o_easy", f"{', '.join(CHALLENGES)}"),),
)
def load(request: Request) -> Dataset:
    """Return train and test of a challenge, as the module describes them."""
    name = known_choice("challenge", request.options["challenge"], tuple(CHALLENGES))
    tree = ImageTree(find_root(request, "spawrious", ("0",), ("spawrious224",)))
    challenge = CHALLENGES[name]
    parts = {"train": train_parts(challenge), "test": test_parts(challenge)}
    counts = {split: _counts(of_split) for split, of_split in parts.items()}
    present = np.sum(list(counts.values()), axis=0) > 0
    spec = DatasetSpec(
        "spawrious",
        BREEDS,
        LOCATIONS,
        aligned=_aligned(challenge),
        missing=tuple(np.flatnonzero(~present).tolist()),
        label_name="breed",
        attribute_name="location",
        columns={"environment": ENVIRONMENTS},
    )
    return Dataset(spec, {split: _rows(tree, of_split) for split, of_split in parts.items()}, counts)


def train_parts(challenge: Challenge) -> list[Part]:
    """Return the folders of the two training environments."""
    if not challenge.further:
        return [
            Part(environment, 0, location, breed)
            for environment in (0, 1)
            for location, breed in zip(_exchanged(challenge.train, environment), ORDER, strict=True)
        ]
    parts = []
    for environment, rate in enumerate(RATES):
        count = int(rate * PER_FOLDER)
        for location, breed in zip(challenge.train, ORDER, strict=True):
            parts.append(Part(environment, environment, location, breed, count))
        parts += [Part(environment, environment, challenge.further, breed, PER_FOLDER - count) for breed in ORDER]
    return parts


def test_parts(challenge: Challenge) -> list[Part]:
    """Return the folders of test."""
    return [
        Part(TEST, second if challenge.further else 0, location, breed)
        for second in (0, 1)
        for location, breed in zip(
            challenge.test if challenge.further else _exchanged(challenge.test, second), ORDER, strict=True
        )
    ]


def _exchanged(locations: tuple[str, ...], second: int) -> tuple[str, ...]:
    """Return the locations, or those with each pair exchanged."""
    a, b, c, d = locations
    return (b, a, d, c) if second else locations


def _aligned(challenge: Challenge) -> tuple[tuple[int, ...], ...]:
    """Return the codes of the locations that go with each breed in training."""
    found: dict[str, set[int]] = {breed: set() for breed in BREEDS}
    for part in train_parts(challenge):
        if part.location != challenge.further:
            found[part.breed].add(LOCATIONS.index(part.location))
    return tuple(tuple(sorted(found[breed])) for breed in BREEDS)


def _counts(parts: list[Part]) -> list[int]:
    """Return the number of images by group."""
    counts = [0] * (len(BREEDS) * len(LOCATIONS))
    for part in parts:
        counts[part.group] += part.count
    return counts


def _rows(tree: ImageTree, parts: list[Part]) -> Rows:
    files: list[str] = []
    group: list[int] = []
    environment: list[int] = []
    for part in parts:
        found = find_images(tree, (f"{part.folder}/{part.location}/{part.breed}/*",), "spawrious")[: part.count]
        files += found
        group += [part.group] * len(found)
        environment += [part.environment] * len(found)
    label, attribute = np.divmod(np.array(group, np.int64), len(LOCATIONS))
    return file_rows(tree, files, label, attribute, {"environment": np.array(environment, np.int64)})
