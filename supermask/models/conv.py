"""Conv-2, Conv-4, Conv-6 and Conv-8, the scaled-down VGGs of the lottery ticket papers.

Pairs of 3x3 convolutions with ReLU, a 2x2 max-pooling after each pair, then linear layers of 256,
256 and the classes. Conv-2 to Conv-6 are Frankle and Carbin's (arXiv:1803.03635), who give them
biases; Conv-8 and the form without biases and norms are Ramanujan et al.'s (arXiv:1911.13299),
who write the linear layers as 1x1 convolutions, which is the same function. Weights at 32x32x3
and ten classes: 4,300,992, 2,425,024, 2,261,184 and 5,275,840. With ``elu`` they are Koster et
al.'s (arXiv:2201.13361); with ``batch_norm``, a norm before each activation, those whose
activations Diffenderfer and Kailkhura (arXiv:2103.09377) make binary.
"""

from torch import nn

from supermask.models.layers import require_image_size, scaled, sequential
from supermask.models.registry import register_model

_PAIR_CHANNELS = (64, 128, 256, 512)
_HIDDEN = 256


def _register(convolutions: int) -> None:
    name = f"conv-{convolutions}"

    @register_model(name)
    def factory(
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        bias: bool = False,
        width: float = 1.0,
        batch_norm: bool = False,
        affine: bool = True,
        elu: bool = False,
    ) -> nn.Module:
        pairs = convolutions // 2
        require_image_size(name, image_size, 2**pairs)
        layers: list[tuple[str, nn.Module]] = []

        def activate(index: int, norm: type[nn.Module], channels: int) -> None:
            if batch_norm:
                layers.append((f"bn{index}", norm(channels, affine=affine)))
            layers.append((f"elu{index}", nn.ELU()) if elu else (f"relu{index}", nn.ReLU()))

        fan = in_channels
        for pair, channels in enumerate(_PAIR_CHANNELS[:pairs], start=1):
            for index in (2 * pair - 1, 2 * pair):
                out = scaled(channels, width)
                layers.append((f"conv{index}", nn.Conv2d(fan, out, 3, padding=1, bias=bias)))
                activate(index, nn.BatchNorm2d, out)
                fan = out
            layers.append((f"pool{pair}", nn.MaxPool2d(2)))
        # Poolings floor, so that 28x28 images give 7x7 after two of them and 3x3 after three.
        layers.append(("flatten", nn.Flatten()))
        fan *= (image_size // 2**pairs) ** 2
        for index in (1, 2):
            hidden = scaled(_HIDDEN, width)
            layers.append((f"fc{index}", nn.Linear(fan, hidden, bias=bias)))
            activate(convolutions + index, nn.BatchNorm1d, hidden)
            fan = hidden
        layers.append(("fc3", nn.Linear(fan, num_classes, bias=bias)))
        return sequential(layers)


for _convolutions in (2, 4, 6, 8):
    _register(_convolutions)
