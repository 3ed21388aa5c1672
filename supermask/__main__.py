"""`python -m supermask`, which is also what `torchrun -m supermask` starts."""

import sys

from supermask.cli import main

if __name__ == "__main__":
    sys.exit(main())
