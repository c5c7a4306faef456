"""Captions: words that separate the classes, and a tiny captioning model in the format of real ones."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from debeton.commands import captions as program
from debeton.generate.captions import Caption, Captioner, captions_for, keywords, read_captions
from debeton.generate.image_set import spec_from_folder
from debeton.system.errors import DataError, UsageError, run_command

CAPTIONS = [
    "a bird over the ocean",
    "bird near an ocean wave",
    "a bird in a forest",
    "a bird in a bamboo forest",
    "small bird, forest",
    "a bird",
]
LABEL = np.array([0, 0, 1, 1, 1, 1])


def run(*words: object) -> int:
    return run_command(lambda: program.main([str(word) for word in words]))


# --- words ---------------------------------------------------------------------------------------


def test_the_score_of_a_word_is_its_share_in_the_class_minus_its_share_elsewhere():
    found = keywords(CAPTIONS, LABEL, ("water", "land"), min_support=2)
    assert [(k.label, k.word, k.support) for k in found] == [
        ("water", "ocean", 2),
        ("water", "bird", 2),
        ("land", "forest", 3),
        ("land", "bird", 4),
    ]
    assert [k.score for k in found] == [1.0, 0.0, 0.75, 0.0]
    assert found[2].examples == (2, 3, 4)
    assert (found[2].rate, found[2].others) == (0.75, 0.0)


def test_words_of_class_names_and_stop_words_are_no_keywords():
    found = keywords(CAPTIONS, LABEL, ("ocean bird", "forests"), min_support=1)
    assert {k.word for k in found} == {"bamboo", "near", "small", "wave"}
    assert not {"bird", "ocean", "forest", "the", "over"} & {k.word for k in found}
    assert not keywords(CAPTIONS, LABEL, ("ocean", "forest"), ignore=["bird", "wave", "bamboo", "small", "near"])


def test_all_other_classes_count_equally_whatever_their_size():
    captions, label = ["red"] * 2 + ["red"] + ["blue"] * 9, np.array([0, 0, 1] + [2] * 9)
    red = next(k for k in keywords(captions, label, ("a", "b", "c"), min_support=1) if k.label == "a")
    assert (red.rate, red.others) == (1.0, 0.5)


def test_no_words_and_a_wrong_number_of_captions():
    assert keywords(["the", "a"], np.array([0, 1]), ("x", "y")) == []
    with pytest.raises(DataError, match="1 captions for 2 images"):
        keywords(["dog"], np.array([0, 1]), ("x", "y"))


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write a set of two classes with three images each, as arrays of Diffusing DeBias, and return its folder."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, grey in (("water", 40), ("land", 200)):
        np.save(folder / f"{name}.npy", np.full((3, 16, 16, 3), grey, np.uint8))
    return folder


def test_tables_and_a_page_with_images_are_made_of_captions_from_a_file(images, tmp_path, capsys):
    lines = [
        {"path": f"{c}.npy[{i}]", "caption": f"a {'sea' if c == 'water' else 'tree'} view"}
        for c in ("water", "land")
        for i in range(3)
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    assert run(images, "--captions-file", tmp_path / "c.jsonl", "--out", out) == 0
    with (out / "keywords.csv").open() as file:
        found = {(r["class"], r["word"]): (r["score"], r["support"]) for r in csv.DictReader(file)}
    assert found == {
        ("land", "tree"): ("1.00", "3"),
        ("land", "view"): ("0.00", "3"),
        ("water", "sea"): ("1.00", "3"),
        ("water", "view"): ("0.00", "3"),
    }
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64") == 12
    assert 'title="a sea view"' in page
    assert "6 captions, 4 words of 2 classes" in capsys.readouterr().out


def test_captions_are_looked_up_with_or_without_the_name_of_the_set(images):
    from debeton.data.raw.synthetic_images import read_synthetic_rows

    rows = read_synthetic_rows(images, spec_from_folder(images))
    assert captions_for(rows, dict.fromkeys(rows.names, Caption("x")), Path("c")) == ["x"] * 6
    with pytest.raises(DataError, match=r"has no caption of set/land\.npy\[0\]"):
        captions_for(rows, {}, Path("c"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.jsonl", '{"path": "a"}\n', r"line 1 (lacks 'caption'|is not JSON: Expecting value)"),
        ("c.csv", "path,text\na,b\n", "lacks the column caption"),
        ("c.jsonl", "hello\n", r"line 1 (lacks 'caption'|is not JSON: Expecting value)"),
    ],
)
def test_a_wrong_caption_file_gives_a_clear_error(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_captions(tmp_path / name)
    with pytest.raises(UsageError, match="there is no captions file"):
        read_captions(tmp_path / "none.jsonl")


def test_the_classes_of_a_folder_come_from_its_manifest_folders_or_arrays(images, tmp_path):
    assert spec_from_folder(images).classes == ("land", "water")
    (tmp_path / "made" / "cat").mkdir(parents=True)
    (tmp_path / "made" / "dog").mkdir()
    assert spec_from_folder(tmp_path / "made").classes == ("cat", "dog")
    line = {"path": "x.png", "label": "fox", "attribute": None, "verdict": "keep", "number": 0, "attempt": 0}
    (tmp_path / "made" / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    assert spec_from_folder(tmp_path / "made").classes == ("fox",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        spec_from_folder(tmp_path / "empty")


# --- a model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a BLIP model with random weights in the format of real ones, and return its folder."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "photo", "of", "bird", "sea", "tree"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **size,
            "vocab_size": len(words),
            "encoder_hidden_size": 16,
            "bos_token_id": 5,
            "sep_token_id": 3,
            "eos_token_id": 3,
            "pad_token_id": 0,
            "max_position_embeddings": 32,
        },
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_model_captions_every_image_once_and_continues_after_a_stop(tiny_blip, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = (images, "--model", tiny_blip, "--out", out, "--batch-size", 2, "--device", "cpu", "--min-support", 1)
    assert run(*command) == 0
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"set/{c}.npy[{i}]" for c in ("land", "water") for i in range(3)]
    assert len({line["caption"] for line in lines[:3]}) == 1  # the same image, and no chance
    (out / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    asked: list[int] = []
    real = Captioner.caption
    monkeypatch.setattr(Captioner, "caption", lambda self, batch: asked.append(len(batch)) or real(self, batch))
    assert run(*command) == 0
    assert asked == [2]
    assert [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()] == lines


def test_captions_of_other_images_or_another_model_are_made_anew(tiny_blip, images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = (images, "--out", out, "--batch-size", 6, "--device", "cpu", "--min-support", 1)
    asked: list[int] = []
    real = Captioner.caption
    monkeypatch.setattr(Captioner, "caption", lambda self, batch: asked.append(len(batch)) or real(self, batch))
    assert run(*words, "--model", tiny_blip) == 0
    moved = shutil.copytree(tiny_blip, tmp_path / "moved")
    assert run(*words, "--model", moved) == 0
    assert asked == [6]  # the same weights in another folder

    drawn = np.load(images / "land.npy")
    drawn[1] = 90
    np.save(images / "land.npy", drawn)
    assert run(*words, "--captions-file", out / "captions.jsonl") == 1
    message = "the caption of set/land.npy[1] was made of another image of that name"
    assert message in capsys.readouterr().err
    assert run(*words, "--model", tiny_blip) == 0
    assert asked == [6, 1]

    weights = load_file(moved / "model.safetensors")
    weights = {name: value + 1 if name.endswith("norm.bias") else value for name, value in weights.items()}
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert run(*words, "--model", moved) == 0
    assert asked == [6, 1, 6]
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert len({line["model"] for line in lines}) == 1
    assert len(lines) == 6

    for line in lines:  # a file of an earlier version does not say what it was made of
        del line["image"], line["model"]
    (out / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(*words, "--model", moved) == 0
    assert asked == [6, 1, 6, 6]


def test_weights_of_fp16_alone_are_loaded(tiny_blip, images, tmp_path):
    from transformers import BlipForConditionalGeneration

    half = shutil.copytree(tiny_blip, tmp_path / "half")
    (half / "model.safetensors").unlink()
    BlipForConditionalGeneration.from_pretrained(tiny_blip).half().save_pretrained(half, variant="fp16")
    assert not (half / "model.safetensors").exists()
    assert run(images, "--model", half, "--out", tmp_path / "out", "--device", "cpu", "--min-support", 1) == 0


def test_a_broken_image_is_named(tiny_blip, tmp_path, capsys):
    folder = tmp_path / "set" / "land"
    folder.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:50])
    words = (tmp_path / "set", "--model", tiny_blip, "--out", tmp_path / "out", "--device", "cpu")
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert "the image set/land/1.png cannot be read (" in error
    assert "Traceback" not in error


def test_an_image_with_two_captions_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text("path,caption\na.png,a bird\na.png,a tree\n")
    with pytest.raises(DataError, match=r"has two captions of a\.png, 'a bird' and 'a tree'; keep one"):
        read_captions(tmp_path / "c.csv")


def test_a_folder_without_a_captioning_model_gives_a_clear_error(images, tmp_path, capsys):
    for model, words, status in (
        (tmp_path / "nowhere", "no captioning model at", 2),
        (images, "not a captioning model: it has no", 2),
    ):
        assert run(images, "--model", model, "--out", tmp_path / "o") == status
        assert words in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert run(images, "--model", tmp_path, "--out", tmp_path / "o") == 1
    assert "cannot be loaded as a captioning model" in capsys.readouterr().err
    assert run(tmp_path / "gone", "--out", tmp_path / "o") == 2


def test_the_last_caption_of_a_file_that_was_cut_is_left_out_with_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("debeton"), "handlers", [caplog.handler])
    path = tmp_path / "captions.jsonl"
    path.write_text('{"path": "a.png", "caption": "a cat"}\n{"path": "b.png", "cap')
    assert list(read_captions(path)) == ["a.png"]
    assert set(caplog.messages) == {f"warning: line 2 of {path}, the last one, is cut off; it is left out"}
