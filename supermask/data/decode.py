"""One image file as bytes of red, green and blue.

JPEGs, which most large sets consist of, are decoded by torchvision, in half the time that Pillow takes and to
the same bytes; Pillow does the rest, and scales. Both let go of the interpreter lock meanwhile.

Images are turned as their EXIF data say, so that they stand as every viewer shows them. Images of more than 8
bits for a value are refused, gray and colour alike: what part of the range their values fill is not known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from supermask import extras
from supermask.data.entries import shown
from supermask.data.errors import DamagedDataError, UnreadableImageError

Image, ImageOps = extras.lazily("PIL.Image", "data"), extras.lazily("PIL.ImageOps", "data")
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_JPEG_START = b"\xff\xd8\xff"
#: Markers of JPEG, by ITU-T T.81, table B.1: of frames, which declare the size, and of what has no length.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def decode(path: Path, *, size: tuple[int, int], fit: bool) -> tuple[NDArray[np.uint8], bool]:
    """Return one image as (H, W, 3), contiguous, and whether its file is gray.

    Args:
        path: The file.
        size: Height and width.
        fit: Scale the middle square of the image to that size (bilinear, antialiased); otherwise the image
            must have it.

    Raises:
        UnreadableImageError: The file cannot be decoded, has more than 8 bits for a value, or declares more
            pixels than Pillow takes.
        DamagedDataError: The image has another size.
    """
    with _decoding(path):
        colour, gray = _read(path)
    height, width = size
    if colour.shape[:2] != size:
        if not fit:
            raise DamagedDataError(
                f"{shown(path)} is {colour.shape[1]}x{colour.shape[0]} pixels and the images before it "
                f"{width}x{height}; pass image_size= to bring all to one size"
            )
        colour = _cover(colour, height)
    return np.ascontiguousarray(colour), gray


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image as `decode` sees it.

    Raises:
        UnreadableImageError: As of `decode`.
    """
    with _decoding(path):
        colour, _ = _read(path)
    return colour.shape[0], colour.shape[1]


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


def _read(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Return the whole image as (H, W, 3), and whether its file is gray."""
    if path.suffix.lower() in _JPEG_SUFFIXES:
        data = path.read_bytes()
        if data.startswith(_JPEG_START) and (found := _read_jpeg(data)) is not None:
            return found
    with Image.open(path) as image:
        gray = image.mode in ("1", "L", "LA")
        if _is_deep(image):
            raise UnreadableImageError(
                f"{shown(path)} has more than 8 bits for each pixel value; convert it to 8 bits"
            )
        ImageOps.exif_transpose(image, in_place=True)
        # A palette may carry transparency that Pillow drops with a warning unless it passes RGBA.
        rgb = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
        return np.asarray(rgb, dtype=np.uint8), gray


def _is_deep(image: Any) -> bool:
    """Whether an open image has more than 8 bits for a value; Pillow would drop or clip them silently."""
    if image.mode.startswith(("I", "F")):
        return True
    # Colours have modes of 8 bits; how the file packs them tells: "RGB;16B", or, of a PPM, the largest value.
    for tile in getattr(image, "tile", ()):
        packing = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(part, str) and ";16" in part for part in packing):
            return True
        if image.format == "PPM" and any(isinstance(part, int) and part > 255 for part in packing):
            return True
    return False


def _read_jpeg(data: bytes) -> tuple[NDArray[np.uint8], bool] | None:
    """Return an image and whether it is gray, or None for what Pillow has to look at.

    That are inks, what does not decode, and what is too large, because torchvision would believe the header.
    """
    io: Any = extras.load("torchvision.io", "data")
    pixels, most = _declared_pixels(data), Image.MAX_IMAGE_PIXELS
    if not pixels or (most is not None and pixels > most):
        return None
    try:
        planes = io.decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8),
            io.ImageReadMode.UNCHANGED,
            apply_exif_orientation=True,
        )
    except RuntimeError:
        return None
    channels = len(planes)
    if channels not in (1, 3):
        return None
    image: NDArray[np.uint8] = planes.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return image, channels == 1


def _declared_pixels(data: bytes) -> int:
    """Pixels that the frame header of a JPEG declares, or 0; whatever stands between markers is skipped."""
    at = 2
    while (at := data.find(0xFF, at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(data[at + 5 : at + 7]) * int.from_bytes(data[at + 7 : at + 9])
        if marker in (0x00, 0xFF) or marker in _ALONE:
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0


def _cover(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale the middle square of an image to ``side`` pixels."""
    height, width = pixels.shape[:2]
    shorter = min(width, height)
    # Whole pixels, so that an image of the right height is cut and not also blurred.
    left, top = (width - shorter) // 2, (height - shorter) // 2
    if shorter == side:
        return pixels[top : top + side, left : left + side]
    box = (left, top, left + shorter, top + shorter)
    scaled = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(scaled, dtype=np.uint8)


def _unreadable(path: Path, error: Exception) -> UnreadableImageError:
    return UnreadableImageError(f"{shown(path)} cannot be read as an image ({error})")
