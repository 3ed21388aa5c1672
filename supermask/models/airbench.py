"""The convolutional network of airbench, which learns CIFAR-10 in ten epochs.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498) and the authors' code,
KellerJordan/cifar10-airbench (legacy/airbench94.py). A layer of 2x2 whitening filters, GELU, and
three blocks of two 3x3 convolutions, each with a batch norm without scale and a GELU; the first
convolution of a block is followed by a 2x2 max-pooling. Then the maximum over the image and one
linear layer, whose outputs are divided by 9. Widths 64, 256 and 256: 1,970,176 weights at ten
classes.

The whitening filters are no parameters. They follow from training images (``look_at``), are a
buffer of the network and stay as they are, so that they are the same in a trained network and in
one whose weights are frozen; a ticket stores them. Until images were shown, each filter copies one
value of its patch, or the negative of it.

The shifts of the norms learn 64 times as fast as the weights, as in the authors' code: what is
stored is an eighth of a shift, which under any linear gradient step is the same. In a search they
stay at 0.

Deviations. The whitening layer has no bias (theirs learns one for three epochs), the first input
channels of a convolution do not start as the identity, weights are not averaged ("Lookahead"), and
images are not mirrored in evaluation.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from supermask.models.layers import require_image_size, scaled
from supermask.models.registry import register_model

_CHANNELS = (64, 256, 256)
_KERNEL = 2
#: Added to the variances of patches, of images of standard deviation about 1.
_EPSILON = 5e-4
#: Sixty-four times the learning rate for what is multiplied by it.
_SHIFT_SCALE = 8.0
#: The authors keep 0.6 of the old statistics.
_NORM_MOMENTUM = 0.4


def whitening_filters(images: Tensor) -> Tensor:
    """Filters whose outputs over the patches of some images are uncorrelated, of variance about 1.

    Args:
        images: Normalized, (N, C, H, W).

    Returns:
        float32, (2 * C * 4, C, 2, 2): eigenvectors of the second moments of the 2x2 patches by
        falling eigenvalue λ, each divided by √(λ + 0.0005), and then their negatives. The largest
        entry of each eigenvector is positive, which leaves nothing to chance but the last bits.
    """
    channels = images.shape[1]
    count = channels * _KERNEL**2
    moments = torch.zeros(count, count, dtype=torch.float64)
    patches = 0
    for some in images.split(500):
        values = rearrange(F.unfold(some.double().cpu(), _KERNEL), "n value place -> value (n place)")
        moments += values @ values.T
        patches += values.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(moments / patches)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    vectors = vectors * largest.sign() / (eigenvalues + _EPSILON).sqrt()
    filters = rearrange(vectors.T.flip(0), "f (c h w) -> f c h w", c=channels, h=_KERNEL)
    return torch.cat([filters, -filters]).float()


class Whitening(nn.Module):
    """A convolution by fixed filters of 2x2 pixels.

    Args:
        in_channels: Channels of the images.
    """

    weight: Tensor

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        count = in_channels * _KERNEL**2
        copies = torch.eye(count).view(count, in_channels, _KERNEL, _KERNEL)
        self.register_buffer("weight", torch.cat([copies, -copies]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 8 C, H - 1, W - 1)."""
        return F.conv2d(x, self.weight)


class ShiftedNorm(nn.Module):
    """A batch norm without scale; its shift is eight times the parameter.

    Args:
        channels: Of the input.
        shift: Whether there is a shift.
    """

    def __init__(self, channels: int, shift: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=_NORM_MOMENTUM, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        x = self.norm(x)
        if self.bias is not None:
            x = x + (_SHIFT_SCALE * self.bias).to(x.dtype).view(-1, 1, 1)
        return x


class Block(nn.Module):
    """Two 3x3 convolutions, the first with a 2x2 max-pooling behind it.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        shift: Give the norms a shift.
    """

    def __init__(self, in_channels: int, channels: int, shift: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = ShiftedNorm(channels, shift)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = ShiftedNorm(channels, shift)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ⌊H/2⌋, ⌊W/2⌋)."""
        x = self.gelu(self.norm1(self.pool(self.conv1(x))))
        out: Tensor = self.gelu(self.norm2(self.conv2(x)))
        return out


class Airbench(nn.Module):
    """Whitening, three blocks, the maximum over the image, and a linear layer.

    Args:
        channels: Output channels of each block.
        in_channels: Channels of the images.
        num_classes: Outputs of the last layer.
        shift: Give the norms a shift.
        logit_scale: Factor of the outputs.
    """

    def __init__(
        self, channels: list[int], in_channels: int, num_classes: int, shift: bool, logit_scale: float
    ) -> None:
        super().__init__()
        self.whitening = Whitening(in_channels)
        self.gelu = nn.GELU()
        fans = [len(self.whitening.weight), *channels]
        self.blocks = nn.Sequential(
            *(Block(fan, out, shift) for fan, out in zip(fans, channels, strict=False))
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(channels[-1], num_classes, bias=False)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.pool(self.blocks(self.gelu(self.whitening(x)))).flatten(1)
        logits: Tensor = self.fc(x) * self.logit_scale
        return logits

    @torch.no_grad()
    def look_at(self, images: Tensor) -> None:
        """Let the whitening filters follow from normalized training images (N, in_channels, H, W)."""
        self.whitening.weight.copy_(whitening_filters(images))


@register_model("airbench")
def airbench(
    num_classes: int,
    in_channels: int,
    image_size: int,
    *,
    width: float = 1.0,
    shift: bool = True,
    logit_scale: float = 1 / 9,
) -> nn.Module:
    """The network of airbench, which learns CIFAR-10 in ten epochs; the module has its source."""
    require_image_size("airbench", image_size, 2 ** len(_CHANNELS) + _KERNEL - 1)
    channels = [scaled(count, width) for count in _CHANNELS]
    return Airbench(channels, in_channels, num_classes, shift, logit_scale)
