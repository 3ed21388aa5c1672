"""A small transformer: blocks with the norm first, and heads that favour near tokens.

Positions have no parameters: a head's attention falls linearly with distance, at a slope of its own (Press
et al., "Train Short, Test Long", ICLR 2022). Every head of a causal network looks to the left; of any other,
half of the heads look left and half look right, so that order counts.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.relu(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    """Tokens (batch × length, at most `length`) to features (batch × length × `width`).

    Args:
        causal: Whether a place sees only what is to its left.
        spread: Standard deviation of the embedding, where it is trained.
    """

    def __init__(
        self,
        tokens: int,
        *,
        length: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        causal: bool = False,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        nn.init.normal_(self.embedding.weight, std=spread)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        place = torch.arange(length)
        distance = (place[:, None] - place[None]).float()  # positive to the left
        ways = [1] * heads if causal else [1, -1] * (heads // 2)
        slopes = [4.0**-rank for rank in (range(heads) if causal else (head // 2 for head in range(heads)))]
        signed = distance * torch.tensor(ways)[:, None, None]
        falling = -torch.tensor(slopes)[:, None, None] * signed
        bias = falling.masked_fill(signed < 0, -math.inf)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.bias[:, :length, :length])
        return self.norm(x)
