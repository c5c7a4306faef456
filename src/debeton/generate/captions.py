"""Captions of synthetic images, and the words that separate the captions of one class from those of the others.

Diffusing DeBias (arXiv 2502.09564) checks a bias with captions of images that its diffusion model drew. The score of a
word follows Kim et al. 2024, "Discovering and Mitigating Visual Biases through Keyword Explanation" (B2T, arXiv
2301.11104). Captions come from a captioning model of transformers (for example BLIP), or from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import BadImage
from debeton.data.beton.images import to_rgb
from debeton.data.raw.synthetic_images import say_cut_line
from debeton.data.spec import Rows
from debeton.generate.generators.generator import DTYPES, folder_hash, local_model, weights_variant
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.json_files import read_json_lines
from debeton.system.json_shapes import Table
from debeton.system.log import logger
from debeton.system.regular_files import MAX_TABLE_BYTES, require_regular
from debeton.system.work_bar import work_bar

LINE = Table(keys={"path": str, "caption": str}, may={"image": str, "model": str})
DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
MAX_WORDS = 30  # largest number of tokens of a caption
TOKEN = r"(?u)\b[^\W\d_]{3,}\b"  # words of at least three letters


@dataclass(frozen=True)
class Keyword:
    """A word that captions of one class contain.

    word: the word, in lower case.
    label: name of the class.
    rate: share of the class's captions that contain the word, in [0, 1].
    others: mean of this share over the other classes, in [0, 1].
    support: number of the class's captions that contain the word.
    examples: positions of up to four of these captions.
    """

    word: str
    label: str
    rate: float
    others: float
    support: int
    examples: tuple[int, ...]

    @property
    def score(self) -> float:
        """Return `rate` minus `others`, in [-1, 1]."""
        return self.rate - self.others


def keywords(
    captions: Sequence[str],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    top: int = 10,
    min_support: int = 3,
    ignore: Sequence[str] = (),
) -> list[Keyword]:
    """Return the words with the highest scores of each class, the highest first.

    Equal scores are ordered by support, then by the alphabet. A word counts once per caption. Left out are English stop
    words, the words of the class names, and `ignore`, in the singular and the plural.

    captions: one text per image, N of them.
    label: class code of each image, [N].
    classes: class names by code.
    top: number of words per class.
    min_support: number of captions of the class that must contain the word.
    ignore: further words to leave out.

    DataError: captions and labels differ in number.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if len(captions) != len(label):
        raise DataError(f"{len(captions)} captions for {len(label)} images")
    left_out = {
        form
        for text in (*classes, *ignore)
        for word in _words(text)
        for form in (word, word + "s", word.removesuffix("s"))
    }
    vectorizer = CountVectorizer(binary=True, stop_words="english", token_pattern=TOKEN)
    try:
        table = vectorizer.fit_transform(captions).tocsc()
    except ValueError:  # raised when no word is left
        return []
    words = vectorizer.get_feature_names_out()
    sizes = np.bincount(label, minlength=len(classes))
    by_class = np.stack([np.asarray(table[label == k].sum(0)).ravel() for k in range(len(classes))])
    rates = by_class / np.maximum(sizes, 1)[:, None]
    has_captions = sizes > 0
    class_keywords = []
    for k, name in enumerate(classes):
        other_classes = has_captions & (np.arange(len(classes)) != k)
        others = rates[other_classes].mean(0) if other_classes.any() else np.zeros(len(words))
        order = sorted(range(len(words)), key=lambda w: (others[w] - rates[k, w], -by_class[k, w], words[w]))
        chosen = [w for w in order if by_class[k, w] >= min_support and words[w] not in left_out][:top]
        for w in chosen:
            with_word = np.flatnonzero((label == k) & (np.asarray(table[:, [w]].todense()).ravel() > 0))
            keyword = Keyword(
                str(words[w]),
                name,
                float(rates[k, w]),
                float(others[w]),
                int(by_class[k, w]),
                tuple(with_word[:4].tolist()),
            )
            class_keywords.append(keyword)
    return class_keywords


def _words(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()


class Captioner:
    """A captioning model of transformers, for example BLIP, BLIP-2 or GIT.

    model: an id on the Hugging Face hub, or a folder written by save_pretrained.
    device: auto, cpu, cuda or cuda:K.
    dtype: fp32, fp16 or bf16; None: fp16 on a GPU, fp32 on a CPU.
    identity: text that names the weights and the number type; a caption keeps it.

    UsageError: `model` is a path without a model.
    DataError: the model cannot be loaded.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, device: str = "auto", dtype: str | None = None):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = pick_device(device)
        dtype = dtype or ("fp16" if self.device.type == "cuda" else "fp32")
        folder = local_model(model, "config.json", "captioning model", DEFAULT_MODEL)
        try:
            self.processor = AutoProcessor.from_pretrained(model, local_files_only=folder is not None)
            network = AutoModelForImageTextToText.from_pretrained(
                model,
                dtype=DTYPES[dtype],
                local_files_only=folder is not None,
                variant=None if folder is None else weights_variant(folder),
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{model} cannot be loaded as a captioning model ({reason}); download one on a machine with a network "
                f"('hf download {DEFAULT_MODEL}') and give its folder, or give your own captions with --captions-file"
            ) from None
        self.network: Any = network.eval()
        self.network.to(self.device)
        revision = getattr(network.config, "_commit_hash", None) if folder is None else folder_hash(folder)
        self.identity = " ".join([*([model] if folder is None else []), str(revision), dtype])

    @torch.inference_mode()
    def caption(self, images: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Return one caption of at most MAX_WORDS tokens per image.

        Decoding is greedy, so the same image always gets the same caption.

        images: uint8 [H, W, 3] each.
        """
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device, self.network.dtype)
        tokens = self.network.generate(**inputs, max_new_tokens=MAX_WORDS, do_sample=False, num_beams=1)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


@dataclass(frozen=True)
class Caption:
    """A caption and what it was made of.

    text: the caption.
    image: `image_hash` of its image; '' where the file does not say it.
    model: `Captioner.identity` of the model that wrote it; '' where the file does not say it.
    """

    text: str
    image: str = ""
    model: str = ""


def image_hash(image: NDArray[np.uint8]) -> str:
    """Return 16 hex digits of the pixels and the shape of an image."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def pixels_of(rows: Rows, row: int) -> NDArray[np.uint8]:
    """Return an image, uint8 [H, W, 3]. DataError names the file of an image that cannot be read."""
    try:
        return to_rgb(rows.image(row))
    except (BadImage, OSError) as error:
        raise DataError(
            f"the image {rows.names[row]} cannot be read ({error}); remove it from the set, or generate it again"
        ) from None


def caption_rows(
    captioner: Captioner, rows: Rows, path: Path, *, batch_size: int = 16, progress: bool = False
) -> list[str]:
    """Return the captions of all rows, in order; the file at `path` stores them.

    A row is not captioned again if the file has a caption of the same pixels by the same model. Other captions are
    replaced, and a warning says how many.

    captioner: the captioning model.
    rows: the images.
    path: JSON-lines file of {"path", "caption", "image", "model"}, rewritten after every batch.
    batch_size: images per call of the model.
    progress: show a progress bar.
    """
    stored = read_captions(path) if path.exists() else {}
    hashes = [image_hash(pixels_of(rows, i)) for i in range(len(rows))]
    known = {
        name: stored[name]
        for name, of_image in zip(rows.names, hashes)
        if name in stored and (stored[name].image, stored[name].model) == (of_image, captioner.identity)
    }
    if replaced := len(stored) - len(known):
        logger.warning(
            "warning: %d of %d captions in %s are of other images or of another model than this one; they are left "
            "out, and missing ones are made anew",
            replaced,
            len(stored),
            path,
        )
    missing = [i for i, name in enumerate(rows.names) if name not in known]
    with work_bar("captions", len(missing), unit="image", shown=progress) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            texts = captioner.caption([pixels_of(rows, i) for i in batch])
            known |= {
                rows.names[i]: Caption(text, hashes[i], captioner.identity)
                for i, text in zip(batch, texts, strict=True)
            }
            write_text(path, "".join(_line(name, known[name]) for name in rows.names if name in known))
            bar.update(len(batch))
    return [known[name].text for name in rows.names]


def _line(name: str, caption: Caption) -> str:
    content = {"path": name, "caption": caption.text, "image": caption.image, "model": caption.model}
    return json.dumps(content) + "\n"


def read_captions(path: Path) -> dict[str, Caption]:
    """Read captions by image path, from JSON lines {"path": ..., "caption": ...} or a CSV with these columns.

    The keys or columns "image" and "model" may say what a caption was made of.

    UsageError: there is no such file.
    DataError: a column is missing, a line is not such an object, or an image has two captions.
    """
    if not path.is_file():
        raise UsageError(f"there is no captions file {path}")
    records: list[Mapping[str, Any]] = []
    if path.suffix == ".csv":
        import pandas as pd

        require_regular(path, MAX_TABLE_BYTES)
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (ValueError, OverflowError) as error:  # of pandas and of UTF-8
            raise DataError(f"{path} cannot be read as a CSV ({' '.join(str(error).split())})") from None
        if absent := {"path", "caption"} - set(table.columns):
            raise DataError(f"{path} lacks the column {sorted(absent)[0]}; it has {list(table.columns)}")
        records = table.to_dict("records")
    else:
        remedy = "expected path and caption; correct or remove the line"
        records += (record for _, record in read_json_lines(path, LINE, remedy=remedy, cut=partial(say_cut_line, path)))
    captions: dict[str, Caption] = {}
    for record in records:
        name = str(record["path"])
        caption = Caption(str(record["caption"]), str(record.get("image", "")), str(record.get("model", "")))
        if captions.get(name, caption) != caption:
            raise DataError(
                f"{path} has two captions of {name}, '{captions[name].text}' and '{caption.text}'; keep one"
            )
        captions[name] = caption
    return captions


def captions_for(rows: Rows, captions: Mapping[str, Caption], where: Path) -> list[str]:
    """Return the caption of every row, in order.

    rows: the images.
    captions: captions by image path, with or without the set's folder in front.
    where: name of the captions file, for the error message.

    DataError: a row has no caption, or one of other pixels; the message names the first such row.
    """
    row_captions = []
    for i, name in enumerate(rows.names):
        caption = captions.get(name, captions.get(name.partition("/")[2]))
        if caption is None:
            raise DataError(f"{where} has no caption of {name} (and maybe of others); it needs one for every image")
        if caption.image and caption.image != image_hash(pixels_of(rows, i)):
            raise DataError(
                f"{where}: the caption of {name} was made of another image of that name (and maybe those of others): "
                "the images were drawn anew; caption them again with --model"
            )
        row_captions.append(caption.text)
    return row_captions
