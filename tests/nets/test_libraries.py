"""timm:, open_clip: and hf: networks: their outputs are those of the libraries, and their heads and maps are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.tiny_networks import HF_KINDS, save_hf, save_open_clip
from torch import nn

from debeton.nets.heads import install_head
from debeton.nets.models import architecture, make_model, named_head, replace_head
from debeton.nets.saliency import grad_cam
from debeton.system.errors import DataError, UsageError

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may wait for a hub."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def features_of(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The input of the head."""
    seen: list[torch.Tensor] = []
    hook = named_head(model)[1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.inference_mode():
        model.eval()(image)
    hook.remove()
    return seen[0].flatten(1)


# --- timm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("test_vit", "head"),
        ("test_resnet", "fc"),
        ("test_byobnet", "head.fc"),
        ("test_efficientnet", "classifier"),
        ("resnetv2_50", "head.fc"),
        ("levit_128s", "head"),
        ("deit_tiny_distilled_patch16_224", "head"),
    ],
)
def test_a_network_of_timm_gets_a_head_of_any_width(name, head):
    with torch.device("meta"):
        model = make_model(f"timm:{name}", 5).eval()
        assert named_head(model)[0] == head
        size = architecture(f"timm:{name}").size
        image = torch.empty(2, 3, size, size)
        assert model(image).shape == (2, 5)
        replace_head(model, 3, fresh=True)
        assert model(image).shape == (2, 3)
    model = make_model(f"timm:{name}", 5)
    install_head(model, 4, normalise=True)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_published_weights_of_timm_come_from_a_file_and_give_its_logits(tmp_path):
    torch.manual_seed(0)
    original = timm.create_model("test_vit", num_classes=1000).eval()
    save_file(original.state_dict(), tmp_path / "vit.safetensors")
    torch.save({"state_dict": original.state_dict()}, tmp_path / "vit.pth")
    image = torch.randn(2, 3, 160, 160)
    for file in ("vit.safetensors", "vit.pth"):
        whole = make_model("timm:test_vit", 1000, pretrained=True, weights=tmp_path / file).eval()
        other = make_model("timm:test_vit", 3, weights=tmp_path / file).eval()
        with torch.inference_mode():
            torch.testing.assert_close(whole(image), original(image))
            expected = original.forward_head(original.forward_features(image), pre_logits=True)
            torch.testing.assert_close(features_of(other, image), expected)
    described = architecture("timm:test_vit")
    assert (described.size, described.mean) == (160, tuple(original.pretrained_cfg["mean"]))


def test_a_transformer_of_timm_adapts_to_multiples_of_its_patch():
    model = make_model("timm:test_vit", 2).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 48, 32)).shape == (1, 2)
        with pytest.raises((AssertionError, RuntimeError)):
            model(torch.zeros(1, 3, 50, 50))


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("timm:resnet81", "did you mean 'timm:resnet"),
        ("timm:resnet18.nothing", "timm:resnet18 has no weights 'nothing'"),
        ("open_clip:ViT-B-33", "did you mean 'open_clip:ViT-B-32"),
        ("open_clip:ViT-B-32@laion3b", "has no weights 'laion3b'"),
        ("hf:", "names no folder"),
        ("hf:somebody/nothing", "nothing is downloaded"),
        ("resnet5O", "did you mean 'resnet50'"),
    ],
)
def test_a_name_that_is_unknown_is_an_error_that_names_the_nearest(arch, words):
    with pytest.raises(UsageError) as error:
        architecture(arch)
    assert words in str(error.value)


def test_weights_that_cannot_be_downloaded_are_a_sentence_that_says_what_to_do():
    with pytest.raises(DataError, match=r"give their file with --model\.weights FILE"):
        make_model("timm:test_vit", 2, pretrained=True)
    with pytest.raises(DataError, match=r"give their file with --model\.weights FILE"):
        make_model("open_clip:ViT-B-32@laion2b_s34b_b79k", 2, pretrained=True)


# --- open_clip and transformers ---------------------------------------------------------------------


def test_an_image_tower_of_open_clip_gives_the_embeddings_of_open_clip(tmp_path):
    import open_clip
    from safetensors.torch import load_file

    config, weights = save_open_clip(tmp_path)
    original = open_clip.CLIP(**json.loads(config.read_text())).eval()
    original.load_state_dict(load_file(weights))
    for model in (
        make_model(f"open_clip:{config}@{weights}", 3, pretrained=True),
        make_model(f"open_clip:{config}", 3, weights=weights),
    ):
        with torch.inference_mode():
            torch.testing.assert_close(features_of(model, IMAGES), original.encode_image(IMAGES))
    described = architecture(f"open_clip:{config}")
    assert (described.size, described.mean) == (32, open_clip.OPENAI_DATASET_MEAN)
    config.unlink()
    rebuilt = make_model(f"open_clip:{config}", 3, config=described.config)
    rebuilt.load_state_dict(model.state_dict())


@pytest.mark.parametrize("kind", HF_KINDS)
def test_an_image_model_of_transformers_gives_its_own_features(kind, tmp_path):
    import transformers

    folder = save_hf(tmp_path / kind, kind)
    model = make_model(f"hf:{folder}", 3, pretrained=True)
    classes = {"clip": "CLIPModel", "clip_vision": "CLIPVisionModel", "siglip_vision": "SiglipVisionModel"}
    classes |= {"dinov2": "Dinov2Model", "vit": "ViTForImageClassification", "convnext": "ConvNextModel"}
    original = getattr(transformers, classes[kind]).from_pretrained(folder).eval()
    with torch.inference_mode():
        if kind == "vit":
            expected = original.vit(IMAGES).last_hidden_state[:, 0]
        else:
            expected = getattr(original, "vision_model", original)(IMAGES).pooler_output
    torch.testing.assert_close(features_of(model, IMAGES), expected)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)  # position embeddings adapt
    described = architecture(f"hf:{folder}")
    (folder / "config.json").unlink()
    rebuilt = make_model(f"hf:{folder}", 3, config=json.loads(json.dumps(described.config)))
    rebuilt.load_state_dict(model.state_dict())


def test_a_folder_without_all_weights_is_an_error_that_names_them(tmp_path):
    from safetensors.torch import load_file

    folder = save_hf(tmp_path / "dino", "dinov2")
    weights = load_file(folder / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 are missing or of another shape: layernorm\.weight"):
        make_model(f"hf:{folder}", 2, pretrained=True)


def test_images_are_normalised_as_the_folder_says(tmp_path):
    folder = save_hf(tmp_path / "dino", "dinov2")
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_center_crop": True}
    values |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    described = architecture(f"hf:{folder}")
    assert (described.mean, described.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (described.size, described.crop) == (32, 0.8)


# --- pictures ---------------------------------------------------------------------------------------


def arch_of(kind: str, folder: Path) -> str:
    """The name of a tiny network."""
    if kind == "open_clip":
        return f"open_clip:{save_open_clip(folder)[0]}"
    return f"hf:{save_hf(folder, kind)}" if kind in HF_KINDS else f"timm:{kind}"


@pytest.mark.parametrize(
    "kind", ["open_clip", "clip_vision", "siglip_vision", "dinov2", "vit", "test_vit", "test_resnet"]
)
def test_a_network_of_another_library_has_a_map(kind, tmp_path):
    """It has places, lies in [0, 1], and is not the same everywhere."""
    torch.manual_seed(1)
    model = make_model(arch_of(kind, tmp_path / kind), 2).eval()
    heat = grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert heat is not None
    assert heat.shape == (2, 32, 32)
    assert 0 <= float(heat.min()) < float(heat.max()) <= 1
