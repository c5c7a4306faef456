"""Weight files of this and of other programs: found in run folders, and read as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from debeton.data.beton.sidecar import IMAGE_OPTIONS
from debeton.nets.checkpoint import BEST_NAME, CHECKPOINT_FOLDER, load_checkpoint
from debeton.system.digests import check_files, check_kept
from debeton.system.errors import DataError, UsageError, first_names
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null
from debeton.system.log import logger
from debeton.system.regular_files import require_regular
from debeton.system.zip_checksums import ANOTHER_COPY

WEIGHTS, CARD = "model.safetensors", "model.json"  # of an exported model
CHANNELS = ListOf(float, 3)
CARD_CONTENT = Table(
    keys={
        "model": Table(
            keys={"arch": str, "num_classes": Within(int, 1), "mean": CHANNELS, "std": CHANNELS},
            may={"blurpool": bool, "config": dict},
        ),
        "inputs": Table(
            keys={
                "dataset": str,
                "classes": ListOf(str),
                "resolution": Within(int, 1, 1 << 16),
                "decoder": str,
                "tta": bool,
            },
            may={"images": or_null(IMAGE_OPTIONS)},
        ),
    },
    may={"phase": or_null(str), "trained_on": or_null(dict), "run": or_null(dict)},
)
# The keys under which programs keep the weights of a network beside other things, the likeliest first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module", "model_dict")


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    path: the file.
    weights: tensors by name.
    content: what the file holds beside them. A file of this project describes its network under 'model'.
    """

    path: Path
    weights: Mapping[str, Tensor]
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Mapping[str, Any] | None:
        """Return the description of the network; None in a file of another program."""
        network = self.content.get("model")
        return network if isinstance(network, Mapping) and "arch" in network else None


def read_weight_file(path: Path, names: Sequence[str] = (BEST_NAME,)) -> WeightFile:
    """Read a file of weights: a checkpoint of a run, an exported model, or a file of another program.

    path: a file of torch.save or safetensors, or a folder as `find_weight_file` takes it.
    names: the checkpoints to look for in a run folder, the first one first.

    A file NAME.sha256 beside it is compared with it: safetensors has no checksums of its own.

    FileNotFoundError if there is none. DataError if the file is damaged, holds no weights, or holds code.
    """
    file = find_weight_file(path, names)
    check_kept(file, ANOTHER_COPY)
    if file.suffix == ".safetensors":
        card = file.with_name(CARD)
        content = read_card(card) if file.name == WEIGHTS and card.is_file() else {}
        return WeightFile(file, _read_safetensors(file), content)
    content = load_checkpoint(file)
    weights = content.get("state_dict")
    if isinstance(weights, Mapping) and isinstance(content.get("model"), Mapping) and "arch" in content["model"]:
        return WeightFile(file, weights, content)
    return WeightFile(file, _unwrapped(file, content), {k: v for k, v in content.items() if k != "model"})


def find_weight_file(path: Path, names: Sequence[str] = (BEST_NAME,)) -> Path:
    """Return the weight file that a path means.

    It may be the file, a run folder, its folder of checkpoints, an exported model, or the folder of an experiment. Of
    several finished versions in the folder of an experiment the last one is taken, and a line says so.

    FileNotFoundError if there is nothing. UsageError if the folder holds several runs of which none is the last one.
    """
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint at {path}")
        return path
    file = _file_in(path, names)
    if file is not None:
        return file
    runs = _runs_below(path, names)
    if not runs:
        raise FileNotFoundError(
            f"no checkpoint at {path}: a run folder has {CHECKPOINT_FOLDER}/{names[0]}, an exported model has "
            f"{WEIGHTS}; name the file itself if it has another name"
        )
    finished = [run for run in runs if (run / "results.json").is_file()]
    if len(runs) > 1 and (len({run.parent for run in runs}) > 1 or not finished):
        raise UsageError(
            f"{path} holds {len(runs)} {'runs' if finished else 'unfinished runs'}, and it is not said which one is "
            f"meant; name one of them: {first_names([str(run) for run in runs])}"
        )
    chosen = (finished or runs)[-1]
    logger.info(
        "%s stands for its %srun %s%s",
        path,
        "only " if len(runs) == 1 else "last finished ",
        chosen.name,
        "" if len(runs) == 1 else f" (others: {', '.join(run.name for run in runs if run != chosen)})",
    )
    file = _file_in(chosen, names)
    assert file is not None
    return file


def _file_in(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the weight file of a run folder, a folder of checkpoints or an exported model, or None."""
    places = [folder / part / name for name in names for part in (CHECKPOINT_FOLDER, "")]
    if (folder / CARD).is_file():
        return folder / WEIGHTS
    return next((place for place in places if place.is_file()), None)


def _runs_below(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the run folders one or two levels below, by experiment and number of the version."""
    found = [run for pattern in ("version_*", "*/version_*") for run in folder.glob(pattern) if _file_in(run, names)]
    return sorted(found, key=lambda run: (str(run.parent), _version(run)))


def _version(run: Path) -> int:
    number = run.name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1


def read_card(card: Path) -> dict[str, Any]:
    """Return the description of an exported model, with 'model' and 'inputs'. DataError if it is damaged."""
    remedy = "export the model again"
    found: dict[str, Any] = read_json(card, CARD_CONTENT, remedy=remedy)
    check_files(card, found, remedy)
    return found


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file. DataError if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_regular(file)
        return dict(load_file(file))
    except (SafetensorError, ValueError, FileNotFoundError) as error:
        what = f"{file.parent} is no exported model" if file.name == WEIGHTS else f"{file} is no safetensors file"
        raise DataError(f"{what}, or is damaged ({type(error).__name__}: {error})") from None


def _unwrapped(file: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in a file of another program, which may keep them under a key such as 'state_dict'.

    DataError if there are none, or several tables of them under unknown keys.
    """
    tables = {key: _tensors(value) for key, value in content.items() if isinstance(value, Mapping) and _tensors(value)}
    if own := _tensors(content):
        return own
    known = [key for key in WRAPPERS if key in tables]
    if known or len(tables) == 1:
        return tables[known[0]] if known else next(iter(tables.values()))
    keys = first_names([str(key) for key in content])
    raise DataError(
        f"{file} is no checkpoint of a run, and holds no weights that are known by their key (it has: {keys}); save "
        "the network's state_dict(), alone or under the key 'state_dict'"
    )


def _tensors(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of a table by name."""
    return {key: value for key, value in table.items() if isinstance(key, str) and isinstance(value, Tensor)}
