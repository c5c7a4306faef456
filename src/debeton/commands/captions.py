"""Words that name the bias of a set of synthetic images: captions of each class against those of the others.

debeton captions RUN/synthetic --model FOLDER --out words
debeton captions RUN/synthetic --captions-file captions.jsonl --out words

SET is a folder of synthetic images in any layout of writers/README.md, or images.npy of Diffusing DeBias. OUT
gets captions.jsonl, keywords.csv, keywords.md and index.html with example images. The same command makes the captions
that an interrupted one left out.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from debeton.system.errors import UsageError

if TYPE_CHECKING:
    from debeton.data.spec import Rows
    from debeton.generate.captions import Keyword


def main(argv: Sequence[str]) -> int:
    """Caption the images and write the words of each class, as the words of the command say."""
    from debeton.generate.captions import (
        DEFAULT_MODEL,
        Captioner,
        caption_rows,
        captions_for,
        keywords,
        read_captions,
    )

    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path, metavar="SET", help="folder of generated images")
    parser.add_argument("--like", type=Path, metavar="BETON", help="names of classes; default: what the folder says")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="captioning model, a folder or an id; default: %(default)s"
    )
    parser.add_argument("--captions-file", type=Path, metavar="FILE", help="captions of your own: CSV or JSON lines")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder of the tables and the page")
    parser.add_argument("--top", type=int, default=10, help="words of each class; default: %(default)s")
    parser.add_argument("--min-support", type=int, default=3, help="captions that a word is in; default: %(default)s")
    parser.add_argument("--ignore", default="", metavar="WORDS", help="more words to leave out, 'photo,small'")
    parser.add_argument("--batch-size", type=int, default=16, help="images captioned at a time; default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K")
    arguments = parser.parse_args(argv)
    for name in ("top", "min_support", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(arguments, name)} leaves nothing; use 1 or more")
    if not arguments.set.is_dir():
        raise UsageError(f"there is no folder {arguments.set}")

    from debeton.data.beton.reading import open_beton
    from debeton.data.raw.synthetic_images import read_synthetic_rows
    from debeton.generate.image_set import spec_from_folder
    from debeton.system.files import write_files
    from debeton.system.log import set_up_logging

    set_up_logging(is_main=True)
    spec = open_beton(arguments.like).spec if arguments.like else spec_from_folder(arguments.set)
    rows = read_synthetic_rows(arguments.set, spec)
    if arguments.captions_file:
        captions = captions_for(rows, read_captions(arguments.captions_file), arguments.captions_file)
    else:
        captioner = Captioner(arguments.model, device=arguments.device)
        captions = caption_rows(
            captioner,
            rows,
            arguments.out / "captions.jsonl",
            batch_size=arguments.batch_size,
            progress=sys.stderr.isatty(),
        )
    ignore = [word for word in arguments.ignore.split(",") if word]
    words = keywords(
        captions, rows.label, spec.classes, top=arguments.top, min_support=arguments.min_support, ignore=ignore
    )
    page = page_of_words(arguments.set, words, rows, captions)
    write_files({arguments.out / name: text.encode() for name, text in {**tables_of_words(words), **page}.items()})
    print(
        f"{len(captions)} captions, {len(words)} words of {len(spec.classes)} classes in {arguments.out / 'index.html'}"
    )
    return 0


def tables_of_words(words: list[Keyword]) -> dict[str, str]:
    """Return keywords.csv and keywords.md by name, and print the latter."""
    import pandas as pd

    from debeton.report.write import to_markdown

    rows = [
        {
            "class": k.label,
            "word": k.word,
            "score": f"{k.score:.2f}",
            "in the class": f"{100 * k.rate:.0f} %",
            "in others": f"{100 * k.others:.0f} %",
            "support": k.support,
        }
        for k in words
    ]
    table = pd.DataFrame(rows, columns=["class", "word", "score", "in the class", "in others", "support"])
    print(to_markdown(table))
    return {"keywords.csv": table.to_csv(index=False), "keywords.md": to_markdown(table)}


def page_of_words(folder: Path, words: list[Keyword], rows: Rows, captions: list[str]) -> dict[str, str]:
    """Return index.html by name: the words, each with images whose captions have it."""
    from html import escape

    from debeton.report.page import Cell, Page, html_table

    page = Page("Words of generated images", f"{len(rows)} captions of {folder}")
    for label in dict.fromkeys(k.label for k in words):
        cells = [
            [
                Cell(k.word, strong=True),
                Cell(f"{k.score:.2f}", (k.score,)),
                Cell(f"{100 * k.rate:.0f} %", (k.rate,)),
                Cell(f"{100 * k.others:.0f} %", (k.others,)),
                Cell(str(k.support), (k.support,)),
                Cell("".join(_thumbnail(rows, i, escape(captions[i], quote=True)) for i in k.examples), html=True),
            ]
            for k in words
            if k.label == label
        ]
        page.add(label, html_table(["word", "score", "in the class", "in others", "support", "images"], cells))
    return {"index.html": page.render()}


def _thumbnail(rows: Rows, row: int, caption: str) -> str:
    from PIL import Image

    from debeton.data.beton.images import to_rgb

    image, buffer = Image.fromarray(to_rgb(rows.image(row))), io.BytesIO()
    image.thumbnail((96, 96))
    image.save(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{caption}" title="{caption}" width="64" src="data:image/png;base64,{data}"> '
