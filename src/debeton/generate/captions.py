"""Captions of synthetic images, and the words that separate the captions of one class from those of the others.

Diffusing DeBias (arXiv 2502.09564) checks a bias with captions of images that its diffusion model drew. The score of a
word follows Kim et al. 2024, "Discovering and Mitigating Visual Biases through Keyword Explanation" (B2T, arXiv
2301.11104). Captions come from a captioning model of transformers (for example BLIP), or from a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from debeton.data.beton.images import to_rgb
from debeton.data.spec import Rows
from debeton.generate.generators.generator import DTYPES, local_model
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"
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

    UsageError: `model` is a path without a model.
    DataError: the model cannot be loaded.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, device: str = "auto", dtype: str | None = None):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = pick_device(device)
        dtype = dtype or ("fp16" if self.device.type == "cuda" else "fp32")
        is_folder = local_model(model, "config.json", "captioning model", DEFAULT_MODEL) is not None
        try:
            self.processor = AutoProcessor.from_pretrained(model, local_files_only=is_folder)
            network = AutoModelForImageTextToText.from_pretrained(
                model, dtype=DTYPES[dtype], local_files_only=is_folder
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{model} cannot be loaded as a captioning model ({reason}); download one on a machine with a network "
                f"('hf download {DEFAULT_MODEL}') and give its folder, or give your own captions with --captions-file"
            ) from None
        self.network: Any = network.eval()
        self.network.to(self.device)

    @torch.inference_mode()
    def caption(self, images: Sequence[NDArray[np.uint8]], max_words: int = 30) -> list[str]:
        """Return one caption per image.

        Decoding is greedy, so the same image always gets the same caption.

        images: uint8 [H, W, 3] each.
        max_words: largest number of new tokens in a caption.
        """
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device, self.network.dtype)
        tokens = self.network.generate(**inputs, max_new_tokens=max_words, do_sample=False, num_beams=1)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def caption_rows(
    captioner: Captioner, rows: Rows, path: Path, *, batch_size: int = 16, progress: bool = False
) -> list[str]:
    """Return the captions of all rows, in order; the file at `path` stores them.

    A row whose caption is already in the file is not captioned again.

    captioner: the captioning model.
    rows: the images.
    path: JSON-lines file of {"path": ..., "caption": ...}, rewritten after every batch.
    batch_size: images per call of the model.
    progress: show a progress bar.
    """
    known = read_captions(path) if path.exists() else {}
    missing = [i for i, name in enumerate(rows.names) if name not in known]
    with tqdm(total=len(missing), desc="captions", unit="image", disable=not progress) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            captions = captioner.caption([to_rgb(rows.image(i)) for i in batch])
            known |= {rows.names[i]: text for i, text in zip(batch, captions, strict=True)}
            write_text(path, "".join(json.dumps({"path": k, "caption": v}) + "\n" for k, v in known.items()))
            bar.update(len(batch))
    return [known[name] for name in rows.names]


def read_captions(path: Path) -> dict[str, str]:
    """Read captions by image path, from JSON lines {"path": ..., "caption": ...} or a CSV with these columns.

    UsageError: there is no such file.
    DataError: a column is missing, or a line is not such an object.
    """
    if not path.is_file():
        raise UsageError(f"there is no captions file {path}")
    if path.suffix == ".csv":
        import pandas as pd

        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if absent := {"path", "caption"} - set(table.columns):
            raise DataError(f"{path} lacks the column {sorted(absent)[0]}; it has {list(table.columns)}")
        return dict(zip(table["path"], table["caption"], strict=True))
    captions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record: Mapping[str, Any] = json.loads(line)
            captions[str(record["path"])] = str(record["caption"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is no caption ({error}); expected path and caption") from None
    return captions


def captions_for(rows: Rows, captions: Mapping[str, str], where: Path) -> list[str]:
    """Return the caption of every row, in order.

    rows: the images.
    captions: captions by image path, with or without the set's folder in front.
    where: name of the captions file, for the error message.

    DataError: a row has no caption; the message names the first such row.
    """
    row_captions = []
    for name in rows.names:
        text = captions.get(name, captions.get(name.partition("/")[2]))
        if text is None:
            raise DataError(f"{where} has no caption of {name} (and maybe of others); it needs one for every image")
        row_captions.append(text)
    return row_captions
