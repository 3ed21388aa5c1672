"""Images that stay in a file mapped into memory, and are read when they are used."""

import torch
from torch import Tensor

from supermask.data.dataset import Images

#: Images that are copied to a device at a time.
_CHUNK = 1024


class MappedImages(Images):
    """Some images of a mapped file; the system keeps in memory what is used often.

    Processes that map the same file share that memory.

    Args:
        stored: uint8, (N, H, W, C), contiguous: all images of the file.
        rows: int64, (n,): which of them these are.
        labels: int64, (n,).
    """

    def __init__(self, stored: Tensor, rows: Tensor, labels: Tensor) -> None:
        object.__setattr__(self, "stored", stored)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "labels", labels)

    stored: Tensor
    rows: Tensor

    @property
    def pixels(self) -> Tensor:
        """A copy of the images in memory: uint8, (n, C, H, W), in channels_last."""
        return self.stored.index_select(0, self.rows).permute(0, 3, 1, 2)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        _, height, width, channels = self.stored.shape
        return channels, height, width

    @property
    def nbytes(self) -> int:
        """Bytes of these images."""
        return len(self.rows) * self.stored[0].numel()

    def locate(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return all pixels of the file (N, C, H, W) and which of them are the images at integer indices."""
        return self.stored.permute(0, 3, 1, 2), self.rows.index_select(0, indices)

    def take(self, indices: Tensor) -> "MappedImages":
        """Return the images at integer indices, in their order, without reading them."""
        indices = indices.to(self.labels.device)
        return MappedImages(
            self.stored, self.rows.index_select(0, indices), self.labels.index_select(0, indices)
        )

    def to(self, device: torch.device | str) -> Images:
        """Return the images on a device; on the CPU they are where they should be."""
        if torch.device(device).type == "cpu":
            return self
        channels, height, width = self.shape
        copy = torch.empty(len(self), height, width, channels, dtype=torch.uint8, device=device)
        for part, rows in zip(copy.split(_CHUNK), self.rows.split(_CHUNK), strict=True):
            part.copy_(self.stored.index_select(0, rows))
        return Images(copy.permute(0, 3, 1, 2), self.labels.to(device))
