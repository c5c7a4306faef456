"""Tiny random models of other libraries, saved as these libraries save them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
HF_KINDS = ("clip", "clip_vision", "siglip_vision", "dinov2", "vit", "convnext")


def save_hf(folder: Path, kind: str) -> Path:
    """Save a tiny model of transformers with random weights, and return its folder."""
    import transformers as tf

    torch.manual_seed(0)
    tower = {**TINY, "patch_size": 8}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = {
        "clip": lambda: tf.CLIPModel(
            tf.CLIPConfig(vision_config=tower, text_config={**text, "vocab_size": 50}, projection_dim=8)
        ),
        "clip_vision": lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**tower)),
        "siglip_vision": lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**tower)),
        "dinov2": lambda: tf.Dinov2Model(tf.Dinov2Config(**tower)),
        "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**tower)),
        "convnext": lambda: tf.ConvNextModel(tf.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])),
    }[kind]()
    model.save_pretrained(folder)
    return folder


def save_open_clip(folder: Path) -> tuple[Path, Path]:
    """Write a configuration of a tiny CLIP, and its random weights with those of the text tower; return both files."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "tiny.json", folder / "tiny.safetensors"
    config.write_text(json.dumps(OPEN_CLIP))
    torch.manual_seed(0)
    model = open_clip.CLIP(**OPEN_CLIP)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return config, weights
