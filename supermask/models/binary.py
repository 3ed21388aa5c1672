"""Binary activations, for networks whose weights and activations have one bit.

The sign of x in place of the activation; its gradient is that of a piecewise quadratic approximation, from
Liu et al., "Bi-Real Net" (ECCV 2018, arXiv:1808.00278), equation 8: 2 - 2|x| inside (-1, 1), 0 outside.
Diffenderfer and Kailkhura (arXiv:2103.09377) use it for their multi-prize tickets of 1/1 bit.
"""

from torch import Tensor, nn, where

from supermask.models.structure import changes, remember_option

OPTION = "binary_activations"
"""The option of `create_model`, for every network, that asks for them."""
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Softplus,
)  # fmt: skip
"""What `binarize_activations` replaces. Sigmoids are gates more often than activations, so they stay."""


class SignActivation(nn.Module):
    """+1 where x ≥ 0, else -1, for x of any shape and float type."""

    def forward(self, x: Tensor) -> Tensor:
        inside = x.clamp(-1, 1)
        smooth = inside * (2 - inside.abs())
        return where(x < 0, -1.0, 1.0).to(x.dtype) + (smooth - smooth.detach())


def binarize_activations(model: nn.Module) -> nn.Module:
    """Put a `SignActivation` in place of every activation module (see `ACTIVATIONS`) of `model`.

    Norms before the activations help; the images that enter the network stay real. A network of
    `create_model` remembers the replacement, and so does its ticket.

    Returns:
        The model, changed in place.

    Raises:
        ValueError: It has no activation module; those that its `forward` calls as functions cannot be seen.
    """
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if isinstance(child, ACTIVATIONS)
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no activation module to replace; let it call modules (nn.ReLU) "
            "instead of functions"
        )
    altered = changes(model)
    for parent, name in found:
        setattr(parent, name, SignActivation())
    remember_option(model, OPTION, True, altered)
    return model
