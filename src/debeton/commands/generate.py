r"""Synthetic images of every group, a pair of class and attribute, of a data set.

    debeton generate --list
    debeton generate --dataset celeba_hq --out GENERATED --per-cell 10000
    debeton generate --dataset celeba --label Blond_Hair --out GENERATED --per-cell 10000
    debeton generate --dataset spuco_animals --out GENERATED --per-cell 20000 --steps 50 --shard 3/8
    debeton generate --dataset pets --prompts pets.yaml --out GENERATED --per-cell 1000
    debeton generate --like dominoes_train.beton --generator halves --fit-on dominoes_target.beton \
        --out GENERATED --per-cell 1000
    debeton generate --like dominoes_train.beton --generator cdpm --model RUN --out GENERATED
    debeton generate --out GENERATED --check
    debeton generate --out GENERATED --arrays DIR

The same command continues an unfinished set, in the same shards or in others. This puts the set into betons:

    debeton write-betons --dataset celeba_hq --raw DIR --out BETONS --synthetic GENERATED

Exit status: 0 done, 1 something is wrong with the images or the model, 2 something is wrong with the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from debeton.system import plugins
from debeton.system.errors import DataError, UsageError
from debeton.system.wording import count


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command."""
    from debeton.generate.filters import FILTERS
    from debeton.generate.generators import GENERATORS, add_model_arguments

    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the data sets with prompts and the generators")
    parser.add_argument("--check", action="store_true", help="count the images of --out and verify their hashes")
    parser.add_argument("--arrays", type=Path, metavar="DIR", help="write the images of --out into DIR as CLASS.npy")
    parser.add_argument("--dataset", metavar="NAME", help="whose prompts; see --list")
    parser.add_argument("--like", type=Path, metavar="BETON", help="cells by the names in this beton, without prompts")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a prompt file of your own (generate/prompts.py)")
    parser.add_argument("--label", default="", metavar="COLUMN", help="the column that is the class")
    parser.add_argument("--attribute", default="", metavar="COLUMN", help="the column that is the bias")
    parser.add_argument("--cells", metavar="'A,B;...'", help="only these 'class,attribute' cells")
    parser.add_argument("--blind", action="store_true", help="prompts that name no attribute, for synthetic.mode blind")
    parser.add_argument("--legacy-prompts", action="store_true", help="the published wording, faults included")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the set")
    parser.add_argument("--set", dest="set_name", help="name that the seeds come from; default: the data set's")
    parser.add_argument("--per-cell", type=int, default=1000, help="images of each cell; default: %(default)s")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="make every N-th image only")
    parser.add_argument("--batch-size", type=int, default=10, help="images at a time; default: %(default)s")
    parser.add_argument("--filter", choices=FILTERS.names(), default="standard", help="what is rejected")
    parser.add_argument("--attempts", type=int, default=20, help="seeds tried for an image; default: %(default)s")
    parser.add_argument(
        "--generator", default="stable_diffusion", choices=GENERATORS.names(), help="default: %(default)s"
    )
    add_model_arguments(parser.add_argument_group("options of models", "stable_diffusion and cdpm"))
    for entry in GENERATORS:
        entry.value.add_arguments(parser.add_argument_group(f"options of {entry.name}", entry.summary))  # type: ignore[arg-type]
    plugins.add_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Make, check or export synthetic images, as the words of the command say; return the exit status."""
    plugins.use_plugins(argv)
    arguments = parse(argv)
    if arguments.list:
        return print_lists()
    if arguments.out is None:
        raise UsageError("--out DIR is missing: the folder of the set")
    if arguments.check:
        return check(arguments.out)
    if arguments.arrays is not None:
        return export(arguments.out, arguments.arrays)
    return generate(arguments)


def print_lists() -> int:
    """Print the data sets with prompts, with their groups, and the generators."""
    from debeton.generate.generators import GENERATORS
    from debeton.generate.prompts import load_prompts, prompt_sets

    print("data sets with prompts:")
    for name, path in prompt_sets().items():
        prompts = load_prompts(path)
        print(f"  {name:<16} {len(prompts.conditions())} cells: {'; '.join(map(str, prompts.conditions()))}")
    print("generators:")
    for entry in GENERATORS:
        print(f"  {entry.name:<16} {entry.summary}")
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Make the images of one shard of the set, and print how many of each group there are."""
    from debeton.generate.contact_sheets import write_contact_sheets
    from debeton.generate.filters import FILTERS
    from debeton.generate.generation import generate_missing
    from debeton.generate.generators import GENERATORS
    from debeton.generate.image_set import ImageSet, Shard
    from debeton.system.log import set_up_logging

    set_up_logging(is_main=True)
    for name in ("per_cell", "batch_size", "attempts", "steps"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value} makes nothing; use 1 or more")
    shard, prompts = Shard.parse(arguments.shard), chosen_prompts(arguments)
    conditions = chosen_conditions(arguments, prompts)
    generator = GENERATORS.get(arguments.generator).make(arguments)
    settings: dict[str, Any] = {
        "set": arguments.set_name or arguments.dataset or prompts.name,
        "generator": arguments.generator,
        **generator.identity,
        "prompts": {"file": prompts.name, "published": arguments.legacy_prompts, "hash": prompts.hash()},
        "filter": arguments.filter,
    }
    image_set = ImageSet(arguments.out, settings, shard)
    generate_missing(
        image_set,
        generator,
        prompts,
        FILTERS.get(arguments.filter),
        conditions=conditions,
        per_condition=arguments.per_cell,
        batch_size=arguments.batch_size,
        progress=sys.stderr.isatty(),
    )
    write_contact_sheets(image_set)
    print_counts(image_set.counts())
    return 0


def chosen_prompts(arguments: argparse.Namespace) -> Any:
    """Return the prompts of --like, --prompts or --dataset; UsageError where there are none."""
    from debeton.generate.prompts import load_prompts, prompt_sets, prompts_from_names
    from debeton.system.errors import nearest

    if arguments.like is not None:
        from debeton.data.beton.reading import open_beton

        return prompts_from_names(open_beton(arguments.like).spec)
    known = prompt_sets()
    if arguments.prompts is None and arguments.dataset not in known:
        name = arguments.dataset
        raise UsageError(
            f"no prompts for the data set '{name}'{nearest(str(name), known)} known: {', '.join(known)}; "
            "give your own with --prompts FILE"
        )
    path = arguments.prompts or known[arguments.dataset]
    return load_prompts(path, arguments.label, arguments.attribute, published=arguments.legacy_prompts)


def chosen_conditions(arguments: argparse.Namespace, prompts: Any) -> Any:
    """Return the conditions of --cells, or all; UsageError names the first cell that does not exist."""
    from debeton.system.errors import nearest

    conditions = prompts.conditions(blind=arguments.blind)
    if not arguments.cells:
        return conditions
    by_name = {str(condition): condition for condition in conditions}
    wanted = [", ".join(part.strip() for part in cell.split(",")) for cell in arguments.cells.split(";")]
    for name in wanted:
        if name not in by_name:
            raise UsageError(f"--cells: unknown cell '{name}'{nearest(name, by_name)} known: {'; '.join(by_name)}")
    return [by_name[name] for name in wanted]


def check(folder: Path) -> int:
    """Print how many images the set has, and verify their hashes; DataError names what is wrong."""
    from debeton.data.raw.synthetic_images import manifest_files
    from debeton.generate.image_set import SETTINGS, ImageSet, read_settings, unlisted, verify

    if not manifest_files(folder) or not (folder / SETTINGS).is_file():
        raise DataError(f"{folder} is no set of generated images: it has no {SETTINGS} and no manifest")
    settings, wrong = read_settings(folder), verify(folder)
    print_counts(ImageSet(folder, settings).counts())
    if wrong:
        raise DataError(
            "; ".join(wrong[:5])
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            + ". Remove the lines of images that are missing or changed, and the same command makes them again"
        )
    if lost := unlisted(folder):
        raise DataError(
            f"{count(len(lost), 'image')} of {folder} {'is' if len(lost) == 1 else 'are'} in no manifest, the first is "
            f"{lost[0]}: a run was killed, or a manifest was cut short; the command that made the set makes them again"
        )
    return 0


def export(folder: Path, out: Path) -> int:
    """Write the images as CLASS.npy, and print the paths."""
    from debeton.generate.arrays import write_arrays

    for path in write_arrays(folder, out):
        print(path)
    return 0


def print_counts(counts: dict[str, dict[str, int]]) -> None:
    """Print how many images each group has, and how many were rejected for what."""
    for condition, verdicts in counts.items():
        rejected = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items() if verdict != "keep")
        print(f"{condition}: {verdicts.get('keep', 0)} images" + (f" ({rejected} rejected)" if rejected else ""))
