"""VGG-11, -13, -16 and -19 for small images (Simonyan and Zisserman, arXiv:1409.1556).

The convolutions are the paper's configurations A, B, D and E. As is usual on CIFAR, batch norm
follows each convolution, which then needs no bias, and global average pooling with one linear
layer takes the place of the three large ones (Frankle et al., arXiv:1912.05671; Morcos et al.,
arXiv:1906.02773). The average pooling also takes the place of the fifth max-pooling, so images
need 16 pixels a side.
"""

from torch import nn

from supermask.models.layers import require_image_size, scaled, sequential
from supermask.models.registry import register_model

_STAGE_CHANNELS = (64, 128, 256, 512, 512)
#: Convolutions in each of the five stages, by the number of layers with weights in the paper's
#: table.
_STAGE_DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _register(depth: int) -> None:
    name = f"vgg-{depth}"

    @register_model(name)
    def factory(
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        width: float = 1.0,
        affine: bool = True,
        batch_norm: bool = True,
    ) -> nn.Module:
        require_image_size(name, image_size, 16)
        layers: list[tuple[str, nn.Module]] = []
        fan, index = in_channels, 0
        for stage, count in enumerate(_STAGE_DEPTHS[depth]):
            if stage:
                layers.append((f"pool{stage}", nn.MaxPool2d(2)))
            out = scaled(_STAGE_CHANNELS[stage], width)
            for _ in range(count):
                index += 1
                layers.append((f"conv{index}", nn.Conv2d(fan, out, 3, padding=1, bias=False)))
                if batch_norm:
                    layers.append((f"bn{index}", nn.BatchNorm2d(out, affine=affine)))
                layers.append((f"relu{index}", nn.ReLU()))
                fan = out
        layers.append(("average", nn.AdaptiveAvgPool2d(1)))
        layers.append(("flatten", nn.Flatten()))
        layers.append(("fc", nn.Linear(fan, num_classes)))
        return sequential(layers)


for _depth in _STAGE_DEPTHS:
    _register(_depth)
