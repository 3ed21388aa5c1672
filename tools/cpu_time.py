"""Seconds of CPU, which tell a slow program from a busy machine."""

import resource


def of_children() -> float:
    """Seconds of CPU that all programs took which this one started and which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
