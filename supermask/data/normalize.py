"""From bytes to floats of mean 0 and standard deviation 1."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Values that a CPU takes at a time for each of its threads: the passes over them stay in its second cache,
#: and are long beside what sharing out each of them costs.
_CHUNK = 1 << 18

#: Changes levels (B, C, H, W) from 0 to 255 in place; the second argument says which images they are.
Adjustment = Callable[[Tensor, slice], None]


class Normalizer:
    """Turns bytes into floats of mean 0 and standard deviation 1: (x/255 - mean) / std.

    Args:
        mean: Mean of each channel, of pixel values in [0, 1].
        std: Standard deviation of each channel, likewise.
        device: Where the pixels are.
        dtype: Of the result.
        channels_last: Memory format of the result.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        dtype: torch.dtype,
        channels_last: bool = False,
    ) -> None:
        self._dtype, self._channels_last = dtype, channels_last
        centre, factor = [255 * m for m in mean], [1 / (255 * s) for s in std]
        self._centre = torch.tensor(centre, dtype=torch.float32, device=device)
        self._factor = torch.tensor(factor, dtype=torch.float32, device=device)

    def __call__(self, pixels: Tensor, adjust: Adjustment | None = None) -> Tensor:
        """Return uint8 pixels (B, C, H, W) as normalized floats of the same shape.

        Args:
            pixels: The images.
            adjust: Changes their levels before they are normalized.
        """
        count, channels, height, width = pixels.shape
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        pixels = pixels.contiguous(memory_format=layout)
        result = torch.empty_like(pixels, dtype=self._dtype, memory_format=layout)
        if self._channels_last:
            # Channels innermost: whole rows at a time, or the loop over three channels would be all the work.
            shape = (count, height, width * channels)
            flat, flat_result = (x.permute(0, 2, 3, 1).view(shape) for x in (pixels, result))
            centre, factor = self._centre.repeat(width), self._factor.repeat(width)
        else:
            flat, flat_result = pixels, result
            centre, factor = self._centre.view(-1, 1, 1), self._factor.view(-1, 1, 1)
        for first in range(0, count, size := self._images_at_a_time(pixels)):
            window = slice(first, first + size)
            part = flat_result[window]
            levels = part if self._dtype == torch.float32 else torch.empty_like(part, dtype=torch.float32)
            if adjust is None:
                levels.copy_(flat[window])
            else:
                # By planes: where channels lie innermost, each step over one of them would touch all.
                planes = pixels[window].to(torch.float32, memory_format=torch.contiguous_format)
                adjust(planes, window)
                interleaved = levels.view(-1, height, width, channels).permute(0, 3, 1, 2)
                (interleaved if self._channels_last else levels).copy_(planes)
            # Two operations, not a fused multiply-add: that rounds differently from device to device.
            levels.sub_(centre).mul_(factor)
            if levels is not part:
                part.copy_(levels)
        return result

    def _images_at_a_time(self, pixels: Tensor) -> int:
        if pixels.device.type != "cpu":
            return max(1, len(pixels))
        return max(1, _CHUNK * torch.get_num_threads() // max(1, pixels[0].numel() if len(pixels) else 1))
