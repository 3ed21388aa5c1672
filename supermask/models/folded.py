"""Folded residual networks: López García-Arias et al., "Hidden-Fold Networks: Random Recurrent Residuals
Using Sparse Supermasks" (BMVC 2021).

In every stage all blocks but the first have the same shape. Here they are one block, applied n − 1 times to
its own output: one weight tensor, and under a search one mask, for all of them. Batch norms are not shared:
every iteration has its own (the paper's "ubatchnorm"), and by default they have no scale and shift, so that
nothing of them is trained. A search runs on such a network as on any other, and its ticket holds the shared
weights once: folding is a matter of the network, and no method of its own.

Sources. The folding of the paper, in detail as in the authors' code (`hidden-fold-networks`): which blocks
are folded, the norms, and the rescale of the frozen weights by √(1/k).

Deviations. The family is that of `resnet-20` to `resnet-110`, with basic blocks, where the paper folds
ResNets of ImageNet's widths.
"""

from torch import Tensor, nn

from supermask.models.layers import require_image_size, scaled
from supermask.models.registry import register_model
from supermask.models.resnet import BasicBlock, SmallImageResNet


class FoldedBlock(nn.Module):
    """A basic block without a change of shape, iterated over its own output.

    Args:
        channels: Channels of input and output.
        iterations: How often it is applied, at least once.
        affine: Give the batch norms a scale and a shift.
    """

    def __init__(self, channels: int, iterations: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(channels, affine=affine) for _ in range(iterations))
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(channels, affine=affine) for _ in range(iterations))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        for bn1, bn2 in zip(self.bn1, self.bn2, strict=True):
            x = self.relu(x + bn2(self.conv2(self.relu(bn1(self.conv1(x))))))
        return x


def folded_stage(in_channels: int, out_channels: int, stride: int, blocks: int, affine: bool) -> nn.Module:
    """A basic block that changes the shape, and one folded block for the `blocks` − 1 others."""
    first = BasicBlock(in_channels, out_channels, stride, affine)
    rest = [FoldedBlock(out_channels, blocks - 1, affine)] if blocks > 1 else []
    return nn.Sequential(first, *rest)


def _register(depth: int) -> None:
    name = f"folded-resnet-{depth}"

    @register_model(name)
    def factory(
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        width: float = 1.0,
        affine: bool = False,
    ) -> nn.Module:
        require_image_size(name, image_size, 4)
        return SmallImageResNet(
            [scaled(count, width) for count in (16, 32, 64)],
            (depth - 2) // 6,
            in_channels=in_channels,
            num_classes=num_classes,
            affine=affine,
            make_stage=folded_stage,
        )


for _depth in (20, 32, 44, 56, 110):
    _register(_depth)
