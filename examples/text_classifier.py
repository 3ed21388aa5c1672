"""A text classifier: from which package of the standard library is this stretch of its source?

    python examples/text_classifier.py --out runs/text-classifier

A transformer encoder sees 32 words, numbers and signs and names one of nine packages. Reported is the
accuracy on blocks of source that no training piece comes from, beside that of naive Bayes on counts of words.
"""

from collections.abc import Sequence
from typing import Any

import torch
from _corpus import PACKAGES, Pieces, pieces
from _transformer import Transformer
from _trio import Example, OnStep, parser, row, start, trio, write_result
from sklearn.naive_bayes import MultinomialNB
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import supermask as sm
from supermask.training.loop import Schedule

LENGTH, BATCH = 32, 32
EMBEDDING = ["body.embedding.weight"]
"""Masked too: which parts of a drawn word count is most of what there is to learn here."""
ADAM = {"betas": (0.9, 0.98)}
RECIPE: dict[str, dict[str, Any]] = {
    "train": {"lr": 3e-3, "weight_decay": 0.01, **ADAM},
    "draw": {"init": "signed_constant", "gain": 1.0, "include": EMBEDDING},
    "search": {"base": "adamw", "lr": 3e-3, "weight_decay": 0.0, "include": EMBEDDING, **ADAM},
}


class Classifier(nn.Module):
    """The mean of the encoder's features, and a linear layer."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.body = Transformer(words, length=LENGTH, spread=0.1)
        self.head = nn.Linear(128, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(tokens).mean(dim=1))


def train(
    model: nn.Module, optimizer: Optimizer, rows: Tensor, steps: int, begin: int = 0, on_step: OnStep = id
) -> None:
    """Steps `begin` to `steps` over random batches of pieces, the learning rate falling to zero."""
    rate = Schedule("cosine", steps, warmup=min(20, steps))
    schedule = LambdaLR(optimizer, lambda done: rate(begin + done))
    model.train()
    for step in range(begin, steps):
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=torch.Generator().manual_seed(step))]
        optimizer.zero_grad()
        F.cross_entropy(model(chosen[:, :-1]), chosen[:, -1]).backward()
        optimizer.step()
        schedule.step()
        on_step(step + 1)


@torch.no_grad()
def accuracy(model: nn.Module, rows: Tensor) -> float:
    model.eval()
    right = sum(int((model(part[:, :-1]).argmax(1) == part[:, -1]).sum()) for part in rows.split(256))
    return right / len(rows)


def naive_bayes(corpus: Pieces, rows: Tensor) -> float:
    """Accuracy of what sees words but no order."""

    def counts(some: Tensor) -> Any:
        tokens = some[:, :-1]
        return torch.zeros(len(some), len(corpus.words)).scatter_add_(1, tokens, torch.ones(tokens.shape))

    known = corpus.split.train
    bayes = MultinomialNB(alpha=0.1).fit(counts(known).numpy(), known[:, -1].numpy())
    return float(bayes.score(counts(rows).numpy(), rows[:, -1].numpy()))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = start(parser(__doc__, steps=1000, density=0.5), arguments)
    corpus = pieces(LENGTH)
    rows = corpus.split.validation if options.validation else corpus.split.test
    example = Example(
        network=lambda: Classifier(len(corpus.words), len(PACKAGES)),
        trainer=lambda model: torch.optim.AdamW(model.parameters(), **RECIPE["train"]),
        draw=lambda model: sm.randomize_(model, seed=options.seed, density=options.density, **RECIPE["draw"]),
        search=lambda model: sm.EdgePopup(
            model, density=options.density, seed=options.seed, **RECIPE["search"]
        ),
        loop=lambda model, optimizer, begin, on_step: train(
            model, optimizer, corpus.split.train, options.steps, begin, on_step
        ),
        measure=lambda model: {"accuracy": accuracy(model, rows)},
        include=EMBEDDING,
    )
    found = trio(
        example,
        density=options.density,
        rounds=2,
        rewind_to=options.steps // 20,
        seed=options.seed,
        out=options.out,
    )
    found.append(row("naive Bayes", None, {"accuracy": naive_bayes(corpus, rows)}, None))
    about = {
        "task": "package of a stretch of source",
        "classes": list(PACKAGES),
        "corpus sha256": corpus.sha256,
    }
    about |= {"pieces": [len(corpus.split.train), len(rows)], "steps": options.steps, "batch": BATCH}
    about |= {"recipe": RECIPE}
    return write_result(
        "text_classifier", options, about=about, measures={"accuracy": "accuracy, %"}, rows=found
    )


if __name__ == "__main__":
    main()
