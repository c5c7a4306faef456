"""Contact sheets: the first images of every cell, each with its seed, to be looked at before hours of training."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.generate.image_set import ImageSet
from debeton.generate.prompts import Condition
from debeton.system.files import replacing

THUMBNAIL, COLUMNS, ROWS, CAPTION = 128, 8, 4, 14


def write_sheets(image_set: ImageSet) -> list[Path]:
    """sheets/CLASS_ATTRIBUTE.png of every condition that has images; returns their paths."""
    kept: dict[Condition, list[tuple[int, str, int]]] = {}
    for line in image_set.lines:
        if line["verdict"] == ACCEPTED:
            condition = Condition(line["label"], line["attribute"])
            kept.setdefault(condition, []).append((line["number"], line["path"], line["seed"]))
    written = []
    for condition, images in kept.items():
        path = image_set.folder / "sheets" / f"{condition.label}_{condition.attribute or 'any'}.png".replace("/", "-")
        first = sorted(images)[: COLUMNS * ROWS]
        with replacing(path) as (partial,):
            _sheet(image_set.folder, str(condition), [(p, seed) for _, p, seed in first]).save(partial, format="png")
        written.append(path)
    return written


def _sheet(folder: Path, title: str, images: list[tuple[str, int]]) -> Image.Image:
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (THUMBNAIL + 4) + 4, rows * (THUMBNAIL + CAPTION + 4) + 24), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    draw.text((6, 4), title, "black", ImageFont.load_default(14))
    for k, (path, seed) in enumerate(images):
        x = 4 + (k % COLUMNS) * (THUMBNAIL + 4)
        y = 24 + (k // COLUMNS) * (THUMBNAIL + CAPTION + 4)
        with Image.open(folder / path) as image:
            scale = THUMBNAIL / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            sheet.paste(image.resize(size, kind), (x, y))
        draw.text((x, y + THUMBNAIL), str(seed), "black", font)
    return sheet
