"""Your own tar shards, as the library webdataset writes them: KEY.jpg beside KEY.cls, KEY.txt or KEY.json.

Licence: that of the data set. RAW is one .tar, or a folder with shards at any depth; .tar.gz is unpacked to a temporary
file. A shard or its folder names its split: `train-000000.tar`, `imagenet-val-000012.tar`, `test/0.tar`. A shard that
names none is train.

The label is KEY.cls, or else a key of KEY.json such as 'label', or else the text in KEY.txt. `--label` and
`--attribute` name another: 'cls', 'txt', or a key of the JSON file, 'outer.inner' where it is nested. Every other
single value is kept beside. `classnames.txt` in RAW, one name a line, names the numbers of KEY.cls.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from debeton.data.left_out import left_out
from debeton.data.raw.labelled_splits import LabelledRows, make_dataset, naming_options
from debeton.data.raw.layout import raw_folder
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tar_shards import CLS, TXT, find_shards, read_samples, split_of_shard
from debeton.data.raw.value_table import LABEL
from debeton.data.spec import RawImage
from debeton.system.errors import DataError
from debeton.system.regular_files import read_regular_text

CLASS_NAMES = "classnames.txt"


@register_source(
    "webdataset",
    "your own tar shards of KEY.jpg with KEY.cls, KEY.txt or KEY.json",
    "it is yours: --raw names a .tar, or the folder with the shards",
    (
        Option(
            "label", str, "", "'cls', 'txt' or a key of the JSON files, with the class (default: the first there is)"
        ),
        Option("attribute", str, "", "the same, with the spurious attribute (default: by name, else none)"),
        *naming_options("webdataset"),
    ),
)
def load(request: Request) -> Dataset:
    raw = raw_folder(request, "webdataset")
    found = read_samples(find_shards(raw))
    samples = [sample for sample in found if sample.image is not None]
    if not samples:
        raise DataError(f"{raw}: none of {len(found)} samples holds an image; expected KEY.jpg, KEY.png or the like")
    names = dict.fromkeys(name for sample in samples for name in sample.values)
    columns = {name: [sample.values.get(name) for sample in samples] for name in names}
    if not columns:
        raise DataError(f"{raw}: no sample has a label; expected KEY.cls, KEY.txt or KEY.json beside each image")

    def read(row: int) -> RawImage:
        sample = samples[row]
        return sample.shard.read(*(sample.image or (0, 0)))

    class_names = _class_names(raw)
    options = {**request.options}
    if not options[LABEL] and CLS in columns:
        options[LABEL] = CLS
    elif not options[LABEL] and list(columns) == [TXT]:
        options[LABEL] = TXT
    rows = LabelledRows(
        str(raw),
        columns,
        {CLS: class_names} if class_names else {},
        [split_of_shard(sample.shard.name) for sample in samples],
        [sample.name for sample in samples],
    )
    dataset = make_dataset(replace(request, options=options), rows, read)
    without = [sample.name for sample in found if sample.image is None]
    return replace(dataset, left_out=left_out("samples without an image", without))


def _class_names(raw: Path) -> tuple[str, ...]:
    """Return the names in classnames.txt beside the shards; () without that file."""
    path = (raw if raw.is_dir() else raw.parent) / CLASS_NAMES
    lines = read_regular_text(path).splitlines() if path.is_file() else []
    return tuple(line.strip() for line in lines if line.strip())
