"""Give hostile pickles to every reader of foreign files, and print a JSON line for each answer.

python hostile_readers.py FOLDER. A file that ends the interpreter leaves the lines after it out.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.pickle_payloads import ARRAYS, TENSORS, WORDS, archive, program

from debeton.commands import predict
from debeton.data.raw.shipped_splits import read_shipped_splits
from debeton.data.sources import SOURCES
from debeton.data.views.row_lists import read_index_lists
from debeton.nets.checkpoint import load_checkpoint, load_counters
from debeton.nets.weight_files import read_weight_file
from debeton.system.errors import run_command

MEMORY = 24 << 30  # more addresses than a reader needs, fewer than the files ask for


def _cifar(folder: Path, content: bytes, part: str, name: str, values: Any) -> None:
    """CIFAR's batches, one of which is the hostile file."""
    root = folder / name
    root.mkdir(exist_ok=True)
    files = ("batches.meta", *(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    for file in files if name.startswith("cifar-10-") else ("meta", "train", "test"):
        (root / file).write_bytes(content if file == part else program(values))
    source = SOURCES.get("cifar10" if name.startswith("cifar-10-") else "cifar100")
    source.load(source.request(folder))


def cifar10(folder: Path, content: bytes) -> None:
    _cifar(folder, content, "batches.meta", "cifar-10-batches-py", {"label_names": []})


def cifar100(folder: Path, content: bytes) -> None:
    _cifar(folder, content, "meta", "cifar-100-python", {"fine_label_names": []})


def shipped_splits(folder: Path, content: bytes) -> None:
    for split in ("train", "valid", "test"):
        (folder / f"x_{split}_0.9.pkl").write_bytes(content)
    read_shipped_splits({"ffr_splits": folder, "ffr_rate": "0.9"}, "x", [])


def metashift(folder: Path, content: bytes) -> None:
    (folder / "val_out_of_domain").mkdir(exist_ok=True)
    (folder / "train").mkdir(exist_ok=True)
    (folder / "imageID_to_group.pkl").write_bytes(content)
    source = SOURCES.get("metashift")
    source.load(source.request(folder, form="mixed"))


def _torch(read: Callable[[Path], Any]) -> Callable[[Path, bytes], None]:
    def read_file(folder: Path, content: bytes) -> None:
        (folder / "file.pt").write_bytes(content)
        read(folder / "file.pt")

    return read_file


PICKLES = {"cifar10": cifar10, "cifar100": cifar100, "shipped splits": shipped_splits, "metashift": metashift}
ARCHIVES = {
    "checkpoint": _torch(load_checkpoint),
    "counters": _torch(load_counters),
    "weights": _torch(read_weight_file),
    "index lists": _torch(read_index_lists),
    "predict": _torch(lambda path: predict.main(["--checkpoint", str(path), "--images", str(path.parent)])),
}


def main() -> None:
    folder = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sets: list[tuple[dict[str, Any], dict[str, Any], Callable[[Any], bytes]]] = [
        (PICKLES, ARRAYS, lambda payload: program({"filenames": payload})),
        (ARCHIVES, ARRAYS | TENSORS, lambda payload: archive({"train_indices": payload}, WORDS)),
    ]
    for readers, payloads, written in sets:
        for reader, read in readers.items():
            place = folder / reader
            place.mkdir()
            for name, payload in payloads.items():
                status = run_command(partial(read, place, written(payload)))
                print(json.dumps({"reader": reader, "file": name, "status": status}), flush=True)


if __name__ == "__main__":
    main()
