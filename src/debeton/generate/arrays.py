"""Export of an image set to one array per class.

The released code and the captioner of Diffusing DeBias (arXiv 2502.09564) read this layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from debeton.data.beton.image_decoding import BadImage
from debeton.data.beton.images import to_rgb
from debeton.data.raw.synthetic_images import BLIND, RESERVED_ARRAYS, read_synthetic_rows
from debeton.data.spec import Ints, Rows
from debeton.generate.image_set import spec_from_folder
from debeton.system.digests import digest_beside, file_digest, keep_digest
from debeton.system.errors import DataError, UsageError
from debeton.system.file_names import file_name
from debeton.system.files import replacing


def write_arrays(folder: Path, out: Path) -> list[Path]:
    """Write the images of every class to CLASS.npy in `out`, and return the paths of the arrays.

    Each array is uint8 [N, H, W, 3], in the order of the image paths. CLASS.npy.sha256 keeps its digest.
    `read_synthetic_rows` reads the arrays again.

    folder: an image set in any layout that `read_synthetic_rows` reads.
    out: folder for the arrays.

    UsageError: the prompts of the set named attributes, which the arrays cannot hold.
    DataError: the images of a class differ in size, or one cannot be read.
    """
    spec = spec_from_folder(folder)
    rows = read_synthetic_rows(folder, spec)
    if not np.all(rows.columns[BLIND]):
        raise UsageError(
            f"{folder} was made by cells ({', '.join(spec.attributes[:4])}), and arrays hold classes alone; give this "
            "folder to write_betons.py --synthetic instead"
        )
    label = np.asarray(rows.label)
    return [
        _write_class(rows, np.flatnonzero(label == code), out / f"{file_name(name, RESERVED_ARRAYS)}.npy")
        for code, name in enumerate(spec.classes)
        if (label == code).any()
    ]


def _write_class(rows: Rows, members: Ints, path: Path) -> Path:
    """Write one array, image by image, because a set may be larger than memory; then its digest beside it."""
    shape = _pixels(rows, members[0]).shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(members), *shape)}
    with replacing(path) as (partial,):
        with partial.open("wb") as file:  # through a map, a full disk would end the process by SIGBUS
            np.lib.format.write_array_header_1_0(file, header)
            for row in members:
                pixels = _pixels(rows, row)
                if pixels.shape != shape:
                    first = rows.names[members[0]]
                    raise DataError(
                        f"{rows.names[row]} is {pixels.shape[1]} x {pixels.shape[0]} pixels, and {first} is {shape[1]} "
                        f"x {shape[0]}; an array holds one size: resize the images of the class"
                    )
                file.write(pixels.tobytes())
        digest = file_digest(partial)
        digest_beside(path).unlink(missing_ok=True)  # of an older array, which is replaced now
    keep_digest(path, digest)
    return path


def _pixels(rows: Rows, row: int) -> np.ndarray:
    try:
        return to_rgb(rows.image(int(row)))
    except (OSError, BadImage) as error:
        raise DataError(f"{rows.names[row]} cannot be read ({error})") from None
