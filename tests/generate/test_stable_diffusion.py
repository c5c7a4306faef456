"""Stable Diffusion from prompt to trained network, with the code for real models and random weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.generate.sets import command, images_of, kept_of
from tests.running import ROOT, folder_of, lines_of, run
from tests.toy import toy_rows

from debeton.generate.generators import ImageRequest
from debeton.generate.image_set import verify
from debeton.generate.prompts import Condition


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Save a Stable Diffusion model with random weights in the Hugging Face layout: 16 x 16 pixels, 1.3 MB."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("sd")
    words = folder / "words"
    words.mkdir()
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (words / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(vocabulary)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    n = len(vocabulary)
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=n,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=n - 2,
            eos_token_id=n - 1,
            pad_token_id=n - 1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    )
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    tokenizer = CLIPTokenizer.from_pretrained(str(words), model_max_length=77)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


SD = ("--dataset", "utkface", "--steps", "2", "--filter", "none", "--device", "cpu")


def test_stable_diffusion_makes_an_image_from_its_prompt_and_seed_alone(tiny_model, tmp_path):
    for name, batch_size in (("a", 3), ("b", 5)):
        assert (
            command(*SD, "--model", tiny_model, "--out", tmp_path / name, "--per-cell", 4, "--batch-size", batch_size)
            == 0
        )
    a, b = kept_of(tmp_path / "a"), kept_of(tmp_path / "b")
    assert {k: v[:2] for k, v in a.items()} == {k: v[:2] for k, v in b.items()}
    images = [np.stack([np.asarray(Image.open(tmp_path / n / path), int) for path in sorted(a)]) for n in "ab"]
    assert images[0].shape == (16, 16, 16, 3)
    assert np.abs(images[0] - images[1]).max() <= 1  # batches of another size: a rounding
    assert len({image.tobytes() for image in images[0]}) == 16
    settings = json.loads((tmp_path / "a" / "generator.json").read_text())
    assert (settings["model"], settings["steps"], settings["guidance"]) == (str(tiny_model), 2, 7.5)
    assert len(settings["revision"]) == 16


def test_a_set_goes_on_under_another_spelling_of_the_models_path(tiny_model, tmp_path, monkeypatch):
    words = (*SD, "--out", tmp_path / "set", "--batch-size", 4)
    assert command(*words, "--model", tiny_model, "--per-cell", 1) == 0
    monkeypatch.chdir(tiny_model.parent)
    assert command(*words, "--model", "./model/", "--per-cell", 2) == 0
    assert len(kept_of(tmp_path / "set")) == 8


def test_a_folder_with_weights_of_fp16_alone_gives_the_images_of_these_weights(tiny_model, tmp_path):
    import torch
    from diffusers import StableDiffusionPipeline

    half = StableDiffusionPipeline.from_pretrained(str(tiny_model), dtype=torch.float16)
    half.save_pretrained(tmp_path / "plain")
    half.save_pretrained(tmp_path / "half", variant="fp16")
    assert {path.name for path in (tmp_path / "half").rglob("*.safetensors")} == {
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    }
    for name in ("plain", "half"):
        assert command(*SD, "--model", tmp_path / name, "--out", tmp_path / f"set_{name}", "--per-cell", 1) == 0
    assert images_of(tmp_path / "set_half") == images_of(tmp_path / "set_plain")


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], None),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin"], "fp16"),
        (["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"], "fp16"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None),
        (["a/model.bf16.bin", "a/model.fp16.bin", "b/model.fp16.bin"], "fp16"),
        (["config.json"], None),
    ],
)
def test_a_variant_is_asked_for_where_a_part_of_the_model_has_no_plain_weights(tmp_path, files, variant):
    from debeton.generate.generators.generator import weights_variant

    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert weights_variant(tmp_path) == variant


def test_the_prompt_changes_the_image_only_with_guidance(tiny_model):
    from debeton.generate.generators.stable_diffusion import StableDiffusion

    def sample(guidance: float, *prompts: str) -> np.ndarray:
        generator = StableDiffusion(str(tiny_model), steps=2, guidance=guidance, device="cpu")
        return generator.sample([ImageRequest(Condition("a", "b"), 0, prompt, 7) for prompt in prompts]).astype(int)

    cat, dog, again = sample(20.0, "a cat", "a dog running in the rain", "a cat")
    assert np.abs(cat - again).max() <= 1
    assert np.abs(cat - dog).max() > 3
    assert np.abs(np.subtract(*sample(0.0, "a cat", "a dog running in the rain"))).max() < np.abs(cat - dog).max()


@pytest.fixture
def with_checker(tiny_model, tmp_path) -> Path:
    """Save the tiny model with a safety checker of random weights, in the layout of real ones; return its folder."""
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**size, "image_size": 32, "patch_size": 16}, text_config=size, projection_dim=8)
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(tiny_model),
        safety_checker=StableDiffusionSafetyChecker(config),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
    )
    pipeline.save_pretrained(tmp_path / "checked")
    return tmp_path / "checked"


def set_thresholds(folder: Path, threshold: float) -> None:
    """Let the safety checker call every image unsafe (-10), or none (10)."""
    from safetensors.torch import load_file, save_file

    file = folder / "safety_checker" / "model.safetensors"
    weights = load_file(file)
    weights["concept_embeds_weights"].fill_(threshold)
    weights["special_care_embeds_weights"].fill_(10)
    save_file(weights, file, {"format": "pt"})


def test_a_safety_checker_that_turns_all_images_black_is_named_at_once(with_checker, tmp_path, capsys):
    set_thresholds(with_checker, -10)
    words = (*SD, "--model", with_checker, "--per-cell", 3, "--batch-size", 2, "--out", tmp_path / "set")
    assert command(*words) == 1
    error = capsys.readouterr().err
    assert f"the safety checker of the model {with_checker} turned 4 of the first 4 images black" in error
    assert "--no-safety-checker" in error
    assert kept_of(tmp_path / "set") == {}  # with the filter 'none' too
    shutil.rmtree(tmp_path / "set")
    assert command(*words, "--no-safety-checker") == 0
    assert len(kept_of(tmp_path / "set")) == 12
    assert min(image.max() for image in map(np.asarray, map(Image.open, (tmp_path / "set").rglob("*/0*.png")))) > 0
    set_thresholds(with_checker, 10)
    assert command(*words[:-1], tmp_path / "other") == 0


def test_an_image_that_the_safety_checker_turns_black_is_made_again(with_checker, tmp_path, capsys, monkeypatch):
    from debeton.generate.generators.stable_diffusion import StableDiffusion

    set_thresholds(with_checker, 10)
    real = StableDiffusion.sample

    def first_black(self, requests):
        images = real(self, requests)
        self.rejected = ["safety checker" if request.number == 0 else "" for request in requests]
        return images

    monkeypatch.setattr(StableDiffusion, "sample", first_black)
    words = (*SD, "--model", with_checker, "--per-cell", 2, "--out", tmp_path / "set", "--attempts", 2)
    assert command(*words) == 1
    error = capsys.readouterr().err
    assert "was rejected 2 times, last as 'safety checker'" in error
    assert "the safety checker of the model turned it black" in error


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("fp32", "it ran in fp32 (torch.float32), so its weights are damaged, or its training diverged"),
        ("bf16", "it ran in bf16 (torch.bfloat16), so its weights are damaged, or its training diverged"),
        ("fp16", "it ran in fp16 (torch.float16), whose largest number is 65504: use --dtype bf16 or --dtype fp32"),
    ],
)
def test_images_of_nan_are_an_error_that_names_the_number_type(tiny_model, tmp_path, capsys, dtype, words):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.bias"].fill_(1e5 if dtype == "fp16" else float("nan"))
    save_file(weights, file, {"format": "pt"})
    assert command(*SD, "--model", model, "--out", tmp_path / "set", "--per-cell", 2, "--dtype", dtype) == 1
    error = capsys.readouterr().err
    assert f"8 of 8 images of {model} have pixels that are NaN; {words}" in error
    assert not list((tmp_path / "set").rglob("*.png"))


@pytest.fixture(scope="session")
def killed(tiny_model, tmp_path_factory) -> Path:
    """Generate 40 images per cell of UTKFace with a run that is killed and then continued; return the folder."""
    folder = tmp_path_factory.mktemp("killed")
    words = [*SD, "--model", str(tiny_model), "--per-cell", "40", "--batch-size", "2", "--out", str(folder)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "writers/generate_images.py"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    manifest = folder / "manifest.jsonl"
    deadline = time.monotonic() + 200
    while not (manifest.exists() and manifest.read_text().count("\n") >= 6):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 6 <= len(kept_of(folder)) < 160
    assert command(*words) == 0
    return folder


def test_a_killed_run_continues_and_gives_the_set_of_an_uninterrupted_run(killed, tiny_model, tmp_path):
    assert command(*SD, "--model", tiny_model, "--per-cell", 40, "--batch-size", 2, "--out", tmp_path) == 0
    gone_on, uninterrupted = kept_of(killed), kept_of(tmp_path)
    assert {k: v[:2] for k, v in gone_on.items()} == {k: v[:2] for k, v in uninterrupted.items()}
    assert set(images_of(killed)) == set(images_of(tmp_path))
    assert verify(killed) == []


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        ("/nowhere/model", 2, "no diffusers model at /nowhere/model; expected a folder with model_index.json"),
        ("{empty}", 2, "is not a diffusers model: it has no model_index.json"),
        ("{broken}", 1, "cannot be loaded as a text-to-image model"),
        ("debeton/no-such-model", 1, "the model debeton/no-such-model could not be downloaded"),
    ],
)
def test_a_model_that_cannot_be_loaded_gives_a_clear_error(tmp_path, capsys, monkeypatch, model, status, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    model = model.format(empty=tmp_path / "empty", broken=tmp_path / "broken")
    assert command(*SD, "--model", model, "--out", tmp_path / "set", "--per-cell", 1) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "17", "16x16x16", "ax8"])
def test_sizes_are_multiples_of_eight(tiny_model, tmp_path, capsys, size):
    assert command(*SD, "--model", tiny_model, "--out", tmp_path / "set", "--size", size) == 2
    assert f"--size {size}: expected S or HEIGHTxWIDTH" in capsys.readouterr().err


# --- from the set to a trained network ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def betons(killed, tmp_path_factory) -> Path:
    """Write betons of a folder of images (97 % aligned) with the synthetic images in the training split."""
    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("betons")
    labels, attributes = ("Male", "Female"), ("old", "young")
    lines = ["path,label,attribute,split"]
    for seed, (split, n, share) in enumerate((("train", 200, 0.97), ("val", 64, 0.5), ("test", 64, 0.5))):
        rows = toy_rows(n, share, seed)
        for i, name in enumerate(rows.names):
            path = f"{name.replace('/', '_')}.png"
            Image.fromarray(rows.image(i)).save(photos / path)
            lines.append(f"{path},{labels[rows.label[i]]},{attributes[rows.attribute[i]]},{split}")
    (photos / "metadata.csv").write_text("\n".join(lines) + "\n")
    words = [
        "--dataset",
        "folder",
        "--name",
        "faces",
        "--raw",
        photos,
        "--mode",
        "raw",
        "--synthetic",
        killed,
        "--aligned",
        "Male:old,Female:young",
        "--classes",
        ",".join(labels),
        "--attributes",
        ",".join(attributes),
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "writers/write_betons.py"), *words, "--out", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def faces_args(betons, toy_args) -> list[str]:
    args = [*toy_args, "--data.dataset", "faces", "--training.data_root", str(betons), "--training.epochs", "1"]
    return [*args, "--training.num_workers", "1", "--synthetic.per_cell", "30"]


@pytest.mark.parametrize("method", ["erm", "resample", "groupdro", "dfr"])
@pytest.mark.parametrize("mode", ["none", "usb", "asb", "ffr"])
def test_every_base_method_trains_under_every_mode(faces_args, tmp_path, method, mode):
    args = [*faces_args, "--training.method", method, "--synthetic.mode", mode]
    assert run([*args, "--dfr.c_grid", "1", "--dfr.refits", "2"]) == 0
    results = json.loads((folder_of(tmp_path / "runs") / "results.json").read_text())
    phases = [*(["first"] if mode == "ffr" else []), "train", *(["dfr"] if method == "dfr" else [])]
    assert list(results["timing"]["phases"]) == phases
    assert 0 <= results["test"]["worst_group_accuracy"] <= 1
    lines = [x for x in lines_of(folder_of(tmp_path / "runs")) if x["phase"] == "train" and x["split"] == "train"]
    counts = lines[-1]["metrics"]["group_count"]
    by_source = mode in ("usb", "asb") and method in ("resample", "groupdro")
    assert any("synthetic" in name for name in counts) == by_source
    if method == "erm":  # 30 of each of 4 cells are added; ffr's second phase has the real rows alone
        assert sum(counts.values()) == {"none": 200, "asb": 320, "ffr": 200}.get(mode, sum(counts.values()))
    if mode == "ffr":
        assert results["notes"]["first_phase"]["rows"] == 120
