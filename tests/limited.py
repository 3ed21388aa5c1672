"""Runs a command with less than this CPU has, for `make test`: `python -m tests.limited avx2 pytest -m isa`.

Where a CPU has no more than AVX2, a limit of AVX2 changes nothing, and the command is left out: it would
compute what was computed without it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

LIMITS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
"""What torch, with it our kernels, and oneDNN are told."""


def has_more_than_avx2(cpuinfo: str) -> bool:
    """Whether a CPU, by the text of /proc/cpuinfo, has any vectors that a limit of AVX2 takes from it.

    Those of VNNI and AMX are among them: oneDNN counts AVX2 with VNNI as another set.
    """
    return re.search(r"^flags\s*:.*\b(avx512|avx10|avx_vnni|amx)", cpuinfo, re.MULTILINE) is not None


def limits() -> list[str]:
    """Those that make a difference here, and all of them where a CPU does not say what it has."""
    about = Path("/proc/cpuinfo")
    more = not about.exists() or has_more_than_avx2(about.read_text())
    return [name for name in LIMITS if more or name != "avx2"]


def main(name: str, *command: str) -> None:
    assert name in LIMITS and command, "python -m tests.limited avx2|default COMMAND"
    if name not in limits():
        print(f"this CPU has no more than {name}, and what ran without a limit ran with {name}: left out")
        return
    os.environ.update(LIMITS[name])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
