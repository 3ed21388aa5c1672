"""Residual networks for small images (He et al., arXiv:1512.03385).

ResNet-20 to ResNet-110 are the paper's CIFAR family: a 3x3 stem and three stages of 16, 32 and 64
channels with n basic blocks each, 6n + 2 layers in all. One deviation, shared with the lottery
ticket literature (Frankle et al., arXiv:1912.05671): where the shape changes, the shortcut is a
1x1 convolution with batch norm instead of padding with zero channels. ResNet-20 has 270,896
weights with the last layer. ResNet-18 for CIFAR is the paper's ImageNet network with a 3x3 stem
and no max-pooling, as Ramanujan et al. (arXiv:1911.13299) use it.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from supermask.models.layers import require_image_size, scaled
from supermask.models.registry import register_model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        affine: Give the batch norms a scale and a shift.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels, affine=affine)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, affine=affine)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels, affine=affine),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(residual + self.shortcut(x))
        return out


def residual_stage(in_channels: int, out_channels: int, stride: int, blocks: int, affine: bool) -> nn.Module:
    """A chain of basic blocks; the first has the stride and changes the number of channels."""
    first = BasicBlock(in_channels, out_channels, stride, affine)
    return nn.Sequential(
        first, *(BasicBlock(out_channels, out_channels, 1, affine) for _ in range(blocks - 1))
    )


class SmallImageResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks, all but the first halving the image, and one fc layer.

    Args:
        channels: Output channels of each stage; the stem has those of the first.
        blocks: Basic blocks in each stage.
        in_channels: Channels of the images.
        num_classes: Outputs of the last layer.
        affine: Give the batch norms a scale and a shift.
        make_stage: Input and output channels, stride, blocks and `affine` → a stage.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int,
        *,
        in_channels: int,
        num_classes: int,
        affine: bool,
        make_stage: Callable[[int, int, int, int, bool], nn.Module] = residual_stage,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0], affine=affine)
        self.relu = nn.ReLU()
        stages = []
        fan = channels[0]
        for index, out in enumerate(channels):
            stages.append(make_stage(fan, out, 2 if index > 0 else 1, blocks, affine))
            fan = out
        self.stages = nn.Sequential(*stages)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(fan, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.average(self.stages(x)).flatten(1)
        logits: Tensor = self.fc(x)
        return logits


def _register(name: str, channels: tuple[int, ...], blocks: int) -> None:
    @register_model(name)
    def factory(
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        width: float = 1.0,
        affine: bool = True,
    ) -> nn.Module:
        require_image_size(name, image_size, 2 ** (len(channels) - 1))
        return SmallImageResNet(
            [scaled(count, width) for count in channels],
            blocks,
            in_channels=in_channels,
            num_classes=num_classes,
            affine=affine,
        )


for _depth in (20, 32, 44, 56, 110):
    _register(f"resnet-{_depth}", (16, 32, 64), (_depth - 2) // 6)
_register("resnet-18-cifar", (64, 128, 256, 512), 2)
