"""Text that every Python brings along: nothing is downloaded, and the same Python gives the same text.

`documentation` is the language reference as `help()` prints it; `pieces` are short stretches of the standard
library's own source, each labelled with its package. Both are split by contiguous blocks, so that no test
piece overlaps a training piece.
"""

import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics

import torch
from torch import Tensor

PACKAGES = (
    "asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "urllib", "xml"
)  # fmt: skip
TOKEN = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")
UNKNOWN, MASK = 0, 1
"""Tokens that stand for a rare word, and for one that is to be guessed."""


@dataclass(frozen=True)
class Split:
    """Parts of a corpus: of every ten blocks eight for training, one for validation and one for testing."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @classmethod
    def of(cls, items: Tensor, blocks: int) -> "Split":
        """Cut `items` along the first dimension into `blocks` contiguous blocks and deal them out."""
        which = torch.arange(len(items)) * blocks // len(items) % 10
        return cls(items[which < 8], items[which == 8], items[which == 9])


@dataclass(frozen=True)
class Characters:
    """The documentation as numbers, one per character, with its alphabet."""

    alphabet: str
    split: Split
    sha256: str


@dataclass(frozen=True)
class Pieces:
    """Pieces of source, one a row: tokens in all columns but the last, which holds the package."""

    words: tuple[str, ...]
    split: Split
    sha256: str


def documentation() -> Characters:
    """The language reference, each paragraph once, since topics share whole chapters."""
    paragraphs: dict[str, None] = {}
    for name in sorted(topics.topics):
        paragraphs |= dict.fromkeys(re.split(r"\n\s*\n", topics.topics[name].strip("\n")))
    text = "\n\n".join(paragraphs)
    alphabet = "".join(sorted(set(text)))
    number = {character: index for index, character in enumerate(alphabet)}
    return Characters(
        alphabet, Split.of(torch.tensor([number[character] for character in text]), 20), sha256([text])
    )


def pieces(length: int = 32, vocabulary: int = 2048) -> Pieces:
    """Every stretch of `length` tokens of the packages' source; rare words all become `UNKNOWN`."""
    sources = [source(package) for package in PACKAGES]
    tokens = [TOKEN.findall(text) for text in sources]
    count = Counter(token for text in tokens for token in text)
    ranked = sorted(count, key=lambda token: (-count[token], token))[: vocabulary - 2]
    number = {token: index for index, token in enumerate(ranked, start=2)}
    splits = []
    for label, text in enumerate(tokens):
        whole = len(text) // length * length
        rows = torch.tensor([number.get(token, UNKNOWN) for token in text[:whole]]).view(-1, length)
        splits.append(Split.of(torch.cat([rows, torch.full((len(rows), 1), label)], dim=1), 50))
    split = Split(
        *(torch.cat([getattr(s, part) for s in splits]) for part in ("train", "validation", "test"))
    )
    return Pieces(("<unknown>", "<mask>", *ranked), split, sha256(sources))


def source(package: str) -> str:
    """All source files of a package of the standard library, its tests left out."""
    root = Path(sysconfig.get_path("stdlib")) / package
    files = sorted(path for path in root.rglob("*.py") if not {"test", "tests"} & set(path.parts))
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def sha256(texts: Sequence[str]) -> str:
    """Says which text it was: another version of Python brings another."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
