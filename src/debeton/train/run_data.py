"""The data of a run, named by hashes: a run folder belongs to the betons that its first epoch saw.

data.json of a run folder, every checkpoint and results.json name the beton of each split by the hashes of its parts
(`data/beton/content.py`). A run that is resumed or evaluated compares them with the betons that lie there now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from debeton.data.beton.content import PARTS, code_hashes, differing_parts, in_words
from debeton.data.views.view import View
from debeton.nets.checkpoint import CHECKPOINT_FOLDER
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.train.result_files import RUN_DATA, damaged_results, is_finished, read_results

DATA_NAME = "data.json"
RunData = dict[str, dict[str, str]]  # by split: 'file', the name of the beton, and the hash of each part


def describe_data(views: Mapping[str, View]) -> RunData:
    """Return the name and the hashes of each view's beton, by split.

    Several processes must see the same data. DataError, in all of them, where one sees other data or where a beton does
    not hold what its sidecar names.
    """
    described: RunData = {}
    problem = ""
    try:
        described = _describe(views) if distributed.is_main() else {}
    except (DataError, OSError) as error:
        problem = str(error)
    distributed.raise_together(problem)
    described = json.loads(distributed.from_main(json.dumps(described)))
    own = {split: view.beton for split, view in views.items()}
    for split, beton in own.items():
        if not beton.has_content:  # of a main process only: reading all images once is enough
            known = {**described[split], **code_hashes(beton.spec, beton.label, beton.attribute)}
            beton.__dict__["content"] = {part: known[part] for part in PARTS}
    distributed.raise_together(_difference(described, _describe(views), "the main process has other data"))
    return described


def _describe(views: Mapping[str, View]) -> RunData:
    for view in views.values():
        view.beton.check_sidecar()
    return {split: {"file": view.beton.path.name, **view.beton.content} for split, view in views.items()}


def check_data(recorded: Mapping[str, Mapping[str, str]] | None, data: RunData, where: str) -> None:
    """Raise DataError if the data of a run is not the recorded one. Nothing recorded is accepted.

    where: the folder or file that holds the record, for the message.
    """
    problem = _difference(recorded or {}, data, f"{where} belongs to other data")
    if problem:
        raise DataError(
            f"{problem}. Write the old betons again to go on with this run, or give the run on the new ones another "
            "--training.exp_name"
        )


def _difference(recorded: Mapping[str, Mapping[str, str]], data: RunData, beginning: str) -> str:
    """Return a sentence that says which splits differ, and in which parts; '' if none does.

    A test split that is not recorded is no difference: a test set may be added later.
    """
    differences = []
    for split in dict.fromkeys((*recorded, *data)) if recorded else ():
        before, now = recorded.get(split), data.get(split)
        if before is None and now is not None and not split.startswith("test"):
            differences.append(f"there was no '{split}' (now {now['file']})")
        elif now is None and before is not None:
            differences.append(f"there is no '{split}' any more (it was {before['file']})")
        elif before is not None and now is not None and (parts := differing_parts(before, now)):
            differences.append(f"the {in_words(parts)} of '{split}' ({now['file']}) are not the same")
    return f"{beginning}: {'; '.join(differences)}" if differences else ""


def recorded_data(folder: Path) -> RunData | None:
    """Return the data that a run folder names; None if an older version of the program wrote it.

    Damaged results are none, as the run makes them anew. DataError if data.json is damaged.
    """
    found: RunData | None = None
    if not damaged_results(folder):
        found = (read_results(folder) or {}).get("data")
    file = folder / DATA_NAME
    if found is None and file.is_file():
        remedy = "without it nobody knows on which data the run was trained; give the run another --training.exp_name"
        found = read_json(file, RUN_DATA, remedy=remedy)
    return found


def check_folder(folder: Path, data: RunData) -> None:
    """Check the data of a run in its folder, and record the data if nothing names it yet.

    A folder in which nothing was trained or evaluated takes any data. DataError as in `check_data`.
    """
    if not _is_begun(folder) or recorded_data(folder) is None:
        if not is_finished(folder):  # the data of an old finished run is not known
            write_text(folder / DATA_NAME, json.dumps(data, indent=1))
        return
    check_data(recorded_data(folder), data, str(folder))


def _is_begun(folder: Path) -> bool:
    """Return whether a run folder holds anything that was made from data."""
    checkpoints = folder / CHECKPOINT_FOLDER
    return any((folder / name).exists() for name in ("results.json", "results.jsonl")) or (
        checkpoints.is_dir() and any(checkpoints.iterdir())
    )
