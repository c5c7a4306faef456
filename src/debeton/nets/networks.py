"""Three small networks that train on a CPU, blurpool, and classifiers around a classifier."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class Mlp(nn.Module):
    """Three hidden layers without convolutions, for images of 28 x 28 pixels: the network of LfF for Coloured MNIST.

    Nam et al. 2020 (arXiv 2007.02561), module/mlp.py of the released code.
    widths: units of the hidden layers; (100, 100, 100) has 0.26 M parameters.
    """

    SIDE = 28

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (100, 100, 100)):
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, width in pairwise((3 * self.SIDE * self.SIDE, *widths)):
            layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, 3, 28, 28]."""
        logits: Tensor = self.fc(self.features(image))
        return logits


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
