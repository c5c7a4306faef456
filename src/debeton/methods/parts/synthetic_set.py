"""The synthetic images of a run, drawn from its diffusion model or given, as a view of rows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.raw.synthetic_images import manifest_files, read_synthetic_rows
from debeton.data.spec import DatasetSpec, Ints
from debeton.data.views.view import View
from debeton.diffusion.copies import copy_check
from debeton.diffusion.model import load_model, make_schedule, model_folder
from debeton.diffusion.sampling import steps_of
from debeton.generate.contact_sheets import write_contact_sheets
from debeton.generate.filters import FILTERS
from debeton.generate.generation import generate_missing
from debeton.generate.generators.cdpm import CdpmGenerator
from debeton.generate.generators.generator import folder_hash
from debeton.generate.image_set import SETTINGS, ImageSet, Shard, read_lines, read_settings
from debeton.generate.prompts import prompts_from_names
from debeton.methods.cdpm import CdpmSettings
from debeton.methods.parts.ddb_settings import DdbSettings
from debeton.nets.models import rebuild
from debeton.nets.transfer import Source, read_source
from debeton.nets.weight_fitting import load_weights
from debeton.system import distributed
from debeton.system.errors import DataError, UsageError
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.leftovers import SUFFIX, make_partial_folder
from debeton.system.log import logger
from debeton.train.evaluation import evaluate_view
from debeton.train.phase import link_or_copy
from debeton.train.run import Run
from debeton.train.run_folder import other_folders
from debeton.train.run_loaders import loader_options

FOLDER, BETON = "synthetic", "synthetic.beton"  # in the run's folder
COMPARED_AT = 32  # pixels at which generated images are compared with training images


def draw_images(run: Run, model: Path) -> Path:
    """Draw the images of section 'ddb' from a diffusion model, and return the folder of the image set.

    Images that are there already stay (`generate/image_set.py`). Each process draws a part. Stop where the run was
    asked to stop; the same command then draws the rest.

    model: the folder of the diffusion model, or a run's folder that holds one.
    """
    settings, spec = run.config.section(DdbSettings), _own_spec(run)
    maker = CdpmGenerator(
        model,
        sampler=settings.sampler,
        steps=settings.steps,
        w=settings.guidance_w,
        clip=settings.clip,
        device=str(run.device),
    )
    prompts = prompts_from_names(spec)
    described = {
        "set": f"{spec.name} seed {run.config.training.seed}",
        "generator": "cdpm",
        **maker.identity,
        "model": "cdpm",
        "filter": settings.filter,
    }
    if distributed.is_main():
        _take_over_images(run, described)
    distributed.barrier()
    shard = Shard(distributed.rank() + 1, distributed.world_size())
    image_set = ImageSet(run.folder / FOLDER, described, shard)
    logger.info("drawing images: %d of each of %d classes", settings.per_class, len(spec.classes))
    generate_missing(
        image_set,
        maker,
        prompts,
        FILTERS.get(settings.filter),
        conditions=prompts.conditions(blind=True),
        per_condition=settings.per_class,
        batch_size=settings.generation_batch,
        progress=run.progress,
        stopped=lambda: bool(run.stop.signum),
    )
    run.leave_if_asked()
    distributed.barrier()
    if distributed.is_main():
        write_contact_sheets(ImageSet(run.folder / FOLDER, described, shard))
    distributed.barrier()
    return run.folder / FOLDER


def _take_over_images(run: Run, described: Mapping[str, Any]) -> None:
    """Link the images of another run of this experiment, if the same model drew them with the same settings.

    described: settings of the image set, as generator.json has them. The seed of an image is a hash of the set and its
        number. So these images are those that this run would draw.
    """
    own, per_class = run.folder / FOLDER, run.config.section(DdbSettings).per_class
    for folder in other_folders(run.config, run.folder) if not own.exists() else ():
        other = folder / FOLDER
        try:
            if not (other / SETTINGS).is_file() or read_settings(other) != described:
                continue
            if any(line["number"] >= per_class for path in manifest_files(other) for line in read_lines(path)):
                continue  # images beyond ddb.per_class would be used too
        except DataError as error:
            logger.warning("warning: %s. The images of that run are not taken over", error)
            continue
        with naming_failed_writes(own):
            partial = make_partial_folder(own)
            try:
                _copy_set(other, partial)
                partial.rename(own)
            finally:
                shutil.rmtree(partial, ignore_errors=True)  # nothing where it was renamed
        logger.info("images that the same model drew in %s are taken from there", other)
        return


def _copy_set(folder: Path, copy: Path) -> None:
    """Link the images of a set, which never change, and copy its other files.

    The first error is raised.
    """
    for source in sorted(folder.rglob("*")):
        target = copy / source.relative_to(folder)
        if source.suffix == SUFFIX or source.name.startswith("."):
            continue  # of a process that writes there now
        if source.is_dir():
            target.mkdir()
        elif source.suffix == ".png" and "sheets" not in source.parts:
            link_or_copy(source, target)
        else:
            shutil.copyfile(source, target)


def synthetic_view(run: Run, folder: Path) -> View:
    """Return the images of a folder as a view with the training view's labels.

    The images are written to a beton in the run's folder first. Raise DataError where a class has fewer than two
    images, or where an earlier start of this run wrote the beton from other images.

    folder: of any layout that `data/raw/synthetic_images.py` reads.
    """
    spec, path = _own_spec(run), run.folder / BETON
    made_of = folder_hash(folder) if distributed.is_main() else ""
    if distributed.is_main() and not path.exists():
        options = WriteOptions(mode="raw", num_workers=run.config.training.num_workers)
        rows, of_images = read_synthetic_rows(folder, spec), {"images": made_of}
        write_beton(path, rows, spec, "synthetic", options, dataset_options=of_images, progress=run.progress)
    distributed.barrier()
    beton = open_beton(path)
    if distributed.from_main(made_of) != (beton.sidecar.get("dataset_options") or {}).get("images"):
        raise DataError(
            f"{path} was made of other images than those that are in {folder} now, and phases of this run may have "
            "learnt from them; put the old images back, or give the run another --training.exp_name"
        )
    view = View.whole(beton, "synthetic")
    _check_counts(folder, view.label, spec)
    return replace(view, spec=spec)


def check_images(run: Run, folder: Path) -> None:
    """Raise DataError where the images of a given folder cannot train an amplifier; UsageError without the folder."""
    if not folder.is_dir():
        raise UsageError(f"ddb.images: there is no folder {folder}")
    spec = _own_spec(run)
    _check_counts(folder, read_synthetic_rows(folder, spec).label, spec)


def count_images(run: Run, folder: Path) -> int:
    """Return the number of images in a given folder. Errors as in `check_images`."""
    check_images(run, folder)
    return len(read_synthetic_rows(folder, _own_spec(run)).label)


def _check_counts(folder: Path, label: Ints, spec: DatasetSpec) -> None:
    """Raise DataError where a class has fewer than two images. label: code of each image, [N]."""
    counts = np.bincount(label, minlength=spec.num_classes)
    few = [f"{name} has {n}" for name, n in zip(spec.classes, counts.tolist(), strict=True) if n < 2]
    if few:
        raise DataError(
            f"{folder} holds too few images: {'; '.join(few[:5])}{'; ...' if len(few) > 5 else ''}; an amplifier needs "
            "some hundred images of every class, and at least two. Draw more with "
            "writers/generate_images.py --generator cdpm --blind --per-cell 1000"
        )


def check_drawing(run: Run, model: Path | None) -> None:
    """Check that the images of section 'ddb' can be drawn from a diffusion model.

    model: as of `draw_images`; None where phase 'cdpm' trains it.

    UsageError: the sampler has more steps than the model, or the model does not know a class.
    """
    settings, spec = run.config.section(DdbSettings), _own_spec(run)
    if model is None:
        own = run.config.section(CdpmSettings)
        schedule = make_schedule(own.prediction, own.steps)
    else:
        _, schedule, conditions = load_model(model_folder(model))
        conditions.codes([(label, None) for label in spec.classes])
    steps_of(schedule, settings.sampler, settings.steps)


def describe_images(run: Run, synthetic: View) -> dict[str, Any]:
    """Return plain values about the images: how many, how many are copies, and how many are bias-aligned.

    rows: the number of images.
    copies and others: how near images are to training images (`copy_check`), if ddb.copy_check is on.
    aligned_share, aligned_share_by_class: as an oracle of the attribute says, if ddb.oracle is given.
    """
    description: dict[str, Any] = {"rows": len(synthetic)}
    settings, train = run.config.section(DdbSettings), run.views["train"]
    if settings.copy_check and distributed.is_main():
        options = loader_options(run.config, run.device)
        options = replace(options, decoder="resized", resolution=COMPARED_AT, rank=0, world=1)
        description |= copy_check(train, synthetic, options, picture=run.folder / "nearest_images.png")
        logger.info(
            "images: %.1f %% are nearer to a training image than 99 %% of the training images are to each other",
            100 * description["copies"],
        )
    if settings.oracle:
        description |= aligned_share(run, synthetic, Path(settings.oracle))
    return description


def aligned_share(run: Run, synthetic: View, path: Path) -> dict[str, Any]:
    """Return the share of the synthetic rows that are bias-aligned by an oracle's attribute: of all, and by class.

    The oracle is the checkpoint of a run with the attribute as its label. Errors as in `read_oracle`.
    """
    network, source = read_oracle(path, synthetic.spec)
    spec = synthetic.spec
    view = synthetic.with_task(spec.attribute_name, spec.label_name)  # the oracle predicts the attribute
    view = replace(view, spec=replace(view.spec, mean=source.mean, std=source.std))
    attribute = evaluate_view(run, network.to(run.device), view).predicted.numpy()
    aligned = spec.is_aligned(synthetic.label, attribute)
    assert aligned is not None
    by_class = {name: float(aligned[synthetic.label == k].mean()) for k, name in enumerate(spec.classes)}
    logger.info("oracle: %.1f %% of the images are bias-aligned", 100 * aligned.mean())
    return {"aligned_share": float(aligned.mean()), "aligned_share_by_class": by_class}


def check_oracle(run: Run, path: Path) -> None:
    """Check that the oracle can be read and fits the data set. Errors as in `read_oracle`."""
    read_oracle(path, _own_spec(run))


def read_oracle(path: Path, spec: DatasetSpec) -> tuple[nn.Module, Source]:
    """Return the oracle's network and what it was trained from. UsageError where it does not fit the data set."""
    source = read_source(path)
    if not spec.aligned or source.num_classes != len(spec.attributes):
        raise UsageError(
            f"ddb.oracle {path} tells {source.num_classes} values apart, and {spec.name} has {len(spec.attributes)} "
            f"attributes{'' if spec.aligned else ', none of which is said to go with a class'}; train the oracle with "
            f"--data.label {spec.attribute_name}"
        )
    network = rebuild(source.network)
    load_weights(network, source.weights, source.path, source.arch)
    return network, source


def _own_spec(run: Run) -> DatasetSpec:
    """Return the training view's specification with the data set's own attributes."""
    train = run.views["train"]
    return (train.true_groups or train).spec
