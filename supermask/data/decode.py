"""One image file as bytes of red, green and blue.

JPEGs, which most large sets consist of, are decoded by torchvision, in half the time that Pillow takes and to
the same bytes; Pillow does the rest, and scales. Both let go of the interpreter lock meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from supermask import extras
from supermask.data.errors import DamagedDataError, UnreadableImageError

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_JPEG_START = b"\xff\xd8\xff"


def decode(path: Path, *, size: tuple[int, int], fit: bool) -> tuple[NDArray[np.uint8], bool]:
    """Return one image as (H, W, 3), contiguous, and whether its file is gray.

    Args:
        path: The file.
        size: Height and width.
        fit: Scale the middle square of the image to that size (bilinear, antialiased); otherwise the image
            must have it.

    Raises:
        UnreadableImageError: The file cannot be decoded.
        DamagedDataError: The image has another size, or more than 8 bits for a value.
    """
    with _decoding(path):
        colour, mode = _read(path)
    height, width = size
    if colour.shape[:2] != size:
        if not fit:
            raise DamagedDataError(
                f"{path} is {colour.shape[1]}x{colour.shape[0]} pixels and the images before it "
                f"{width}x{height}; pass image_size= to bring all to one size"
            )
        colour = _cover(colour, height)
    return np.ascontiguousarray(colour), mode in ("1", "L", "LA")


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image, from its header.

    Raises:
        UnreadableImageError: The file is no image.
    """
    with _decoding(path), _pillow().open(path) as image:
        width, height = image.size
    return height, width


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Names the file in whatever a decoder raises; what the disk or the memory says passes as it is."""
    try:
        yield
    except (DamagedDataError, MemoryError, extras.MissingExtraError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Decoders raise many kinds of error for bad bytes, and all mean the same here.
        raise _unreadable(path, error) from error


def _pillow() -> Any:
    return extras.load("PIL.Image", "data")


def _read(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Return the whole image as (H, W, 3) and Pillow's name of its mode."""
    if path.suffix.lower() in _JPEG_SUFFIXES:
        data = path.read_bytes()
        if data.startswith(_JPEG_START) and (found := _read_jpeg(data)) is not None:
            return found
    with _pillow().open(path) as image:
        mode = image.mode
        # Pillow's modes of 16 and 32 bits; turning them into 8 would clip without a word.
        if mode.startswith(("I", "F")):
            raise DamagedDataError(
                f"{path} has more than 8 bits for each pixel value (mode {mode}); convert it to 8 bits"
            )
        # A palette may carry transparency that Pillow drops with a warning unless it passes RGBA.
        rgb = image.convert("RGBA").convert("RGB") if mode == "P" else image.convert("RGB")
        return np.asarray(rgb, dtype=np.uint8), mode


def _read_jpeg(data: bytes) -> tuple[NDArray[np.uint8], str] | None:
    """Return image and mode, or None for what Pillow has to look at: inks, and what does not decode."""
    io: Any = extras.load("torchvision.io", "data")
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        planes = io.decode_jpeg(encoded, io.ImageReadMode.UNCHANGED)
    except RuntimeError:
        return None
    channels = len(planes)
    if channels not in (1, 3):
        return None
    pixels: NDArray[np.uint8] = planes.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return pixels, "L" if channels == 1 else "RGB"


def _cover(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale the middle square of an image to ``side`` pixels."""
    height, width = pixels.shape[:2]
    shorter = min(width, height)
    # Whole pixels, so that an image of the right height is cut and not also blurred.
    left, top = (width - shorter) // 2, (height - shorter) // 2
    if shorter == side:
        return pixels[top : top + side, left : left + side]
    box = (left, top, left + shorter, top + shorter)
    pillow = _pillow()
    scaled = pillow.fromarray(pixels).resize((side, side), pillow.Resampling.BILINEAR, box=box)
    return np.asarray(scaled, dtype=np.uint8)


def _unreadable(path: Path, error: Exception) -> UnreadableImageError:
    return UnreadableImageError(f"{path} cannot be read as an image ({error})")
