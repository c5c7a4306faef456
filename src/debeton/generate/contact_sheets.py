"""Contact sheets: overview pictures of an image set, to look at before hours of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from debeton.data.beton.image_decoding import Limits, open_image, read_bytes, scale_in_eighths
from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.generate.image_set import ImageSet
from debeton.generate.prompts import Condition
from debeton.system.file_names import Root, file_name
from debeton.system.files import replacing
from debeton.system.seed import derive_seed

THUMBNAIL, CAPTION = 128, 14  # pixels: the longer side of a small image, and the height of its caption
COLUMNS, ROWS = 8, 4  # images in a row, and rows of a sheet


def write_contact_sheets(image_set: ImageSet) -> list[Path]:
    """Write sheets/CLASS_ATTRIBUTE.png for every condition that has images, and return their paths.

    A sheet shows the first COLUMNS x ROWS images, each with its seed below it where the manifest says one.

    DataError: a line of the manifest names an image outside of the set's folder.
    """
    kept_images: dict[Condition, list[tuple[int, str, str]]] = {}  # (number, path, seed)
    for line in image_set.lines:
        if line["verdict"] == ACCEPTED:
            condition = Condition(line["label"], line["attribute"])
            seed = "" if line.get("seed") is None else str(line["seed"])
            kept_images.setdefault(condition, []).append((line["number"], line["path"], seed))
    sheet_paths, root = [], Root(image_set.folder)
    for condition, name in _sheet_names(kept_images).items():
        path = image_set.folder / "sheets" / f"{name}.png"
        first = sorted(kept_images[condition])[: COLUMNS * ROWS]
        shown = [(root.path(p, str(image_set.manifest)), seed) for _, p, seed in first]
        with replacing(path) as (partial,):
            _sheet(str(condition), shown).save(partial, format="png")
        sheet_paths.append(path)
    return sheet_paths


def _sheet_names(conditions: Iterable[Condition]) -> dict[Condition, str]:
    """Return a name for the sheet of each condition. Where two would be the same, they end in a hash."""
    names = {one: file_name(f"{one.label}_{one.attribute or 'any'}") for one in conditions}
    alike = [name for name, count in Counter(names.values()).items() if count > 1]
    return {one: f"{name}_{derive_seed(one):016x}" if name in alike else name for one, name in names.items()}


def _sheet(title: str, images: list[tuple[Path, str]]) -> Image.Image:
    """Draw one sheet. images: (file, seed) of each image."""
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (THUMBNAIL + 4) + 4, rows * (THUMBNAIL + CAPTION + 4) + 24), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    draw.text((6, 4), title, "black", ImageFont.load_default(14))
    for k, (path, seed) in enumerate(images):
        x = 4 + (k % COLUMNS) * (THUMBNAIL + 4)
        y = 24 + (k // COLUMNS) * (THUMBNAIL + CAPTION + 4)
        with open_image(read_bytes(path)) as image:
            scale_in_eighths(image, Limits())  # refuses too many pixels
            scale = THUMBNAIL / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            sheet.paste(image.resize(size, kind), (x, y))
        draw.text((x, y + THUMBNAIL), seed, "black", font)
    return sheet
