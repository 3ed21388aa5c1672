"""A graph network under a search: two graph convolutions on made data of Cora's size.

    python examples/integrations/graph_network.py

Kipf and Welling (ICLR 2017). 2,708 papers of 7 fields have some of 1,433 words, mostly those of their field,
and cite mostly papers of their field. The fields of 140 papers are known; the accuracy is on the others.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm

NODES, WORDS, CLASSES, LINKS = 2708, 1433, 7, 5429


class GraphNetwork(nn.Module):
    """softmax(A ReLU(A X W1) W2), where A is the normalized adjacency."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(WORDS, hidden, bias=False)
        self.second = nn.Linear(hidden, CLASSES, bias=False)

    def forward(self, words: Tensor, adjacency: Tensor) -> Tensor:
        hidden = F.relu(adjacency @ self.first(words))
        return adjacency @ self.second(hidden)


def citations(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Words (nodes, words), normalized adjacency (sparse), and fields (nodes,)."""
    draw = torch.Generator().manual_seed(seed)
    fields = torch.randint(CLASSES, (NODES,), generator=draw)
    own = torch.arange(WORDS) % CLASSES == fields[:, None]
    words = (torch.rand(NODES, WORDS, generator=draw) < torch.where(own, 0.03, 0.01)).float()
    cited = torch.randint(NODES, (2, 20 * LINKS), generator=draw)
    near = fields[cited[0]] == fields[cited[1]]
    kept = cited[:, near | (torch.rand(cited.shape[1], generator=draw) < 0.05)][:, :LINKS]
    loops = torch.arange(NODES).repeat(2, 1)
    edges = torch.cat([kept, kept.flip(0), loops], dim=1).unique(dim=1)
    degree = torch.bincount(edges[0], minlength=NODES).float()
    values = (degree[edges[0]] * degree[edges[1]]).rsqrt()
    adjacency = torch.sparse_coo_tensor(edges, values, (NODES, NODES), check_invariants=True)
    return words, adjacency.coalesce(), fields


def main(steps: int = 100, out: str = "graph.ticket") -> float:
    words, adjacency, fields = citations()
    known = torch.cat([(fields == field).nonzero()[:20, 0] for field in range(CLASSES)])
    others = torch.ones(NODES, dtype=torch.bool).index_fill_(0, known, False)
    model = GraphNetwork()
    sm.randomize_(model, init="signed_constant", seed=0, density=0.5)
    search = sm.EdgePopup(model, density=0.5, lr=0.5, momentum=0.9)
    for _ in range(steps):
        F.cross_entropy(model(words, adjacency)[known], fields[known]).backward()
        search.step()
        search.zero_grad()
    search.ticket().save(out)
    with torch.no_grad():
        guessed = model(words, adjacency).argmax(1)
    return float((guessed == fields)[others].float().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    print(f"accuracy on unknown papers {main(parser.parse_args().steps):.3f}")
