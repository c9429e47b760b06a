"""What processes do where one of them fails in the middle; each function is called in all of them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from ni_framework.engine.join import join
from ni_framework.engine.order import Order
from ni_framework.engine.zero.engine import ZeroEngine
from ni_framework.model.compose import build_data
from tests.engine.small import small_recipe


def evaluation_fails() -> tuple[str, float]:
    """The error of a process that alone fails while averaged weights are in place, and after how many seconds it comes."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small_recipe(Path(folder), "engine.use=zero", "engine.stage=2", "train.average=0.9")
    team = join(recipe.engine)
    engine = ZeroEngine(recipe, team)
    engine.step(0, Order(build_data(recipe).open()["train"], 8, 0, team.share(8))[0], False)
    begin, said = time.monotonic(), ""
    try:
        with engine.inference():
            if team.rank == 1:
                raise OSError("a disk is gone")
            time.sleep(3)  # as one that is still at its batch, until it learns of that
            raise OSError("lost the other")
    except OSError as error:
        said = str(error)
    return said, time.monotonic() - begin
