"""LPIPS v0.1 (Zhang et al. 2018) on VGG16 or SqueezeNet 1.1 features.

Weights come from a safetensors file with the names of their sources: the features as torchvision
names them (`features.0.weight`), the heads as the `lpips` package does (`lin0.model.1.weight`).
`mg convert-lpips` makes it. Which of the two networks it is, its names tell.
"""

import os
from pathlib import Path

import numpy as np

from mg.arrays import Arrays, read_safetensors
from mg.backend import Module, ModuleList, Tensor, cat, conv2d, max_pool2d, parameter, relu
from mg.losses.size import check_least

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
_TINY = 1e-20

# Layers by torchvision's index: "conv", "pool" or "fire"; a tuple is compared as one feature map.
_VGG16 = (
    (("conv", 0), ("conv", 2)),
    (("pool", 4), ("conv", 5), ("conv", 7)),
    (("pool", 9), ("conv", 10), ("conv", 12), ("conv", 14)),
    (("pool", 16), ("conv", 17), ("conv", 19), ("conv", 21)),
    (("pool", 23), ("conv", 24), ("conv", 26), ("conv", 28)),
)
_SQUEEZENET = (
    (("conv", 0),),
    (("pool", 2), ("fire", 3), ("fire", 4)),
    (("pool", 5), ("fire", 6), ("fire", 7)),
    (("pool", 8), ("fire", 9)),
    (("fire", 10),),
    (("fire", 11),),
    (("fire", 12),),
)


class FrozenConv(Module):
    """A convolution and ReLU that training does not change."""

    def __init__(self, arrays, name, in_channels, stride=1, padding=0):
        super().__init__()
        weight, bias = arrays.pop(f"{name}.weight"), arrays.pop(f"{name}.bias")
        kernel = 3 if padding or stride > 1 else 1
        if weight.shape[1:] != (in_channels, kernel, kernel) or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{name}.weight is {weight.shape} and its bias {bias.shape}, expected "
                f"(o {in_channels} {kernel} {kernel}) and (o)"
            )
        self.weight = parameter(weight, trainable=False)
        self.bias = parameter(bias, trainable=False)
        self.channels = weight.shape[0]
        self.stride, self.padding = stride, (padding,) * 4

    def forward(self, x):
        return relu(conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding))


class Fire(Module):
    """SqueezeNet's block: squeeze to few channels, expand by 1x1 and 3x3 convolutions."""

    def __init__(self, arrays, name, in_channels):
        super().__init__()
        self.squeeze = FrozenConv(arrays, f"{name}.squeeze", in_channels)
        self.expand1x1 = FrozenConv(arrays, f"{name}.expand1x1", self.squeeze.channels)
        self.expand3x3 = FrozenConv(arrays, f"{name}.expand3x3", self.squeeze.channels, padding=1)
        self.channels = self.expand1x1.channels + self.expand3x3.channels

    def forward(self, x):
        x = self.squeeze(x)
        return cat((self.expand1x1(x), self.expand3x3(x)), 2)


class MaxPool(Module):
    """VGG16's pooling of 2 or SqueezeNet's of 3, both with stride 2."""

    def __init__(self, kernel, channels):
        super().__init__()
        self.kernel, self.channels = kernel, channels

    def forward(self, x):
        return max_pool2d(x, kernel=self.kernel, stride=2, ceil_mode=self.kernel == 3)


class Stage(Module):
    """The layers between two compared feature maps, and the weights of the latter's channels."""

    def __init__(self, layers, head):
        super().__init__()
        self.layers = ModuleList(layers)
        self.head = parameter(head, trainable=False)
        self.channels = len(head)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def distance(self, x, y):
        """(b t): weighted squares of differences of unit vectors, mean over positions."""
        difference = _unit(x) - _unit(y)
        b, t, c, h, w = x.shape
        squares = (difference * difference).reshape(b, t, c, h * w).mean(3)
        return (squares * self.head).sum(2)


class LPIPS(Module):
    """The perceptual distance of frames.

    Args:
        weights: a safetensors file, see the module's text; or the arrays of one by their names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not the weights of LPIPS on VGG16 or SqueezeNet 1.1.
    """

    def __init__(self, weights: str | os.PathLike | dict[str, np.ndarray]):
        super().__init__()
        source = "arrays" if isinstance(weights, dict) else weights
        arrays = dict(weights) if isinstance(weights, dict) else _read(weights)
        squeeze = "features.3.squeeze.weight" in arrays
        stages = []
        try:
            for number, layers in enumerate(_SQUEEZENET if squeeze else _VGG16):
                channels = stages[-1].channels if stages else 3
                stages.append(_stage(arrays, number, layers, channels, squeeze))
        except KeyError as error:
            raise ValueError(f"{source}: not the weights of LPIPS, {error} is missing") from None
        except ValueError as error:
            raise ValueError(f"{source}: not the weights of LPIPS, {error}") from None
        if arrays:  # each layer has taken its own
            raise ValueError(f"{source}: not the weights of LPIPS, {min(arrays)!r} is unexpected")
        self.smallest = 17 if squeeze else 16
        self.stages = ModuleList(stages)
        self.shift = parameter(np.reshape(SHIFT, (3, 1, 1)), trainable=False)
        self.scale = parameter(np.reshape(SCALE, (3, 1, 1)), trainable=False)

    def forward(self, video: Tensor, target: Tensor) -> Tensor:
        """LPIPS of each frame `(b t)` between two videos `(b 3 t h w)` in [-1, 1].

        Raises:
            ValueError: see `check_size`.
        """
        self.check_size(video.shape[3], video.shape[4])
        x = (video.permute(0, 2, 1, 3, 4) - self.shift) / self.scale
        y = (target.permute(0, 2, 1, 3, 4) - self.shift) / self.scale
        distances = []
        for stage in self.stages:
            x, y = stage(x), stage(y)
            distances.append(stage.distance(x, y))  # type: ignore
        total = distances[0]
        for distance in distances[1:]:
            total = total + distance
        return total

    def check_size(self, height: int, width: int) -> None:
        """A video's height and width in pixels must be at least `smallest`, of which the last
        feature map has one position.

        Raises:
            ValueError: they are not.
        """
        check_least(height, width, self.smallest, "LPIPS")


def lpips_for(weights: str | None, image_size: int) -> LPIPS | None:
    """The network of a file of weights, for square videos of that size in pixels; None for None.

    Raises:
        ValueError, OSError: as of `LPIPS`; or the videos are too small for it.
    """
    if weights is None:
        return None
    lpips = LPIPS(weights)
    lpips.check_size(image_size, image_size)
    return lpips


def _stage(arrays, number, kinds, channels, squeeze):
    layers = []
    for kind, index in kinds:
        layers.append(_layer(arrays, kind, index, channels, squeeze))
        channels = layers[-1].channels
    name = f"lin{number}.model.1.weight"
    head = arrays.pop(name).reshape(-1)
    if len(head) != channels:
        raise ValueError(f"{name} has {len(head)} numbers, expected {channels}, its feature map's")
    return Stage(layers, head)


def _layer(arrays, kind, index, in_channels, squeeze):
    name = f"features.{index}"
    if kind == "pool":
        return MaxPool(3 if squeeze else 2, in_channels)
    if kind == "fire":
        return Fire(arrays, name, in_channels)
    options = {"stride": 2} if squeeze else {"padding": 1}
    return FrozenConv(arrays, name, in_channels, **options)


def _unit(x: Tensor) -> Tensor:
    """Scale each position's vector over channels to length 1."""
    return x / ((x * x).sum(2) + _TINY).sqrt().reshape(x.shape[0], x.shape[1], 1, *x.shape[3:])


def _read(path: str | os.PathLike) -> Arrays:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file of LPIPS weights; `mg convert-lpips` makes it"
        )
    return read_safetensors(path)[0]
