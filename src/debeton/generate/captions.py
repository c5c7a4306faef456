"""What captions of generated images say of the bias: words that one class's captions have and the others' lack.

Diffusing DeBias validates a bias by captions of images that its diffusion model drew; the score is after Kim et al.
2024, "Discovering and Mitigating Visual Biases through Keyword Explanation" (B2T, arXiv 2301.11104). Captions come from
a captioning model through transformers (BLIP and its like), or from a file.
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
TOKEN = r"(?u)\b[^\W\d_]{3,}\b"  # words of three letters and more


@dataclass(frozen=True)
class Keyword:
    """word: of the captions. label: the class it speaks for. rate: share of the class's captions that have it. others:
    mean of the same share over the other classes. support: captions of the class that have it. examples: positions of
    some of them."""

    word: str
    label: str
    rate: float
    others: float
    support: int
    examples: tuple[int, ...]

    @property
    def score(self) -> float:
        """How much more often than elsewhere, in [-1, 1]."""
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
    """The `top` words of each class by score, the highest first; equal scores by support, then by the alphabet.

    A caption counts a word once. English stop words, the words of the class names and `ignore` are left out, in the
    singular and the plural. min_support: captions of the class that must have the word.
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
    except ValueError:  # no word is left
        return []
    words = vectorizer.get_feature_names_out()
    sizes = np.bincount(label, minlength=len(classes))
    by_class = np.stack([np.asarray(table[label == k].sum(0)).ravel() for k in range(len(classes))])
    rates = by_class / np.maximum(sizes, 1)[:, None]
    there = sizes > 0
    found = []
    for k, name in enumerate(classes):
        elsewhere = there & (np.arange(len(classes)) != k)
        others = rates[elsewhere].mean(0) if elsewhere.any() else np.zeros(len(words))
        order = sorted(range(len(words)), key=lambda w: (others[w] - rates[k, w], -by_class[k, w], words[w]))
        chosen = [w for w in order if by_class[k, w] >= min_support and words[w] not in left_out][:top]
        for w in chosen:
            having = np.flatnonzero((label == k) & (np.asarray(table[:, [w]].todense()).ravel() > 0))
            word = Keyword(
                str(words[w]),
                name,
                float(rates[k, w]),
                float(others[w]),
                int(by_class[k, w]),
                tuple(having[:4].tolist()),
            )
            found.append(word)
    return found


def _words(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()


class Captioner:
    """A captioning model of transformers (BLIP, BLIP-2, GIT and their like): an id, or a folder of save_pretrained."""

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
                f"{model} cannot be loaded as a captioning model ({reason}); fetch it where there is a network with "
                f"'hf download {DEFAULT_MODEL}' and give its folder, or captions of yours with --captions-file"
            ) from None
        self.network: Any = network.eval()
        self.network.to(self.device)

    @torch.inference_mode()
    def caption(self, images: Sequence[NDArray[np.uint8]], max_words: int = 30) -> list[str]:
        """A caption for each image, uint8 [H, W, 3]; greedy, so that it is the same every time."""
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device, self.network.dtype)
        tokens = self.network.generate(**inputs, max_new_tokens=max_words, do_sample=False, num_beams=1)
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def caption_rows(
    captioner: Captioner, rows: Rows, path: Path, *, batch_size: int = 16, progress: bool = False
) -> list[str]:
    """Captions of all rows in order, kept in a JSON-lines file of path and caption; what it has is not made again."""
    known = read_captions(path) if path.exists() else {}
    missing = [i for i, name in enumerate(rows.names) if name not in known]
    with tqdm(total=len(missing), desc="captions", unit="image", disable=not progress) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            made = captioner.caption([to_rgb(rows.image(i)) for i in batch])
            known |= {rows.names[i]: text for i, text in zip(batch, made, strict=True)}
            write_text(path, "".join(json.dumps({"path": k, "caption": v}) + "\n" for k, v in known.items()))
            bar.update(len(batch))
    return [known[name] for name in rows.names]


def read_captions(path: Path) -> dict[str, str]:
    """Captions by path, from JSON lines {"path": ..., "caption": ...} or a CSV with these columns."""
    if not path.is_file():
        raise UsageError(f"there is no captions file {path}")
    if path.suffix == ".csv":
        import pandas as pd

        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if absent := {"path", "caption"} - set(table.columns):
            raise DataError(f"{path} lacks the column {sorted(absent)[0]}; it has {list(table.columns)}")
        return dict(zip(table["path"], table["caption"], strict=True))
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record: Mapping[str, Any] = json.loads(line)
            found[str(record["path"])] = str(record["caption"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is no caption ({error}); expected path and caption") from None
    return found


def captions_for(rows: Rows, captions: Mapping[str, str], where: Path) -> list[str]:
    """Captions of the rows in order, looked up by path with or without the set's folder in front; DataError names the
    first row that has none."""
    found = []
    for name in rows.names:
        text = captions.get(name, captions.get(name.partition("/")[2]))
        if text is None:
            raise DataError(f"{where} has no caption of {name} (and maybe of others); it needs one for every image")
        found.append(text)
    return found
