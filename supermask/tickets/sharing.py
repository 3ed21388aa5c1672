"""What every ticket can do for others: go to the Hub, and say whether it is the same as another."""

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supermask.tickets import hub


class Shared(ABC):
    """Base of `Ticket`: everything here follows from its file and from `info()`."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ticket."""

    @abstractmethod
    def info(self) -> Mapping[str, Any]:
        """What the ticket is."""

    def push_to_hub(
        self,
        repository: str,
        *,
        accuracy: float | None = None,
        private: bool = False,
        revision: str | None = None,
        message: str = "Upload a supermask ticket",
        token: str | None = None,
    ) -> str:
        """Put the ticket and a model card onto the Hugging Face Hub; `sm.load("hf://user/name")` reads it.

        Args:
            repository: `user/name`; it is made if there is none.
            accuracy: On the test split, as a fraction, for the card.
            private: Whether a repository that is made is seen by its owner alone.
            revision: Branch to commit to; by default the main one.
            message: Of the commit.
            token: By default the one that `hf auth login` stored.

        Returns:
            The address of the commit.

        Raises:
            ValueError: `repository` is no such name, or `accuracy` is no fraction.
            MissingExtraError: huggingface_hub is not installed: `pip install 'supermask[hub]'`.
            HubError: The Hub refuses, or is not reached.
        """
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy is a fraction from 0 to 1, not {accuracy}")
        with tempfile.TemporaryDirectory() as folder:
            file = self.save(Path(folder, hub.FILE))
            card = hub.card(self.info(), file.stat().st_size, repository, accuracy)
            return hub.upload(
                file, card, repository, private=private, revision=revision, message=message, token=token
            )
