"""The sections that say which images a run sees: data, synthetic and spurious."""

from __future__ import annotations

from dataclasses import dataclass

from debeton.config.checkers import Bool, Float, Int, OneOf, OrNull, Text
from debeton.config.section import section, setting


@section("data", "the data set, its labels and its rows")
@dataclass(frozen=True)
class Data:
    """The settings of section 'data'."""

    dataset: str = setting(
        Text(), "name of the data set; its betons are {data_root}/{dataset}_{split}.beton", default="dominoes"
    )
    train_path: str | None = setting(
        OrNull(Text()), "training beton, relative to data_root; null: by the data set's name", default=None
    )
    val_path: str | None = setting(
        OrNull(Text()), "validation beton; null: by the data set's name, if there is one", default=None
    )
    test_path: str | None = setting(
        OrNull(Text()), "test beton; null: by the data set's name, if there is one", default=None
    )
    target_path: str | None = setting(
        OrNull(Text()), "beton of the target set, for methods that use one; null: by the data set's name", default=None
    )
    synthetic_path: str | None = setting(
        OrNull(Text()),
        "beton of synthetic images that are not in the training beton; null: by the data set's name",
        default=None,
    )
    label: str | None = setting(OrNull(Text()), "column that is the label; null: the label of the beton", default=None)
    attribute: str | None = setting(
        OrNull(Text()),
        "column that is the spurious attribute, or 'a,b' for the product of two; a name with a comma stands in double "
        "quotes; null: the attribute of the beton",
        default=None,
    )
    aligned: str | None = setting(
        OrNull(Text()),
        "attribute that goes with each class, 'class:attribute,...'; a name with a comma, colon or quote stands in "
        "double quotes, as in CSV files; null: as the data set says",
        default=None,
    )
    group_by: str | None = setting(
        OrNull(OneOf("label_attribute", "attribute")),
        "groups by label and attribute (label_attribute), or by the attribute alone, such as a domain (attribute); "
        "null: as the beton says",
        default=None,
    )
    custom_indices_path: str | None = setting(
        OrNull(Text()), "file of train_indices, test_indices, ... (.pt, .npz or .json); null: all rows", default=None
    )
    known_attributes_only: bool = setting(
        Bool(), "leave out training, validation and target rows whose attribute is not known", default=False
    )
    val_fraction: float = setting(
        Float(0, 0.9),
        "share of the training rows that is held out, of each group alike, if there is no validation beton",
        default=0.0,
    )
    mini_dataset: float | None = setting(
        OrNull(Float(), -1), "share of the training rows, evenly spaced; null or 1: all rows", default=None
    )
    folds: int | None = setting(
        OrNull(Int(1), 0), "number of folds of the training rows for cross-validation; null: no folds", default=None
    )
    fold: int = setting(Int(0), "number of the fold that is the validation split, from 0", default=0)
    bias_rate: float | None = setting(
        OrNull(Float(0, 1), 0),
        "bias-aligned share of each class in the training and validation splits; null: as in the betons",
        default=None,
    )
    bias_rule: str = setting(
        OneOf("ffr", "scale"), "way to reach bias_rate: leave rows out (ffr), or SCALE's split (scale)", default="ffr"
    )
    min_conflicting: int = setting(
        Int(0), "validation rows that each bias-conflicting group keeps (bias_rule ffr)", default=10
    )
    majority_size: int = setting(Int(1), "training rows of each bias-aligned group (bias_rule scale)", default=10000)
    target_size: int = setting(Int(1), "rows of the target set, in equal groups (bias_rule scale)", default=1000)
    balance: str = setting(
        OneOf("none", "class", "group"), "cut the training rows to equal classes or groups", default="none"
    )
    pseudo_groups: str | None = setting(
        OrNull(Text()),
        "CSV of a path and a column of values that group the training rows, with their labels; null: none",
        default=None,
    )
    pseudo_column: str = setting(Text(), "name of the column of values in pseudo_groups", default="ddb")
    pseudo_kind: str = setting(
        OneOf("auto", "bias", "cluster", "attribute", "prediction"),
        "values of pseudo_column: 0 bias-aligned and 1 bias-conflicting (bias), any numbers or names (cluster), names "
        "of the data set's attributes (attribute), classes as a network predicts them (prediction); auto: bias where "
        "no value but 0 and 1 occurs",
        default="auto",
    )
    seed: int = setting(Int(0), "seed of splits and subsets, and of nothing else", default=0, identity="seed")


@section("groups", "where the groups of the training rows come from, and how far their attributes are known")
@dataclass(frozen=True)
class GroupSource:
    """The settings of section 'groups'."""

    finder: str = setting(
        Text(),
        "source of the groups: attribute, file (data.pseudo_groups), or a group finder (--list finders)",
        default="attribute",
        key="from",
    )
    known: float = setting(
        Float(0, 1),
        "share of the real training rows whose attribute is known; the others are drawn by data.seed",
        default=1.0,
    )
    val: str = setting(
        OneOf("attribute", "inferred", "none"),
        "groups of the validation rows that select: their own, those of the finder, or none",
        default="attribute",
    )
    single: str = setting(
        OneOf("warn", "error"),
        "answer to a finder that divides no class: go on with a warning, or stop",
        default="warn",
    )


@section("synthetic", "generated images beside real ones")
@dataclass(frozen=True)
class Synthetic:
    """The settings of section 'synthetic'."""

    mode: str = setting(
        OneOf("none", "usb", "asb", "only", "biased", "blind", "ffr", "ffr_biased", "ffr_blind", "ffr_reversed"),
        "use of synthetic rows: none; beside real rows, balanced (usb, asb); alone (only, biased, blind); "
        "or in a first phase before the real rows (ffr, ffr_...)",
        default="none",
    )
    share: float = setting(Float(0, 1), "share of the synthetic rows that the mode would use", default=1.0)
    per_cell: int | None = setting(
        OrNull(Int(1), 0), "synthetic rows of each (class, attribute); null: as many as usb needs, evenly", default=None
    )


@section("spurious", "a trigger planted in images (bias transfer); --list triggers names them")
@dataclass(frozen=True)
class Spurious:
    """The settings of section 'spurious'."""

    spurious_type: str = setting(
        Text(), "name of the trigger: square, gaussian, hat or overlay; none: no trigger", default="none"
    )
    spurious_perc: float = setting(
        Float(0, 1), "share of the images of the chosen classes that carry the trigger", default=0.0
    )
    spurious_file: str = setting(
        Text(),
        "classes that carry the trigger: all, dogs or cats (of ImageNet), names or numbers 'a,b', or a file of them",
        default="all",
    )
    splits: str = setting(
        OneOf("all", "train", "test"),
        "splits in which the trigger is planted; test: every split that is evaluated",
        default="all",
    )
    eval_types: str | None = setting(
        OrNull(Text()),
        "triggers that models are measured with, such as 'square,hat'; null: spurious_type",
        default=None,
    )
    size: str | None = setting(
        OrNull(Text()),
        "size of a square, hat or overlay: a fraction of the image (0.25) or pixels (56px); null: the trigger's own",
        default=None,
    )
    position: str | None = setting(
        OrNull(Text()),
        "place of a square, hat or overlay: top_left, top, ... bottom_right or center; null: the trigger's own",
        default=None,
    )
    colour: str = setting(Text(), "colour of a square: R,G,B, each from 0 to 255", default="255,255,0")
    opacity: float = setting(Float(0, 1), "opacity of a square, hat or overlay, from 0 (not visible) to 1", default=1.0)
    hats: str | None = setting(
        OrNull(Text()), "hat with an alpha channel, or a folder of hats; null: drawn hats", default=None
    )
    overlay: str | None = setting(
        OrNull(Text()), "image with an alpha channel for overlay, or a folder of them; null: none", default=None
    )
    gaussian_pattern_path: str | None = setting(
        OrNull(Text()), ".npy file of a pattern [3, H, W]; null: drawn from the seed", default=None
    )
    gaussian_scale: float = setting(Float(0), "standard deviation of the pattern, as a fraction of 255", default=0.01)
    seed: int = setting(
        Int(0), "seed of the pattern, of the images that carry the trigger and of the hat of each image", default=10
    )
    legacy: bool = setting(
        Bool(),
        "published behaviour: values are cut off, not rounded; hats go by the place in the batch and are not resized",
        default=False,
    )
