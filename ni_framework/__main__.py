"""`python -m ni_framework` is `ni`: launchers such as torchrun start modules."""

from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # as for `ni`, what lies in the current folder is nothing to import

if sys.argv[1:2] and sys.argv[1].startswith("--local_rank="):
    del sys.argv[1]  # as the deepspeed launcher begins the arguments; LOCAL_RANK says the same

from ni_framework.distributed.launcher import supervised

if __name__ == "__main__":
    with supervised():
        from ni_framework.cli import main

        main()
