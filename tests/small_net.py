"""The small network of many tests."""

import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """Convolution, norm, linear: every kind of parameter of a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6 * 16, 20)
        self.output = nn.Linear(20, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.output(torch.relu(self.hidden(nn.functional.max_pool2d(x, 2).flatten(1))))
