"""The images that a run draws from its diffusion model, or is given, as a view of synthetic rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.raw.generated import generated_rows
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.diffusion.copies import copy_check
from debeton.generate.contact_sheets import write_contact_sheets
from debeton.generate.filters import FILTERS
from debeton.generate.generation import generate_missing
from debeton.generate.generators.cdpm import CdpmGenerator
from debeton.generate.image_set import ImageSet, Shard
from debeton.generate.prompts import prompts_from_names
from debeton.nets.checkpoint import load_weights
from debeton.nets.models import make_model
from debeton.nets.transfer import read_source
from debeton.system import distributed
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger
from debeton.train.evaluation import evaluate_view
from debeton.train.run import Run
from debeton.train.run_loaders import loader_options

FOLDER, BETON = "synthetic", "synthetic.beton"  # in the run's folder
COMPARED_AT = 32  # pixels at which generated images are compared with training images


def draw_images(run: Run, model: Path) -> Path:
    """Draw the images that section 'ddb' asks for from the diffusion model of a folder; returns the set's folder.

    What is there already is kept (`generate/image_set.py`); processes draw a part each. Preempted where the run was
    asked to stop.
    """
    settings, spec = run.config.ddb, _own_spec(run)
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
    shard = Shard(distributed.rank() + 1, distributed.world_size())
    image_set = ImageSet(run.folder / FOLDER, described, shard)
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


def synthetic_view(run: Run, folder: Path) -> View:
    """The images of a folder (any layout of `data/generated.py`) as a view with the training view's labels.

    They are written to a beton in the run's folder first. DataError where a class has fewer than two images.
    """
    spec, path = _own_spec(run), run.folder / BETON
    if not folder.is_dir():
        raise UsageError(f"ddb.images: there is no folder {folder}")
    if distributed.is_main() and not path.exists():
        options = WriteOptions(mode="raw", num_workers=run.config.training.num_workers)
        write_beton(path, generated_rows(folder, spec), spec, "synthetic", options, progress=run.progress)
    distributed.barrier()
    view = View.whole(open_beton(path), "synthetic")
    counts = np.bincount(view.label, minlength=spec.num_classes)
    few = [f"{name} has {n}" for name, n in zip(spec.classes, counts.tolist(), strict=True) if n < 2]
    if few:
        raise DataError(
            f"{folder} holds too few images: {'; '.join(few[:5])}{'; ...' if len(few) > 5 else ''}; an amplifier needs "
            "some hundred of every class, and two at the least. Draw more with "
            "writers/generate_images.py --generator cdpm --blind --per-cell 1000"
        )
    return replace(view, spec=spec)


def describe_images(run: Run, synthetic: View) -> dict[str, Any]:
    """What is known of the images, plain values: how many, how near they are to training images (`copy_check`), and
    with an oracle of the attribute the share that is bias-aligned, of all and by class."""
    found: dict[str, Any] = {"rows": len(synthetic)}
    settings, train = run.config.ddb, run.views["train"]
    if settings.copy_check and distributed.is_main():
        options = loader_options(run.config, run.device)
        options = replace(options, decoder="resized", resolution=COMPARED_AT, rank=0, world=1)
        found |= copy_check(train, synthetic, options, picture=run.folder / "nearest_images.png")
        logger.info(
            "images: %.1f %% are nearer to a training image than 99 %% of these are to each other",
            100 * found["copies"],
        )
    if settings.oracle:
        found |= oracle_says(run, synthetic, Path(settings.oracle))
    return found


def oracle_says(run: Run, synthetic: View, path: Path) -> dict[str, Any]:
    """The share of synthetic rows whose attribute, as an oracle sees it, goes with their class: bias-aligned.

    The oracle is the checkpoint of a run with the attribute for its label. UsageError where it is none of this set's.
    """
    source, spec = read_source(path), synthetic.spec
    if not spec.aligned or source.num_classes != len(spec.attributes):
        raise UsageError(
            f"ddb.oracle {path} tells {source.num_classes} values, and {spec.name} has {len(spec.attributes)} "
            f"attributes{'' if spec.aligned else ', of which none is said to go with a class'}; train it with "
            f"--data.label {spec.attribute_name}"
        )
    network = make_model(source.arch, source.num_classes, blurpool=source.blurpool)
    load_weights(network, source.weights, path, source.arch)
    asked = synthetic.with_task(spec.attribute_name, spec.label_name)  # the attribute is what it answers
    asked = replace(asked, spec=replace(asked.spec, mean=source.mean, std=source.std))
    attribute = evaluate_view(run, network.to(run.device), asked).predicted.numpy()
    aligned = spec.is_aligned(synthetic.label, attribute)
    assert aligned is not None
    by_class = {name: float(aligned[synthetic.label == k].mean()) for k, name in enumerate(spec.classes)}
    logger.info("oracle: %.1f %% of the images are bias-aligned", 100 * aligned.mean())
    return {"aligned_share": float(aligned.mean()), "aligned_share_by_class": by_class}


def _own_spec(run: Run) -> DatasetSpec:
    """The training view's names under the set's own attributes."""
    train = run.views["train"]
    return (train.true_groups or train).spec
