"""`write-betons --adopt`: the flags, and the command."""

from __future__ import annotations

import argparse
from pathlib import Path

from debeton.commands.next_command import OWN_DATA, next_command
from debeton.data.spec import DatasetSpec
from debeton.system.errors import UsageError
from debeton.system.name_lists import parse_names

# By flag: the name of the value, and the help.
FLAGS = {
    "label": ("FIELD", "field or CSV column with the class; a key of a JSON field is FIELD.KEY (default: by name)"),
    "attribute": ("FIELD", "field or CSV column with the spurious attribute (default: by name, else none)"),
    "image": ("FIELD", "field with the images, where there are several"),
    "csv": ("FILE", "table with a header, and one line for each row in their order"),
    "csv-index": ("COLUMN", "column of the table with the number of the row, or the value of the field of that name"),
    "name": ("NAME", "name of the data set (default: the file name before _SPLIT)"),
    "split": ("SPLIT", "train, val, test or test_NAME (default: the end of the file name)"),
    "classes": ("A,B", "names of the classes in the order of their codes"),
    "attributes": ("A,B", "names of the attributes in the order of their codes"),
    "aligned": ("PAIRS", "the attribute that goes with each class, 'classA:attr1,classB:attr2'"),
}


def add_adopt_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only --adopt takes."""
    group = parser.add_argument_group("options of --adopt (--out FILE.beton: a link to the beton under this name)")
    for flag, (value, text) in FLAGS.items():
        group.add_argument(f"--{flag}", metavar=value, help=text)


def adopt(args: argparse.Namespace) -> int:
    """Give the beton of --adopt a sidecar, and print what it holds."""
    from debeton.data.beton.treatment import describe_treatments
    from debeton.data.raw.adopt import adopt_beton  # imports torch and numba

    for flag in ("dataset", "raw", "merge", "like", "synthetic"):
        if getattr(args, flag):
            raise UsageError(f"--adopt reads one beton and nothing else; leave --{flag} out")
    sidecar = adopt_beton(
        args.adopt,
        label=args.label,
        attribute=args.attribute,
        image=args.image,
        csv=args.csv,
        csv_index=args.csv_index,
        classes=parse_names(args.classes) if args.classes else None,
        attributes=parse_names(args.attributes) if args.attributes else None,
        aligned=args.aligned or "",
        name=args.name,
        split=args.split,
        out=args.out,
    )
    chosen, path = sidecar["adopted"], args.out or Path(args.adopt)
    roles = ", ".join(f"{role} is '{chosen[role]}'" for role in ("image", "label", "attribute") if role in chosen)
    counts = " · ".join(f"{name} {count}" for name, count in list(sidecar["group_counts"].items())[:24])
    print(f"{path}: {sidecar['n']} rows of {sidecar['dataset']}/{sidecar['split']}; {roles}; {counts}")
    print(f"  columns: {', '.join(sidecar['columns'])}; images: {describe_treatments(sidecar['image']['stored'])}")
    following = next_command(OWN_DATA, DatasetSpec.from_dict(sidecar["spec"]), path.parent)
    if following is not None:
        print("\n".join(following.lines()))
    return 0
