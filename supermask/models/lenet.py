"""LeNet-300-100 and LeNet-5, the MNIST networks of the pruning literature.

LeNet-300-100 is the multilayer perceptron of LeCun et al., "Gradient-based learning applied to
document recognition" (1998), with the ReLUs that Frankle and Carbin (arXiv:1803.03635) use: 266,200
weights on 28x28 gray images. LeNet-5 is the variant that pruning papers since Han et al.
(arXiv:1506.02626) call by that name, the one with 20 and 50 filters of 5x5 and 500 hidden units:
430,500 weights, 431,080 parameters with biases. It is not the 1998 network of 6 and 16 filters.
"""

from torch import nn

from supermask.models.layers import require_image_size, scaled, sequential
from supermask.models.registry import register_model


@register_model("lenet-300-100")
def lenet_300_100(
    num_classes: int,
    in_channels: int,
    image_size: int,
    *,
    bias: bool = False,
    width: float = 1.0,
) -> nn.Module:
    """Return the perceptron of two hidden layers.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        image_size: Height and width of the images; any size fits.
        bias: Give the layers biases (edge-popup networks have none, Frankle and Carbin's do).
        width: Multiplier of the two hidden sizes.
    """
    first, second = scaled(300, width), scaled(100, width)
    return sequential(
        [
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(in_channels * image_size**2, first, bias=bias)),
            ("relu1", nn.ReLU()),
            ("fc2", nn.Linear(first, second, bias=bias)),
            ("relu2", nn.ReLU()),
            ("fc3", nn.Linear(second, num_classes, bias=bias)),
        ]
    )


@register_model("lenet-5")
def lenet_5(
    num_classes: int,
    in_channels: int,
    image_size: int,
    *,
    bias: bool = False,
    width: float = 1.0,
) -> nn.Module:
    """Return the network of two unpadded 5x5 convolutions and two linear layers.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 16.
        bias: Give the layers biases.
        width: Multiplier of the filters and of the hidden units.

    Raises:
        ValueError: The images are too small.
    """
    require_image_size("lenet-5", image_size, 16)
    filters1, filters2, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
    side = ((image_size - 4) // 2 - 4) // 2
    return sequential(
        [
            ("conv1", nn.Conv2d(in_channels, filters1, 5, bias=bias)),
            ("relu1", nn.ReLU()),
            ("pool1", nn.MaxPool2d(2)),
            ("conv2", nn.Conv2d(filters1, filters2, 5, bias=bias)),
            ("relu2", nn.ReLU()),
            ("pool2", nn.MaxPool2d(2)),
            ("flatten", nn.Flatten()),
            ("fc1", nn.Linear(filters2 * side**2, hidden, bias=bias)),
            ("relu3", nn.ReLU()),
            ("fc2", nn.Linear(hidden, num_classes, bias=bias)),
        ]
    )
