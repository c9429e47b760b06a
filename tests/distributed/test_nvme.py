"""Weights and what the optimizer remembers on a disk: the same training, and checkpoints that have all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ni_framework.checkpoint.manifest import TRAINING, WEIGHTS, read_manifest
from ni_framework.checkpoint.reader import Stored
from ni_framework.testing.workers.pool import Processes
from tests.distributed.test_resharding import COMMON, at, contents, lines

STEPS, CUT = 5, 2
ROUNDING = 1e-6
# Large enough for the disk, where DeepSpeed puts nothing smaller than a MiB of each process: 2 processes, several groups.
LARGE = ["model.width=128", "model.body.heads=4", "model.body.key=32", "model.body.hidden=4200"]
PLAIN = [*COMMON, *LARGE, "train.evaluate_every=3", "engine.use=zero", "engine.stage=3"]
VARIANTS = {
    "all on the disk": ("{}", "{max_in_cpu: 0}"),
    "weights in memory": ("{}", "{max_in_cpu: 1000000000}"),
    "two groups at once": ("{pipeline_read: true, pipeline_write: true}", "{max_in_cpu: 0}"),
    "set up fast": ("{fast_init: true}", "{max_in_cpu: 0}"),
}


def built() -> bool:
    """Whether DeepSpeed's own part is compiled; nothing is compiled to find out."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return any(root.glob("**/async_io.so"))


COMPILED = pytest.mark.skipif(
    not built(),
    reason="DeepSpeed's async_io is not compiled here: install libaio-dev, and have AsyncIOBuilder().load() do it",
)
PLACES = [
    pytest.param((2, False), id="2 by hand"),
    pytest.param((1, True), id="1", marks=COMPILED),
    pytest.param((2, True), id="2", marks=COMPILED),
]


@pytest.fixture(params=PLACES, scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Processes, bool]]:
    """New processes, and whether they read with what DeepSpeed compiles."""
    number, real = request.param
    with Processes(number) as found:
        yield found, real


def disk(folder: Path, variant: str = "all on the disk") -> list[str]:
    optimizer, weights = VARIANTS[variant]
    inside = f"{{sub_group_size: 600000, offload_optimizer: {optimizer}, offload_param: {weights}}}"
    return [
        *PLAIN,
        "engine.offload=nvme",
        f"engine.nvme={folder / 'disk'}",
        f"engine.deepspeed.zero_optimization={inside}",
    ]


def test_a_run_on_a_disk_is_the_run(place: tuple[Processes, bool], tmp_path: Path) -> None:
    """As it would be in memory; stored are the bits that are held, and with them it goes on as if it had stayed."""
    processes, real = place
    plain, run = tmp_path / "plain", tmp_path / "run"
    jobs = [
        {"run": str(plain), "overrides": PLAIN, "every": 1},
        {"run": str(run), "overrides": disk(tmp_path), "every": 1},
    ]
    for _, found in processes.call("tests.helpers.rank_functions.nvme:run_disk", jobs, real):
        assert found["groups"] >= 2, found
        assert found["parameters"] >= 4, found
        assert found["at once"] == 1, found
    compared(run, plain)
    as_held(run, processes.number)

    on, off = tmp_path / "on", tmp_path / "off"
    moves = [
        {"run": str(on), "path": str(at(run, CUT)), "overrides": []},
        {
            "run": str(off),
            "path": str(at(run, CUT)),
            "overrides": ["engine.offload=none", "engine.nvme=null", "engine.deepspeed=null"],
        },
        {"run": str(tmp_path / "from"), "path": str(at(plain, CUT)), "overrides": disk(tmp_path)[len(PLAIN) :]},
    ]
    processes.call("tests.helpers.rank_functions.nvme:run_disk", moves, real)
    stayed, gone_on = contents(at(run, STEPS)), contents(at(on, STEPS))
    assert stayed.keys() == gone_on.keys()
    assert [name for name in stayed if not torch.equal(stayed[name], gone_on[name])] == []
    compared(off, plain)
    compared(tmp_path / "from", plain)
    assert os.listdir(tmp_path / "disk") == []


@pytest.mark.parametrize(
    "variant",
    [
        "weights in memory",
        pytest.param("two groups at once", marks=pytest.mark.soak),
        pytest.param("set up fast", marks=pytest.mark.soak),
    ],
)
def test_ways_to_use_a_disk(two: Processes, variant: str, tmp_path: Path) -> None:
    plain, run = tmp_path / "plain", tmp_path / "run"
    jobs = [
        {"run": str(plain), "overrides": PLAIN, "every": 1},
        {"run": str(run), "overrides": disk(tmp_path, variant), "every": 1},
    ]
    for _, found in two.call("tests.helpers.rank_functions.nvme:run_disk", jobs):
        assert found["groups"] >= 2, found
        assert (found["parameters"] == 0) == (variant == "weights in memory"), found
    compared(run, plain)
    as_held(run, 2)
    two.call(
        "tests.helpers.rank_functions.nvme:run_disk",
        [{"run": str(tmp_path / "on"), "path": str(at(run, CUT)), "overrides": []}],
    )
    stayed, gone_on = contents(at(run, STEPS)), contents(at(tmp_path / "on", STEPS))
    assert [name for name in stayed if not torch.equal(stayed[name], gone_on[name])] == []


def test_frozen_weights_on_a_disk(place: tuple[Processes, bool], tmp_path: Path) -> None:
    processes, real = place
    for found in processes.call(
        "tests.helpers.rank_functions.nvme:frozen_move", str(tmp_path / "saved"), disk(tmp_path), real
    ):
        assert found.pop("frozen on disk") >= 2
        assert found.pop("apart") > 10
        assert found == {"differ": [], "wrong": []}
    assert os.listdir(tmp_path / "disk") == []


def compared(run: Path, other: Path) -> None:
    """Asserts that two runs ended alike, up to rounding."""
    mine, theirs = contents(at(run, STEPS)), contents(at(other, STEPS))
    assert mine.keys() == theirs.keys()
    assert {name for name in mine if (mine[name].double() - theirs[name].double()).abs().max() > ROUNDING} == set()
    found, wanted = lines(run), lines(other)
    shared = [key for key in found if key in wanted and "second" not in key[1] and isinstance(found[key], float)]
    assert any("accuracy" in name for _, name in shared), shared
    assert {key: found[key] for key in shared} == pytest.approx({key: wanted[key] for key in shared}, abs=1e-5)


def as_held(run: Path, size: int) -> None:
    """Asserts that each checkpoint has the bits that DeepSpeed itself says are held, of weights and moments."""
    for step in range(1, STEPS + 1):
        manifest, folder = read_manifest(at(run, step)), at(run, step)
        weights, training = (
            Stored(folder, manifest, WEIGHTS),
            Stored(folder, manifest, TRAINING).under("engine/optimizer"),
        )
        shards = [torch.load(run / f"held-{step}-{rank}") for rank in range(size)]
        assert len(shards[0]) > 30
        for key in shards[0]:
            kind, _, name = key.partition("/")
            whole = (weights.read(name) if kind == "weight" else training.read(key)).flatten()
            held = torch.cat([shard[key] for shard in shards])[: len(whole)]
            assert torch.equal(whole, held), key
