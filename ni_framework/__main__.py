"""Makes `python -m ni_framework` the same command as `ni`, since launchers such as torchrun start modules."""

from __future__ import annotations

import os
import sys

# As for `ni`, files in the current folder must not be imported as modules.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

# The deepspeed launcher puts this argument first. The environment variable LOCAL_RANK has the same value.
if sys.argv[1:2] and sys.argv[1].startswith("--local_rank="):
    del sys.argv[1]

from ni_framework.distributed.launcher import supervised_worker

if __name__ == "__main__":
    with supervised_worker():
        from ni_framework.cli import main

        main()
