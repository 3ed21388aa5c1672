"""Ends well where compiled kernels serve the operators on the CPU; what a wheel is tested with."""

import sys

from supermask import ops

missing = [f"{name}: {served}" for name, served in ops.backends().items() if not served.startswith("native")]
if missing == [f"{name}: {served}" for name, served in ops.backends().items()]:
    sys.exit(f"no compiled kernel serves here: {missing[0]}")
print(f"{len(ops.backends()) - len(missing)} operators have compiled kernels ({ops.instruction_set()})")
