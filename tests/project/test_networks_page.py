"""docs/networks.md: its commands run on tiny saved networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from tests.pages import run_block
from tests.tiny_networks import save_hf, save_open_clip

from debeton.nets.models import make_model


@pytest.fixture
def here(toy_betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), "resnet.safetensors")
    save_hf(Path("dino"), "dinov2")
    save_open_clip(Path("clip"))
    weights = make_model("small_resnet", 2).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, "theirs.pth")
    training = {"data_root": str(toy_betons), "outdir": "runs", "epochs": 1, "batch_size": 128, "device": "cpu"}
    training |= {"decoder_train": "resized", "decoder_val": "resized", "augment": "none", "lr": 0.01}
    settings = {"data": {"dataset": "toy"}, "resolution": {"val_res": 32}, "training": training}
    Path("tiny.yaml").write_text(yaml.safe_dump({**settings, "logging": {"tensorboard": False}}))
    return tmp_path


def test_the_commands_of_the_page_train_every_kind_of_network(here):
    for name in ("timm", "hf", "open_clip", "checkpoint"):
        run_block("networks.md", name)
    found = {path.parts[-3]: json.loads(path.read_text()) for path in here.glob("runs/*/version_0/results.json")}
    assert set(found) == {"frozen", "dino", "clip", "ours", "further"}
    assert all(results["test"]["accuracy"] > 0 for results in found.values())
