"""What is done for `offload: nvme` beside DeepSpeed, without a disk of its kind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework.distributed.rendezvous import join
from ni_framework.engines.deepspeed.aio_alignment import Aligned
from ni_framework.engines.deepspeed.nvme import check_async_io, folder_for, kept, size_buffers
from ni_framework.engines.deepspeed.sharded_build import import_deepspeed
from ni_framework.errors import RecipeError, RunError
from tests.helpers.fake_aio import ByHand
from tests.helpers.small_recipe import small_recipe


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "disk"
    recipe = small_recipe(tmp_path, "engine.use=zero", "engine.stage=3", "engine.offload=nvme", f"engine.nvme={place}")
    with pytest.raises(RecipeError) as caught:
        folder_for(recipe)
    first, *_, last = str(caught.value).splitlines()
    assert first.endswith(f"engine.nvme: {place} is no folder that can be written to (Not a directory)")
    assert last == "  help: use a folder on a disk that every machine has"


def test_what_reads_a_disk_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    join(small_recipe(tmp_path, "engine.use=zero").engine)
    import_deepspeed(sys.stderr)
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    def fails(self: Any, verbose: bool = True) -> None:
        raise RuntimeError("Unable to JIT load the async_io op\nand more")

    monkeypatch.setattr(AsyncIOBuilder, "load", fails)
    with pytest.raises(RunError) as caught:
        check_async_io()
    assert str(caught.value) == (
        "engine.offload: DeepSpeed cannot compile what reads and writes a disk, its async_io "
        "(Unable to JIT load the async_io op); "
        "install libaio with its headers (libaio-dev), ninja and a C++ compiler, or use `offload: cpu`"
    )


def test_a_copy_in_a_file(tmp_path: Path) -> None:
    values_P = torch.randn(1000)
    copy_P = kept(values_P, str(tmp_path))
    assert torch.equal(copy_P, values_P)
    assert copy_P.data_ptr() != values_P.data_ptr()
    assert list(tmp_path.iterdir()) == []
    assert kept(values_P[:0], str(tmp_path)).numel() == 0


def test_any_memory_is_read_and_written(tmp_path: Path) -> None:
    """By the handle alone, memory that begins within a block stays as it was."""
    path = str(tmp_path / "file")
    for handle, works in [(ByHand(), False), (Aligned(ByHand()), True)]:
        memory_P = handle.new_cpu_locked_tensor(1024, torch.zeros(1))
        handle.async_pwrite(memory_P[256:512].copy_(torch.arange(256)), path, 0)
        assert handle.wait() == 1
        into_P = memory_P[5:261].fill_(-1)
        handle.async_pread(into_P, path, 0)
        assert handle.wait() == 1
        assert torch.equal(into_P, torch.arange(256.0)) == works
        handle.async_pwrite(memory_P[5:261].copy_(torch.arange(256.0) + 1), path, 0)
        assert handle.wait() == 1
        assert torch.equal(torch.from_file(path, size=256), torch.arange(256.0) + 1)
        assert handle.free_cpu_locked_tensor(memory_P)


@pytest.mark.parametrize(
    ("given", "buffers", "weights"),
    [
        ({}, 4, {"buffer_count": 3, "buffer_size": 300_000}),
        ({"pipeline_read": True, "pipeline_write": True}, 12, {"buffer_count": 3, "buffer_size": 300_000}),
        ({"buffer_count": 6, "fast_init": True}, 6, {"buffer_count": 3, "buffer_size": 1_300_000}),
    ],
)
def test_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], buffers: int, weights: dict[str, int]
) -> None:
    """A script's large weights come at the same time, and those outside of scripts beside them."""
    sizes = {
        "input.a": 600_000,
        "scripts.0.a": 600_000,
        "scripts.0.b": 600_000,
        "scripts.1.a": 600_000,
        "head.a": 500_000,
    }
    model = torch.nn.Module()
    monkeypatch.setattr(
        model,
        "named_parameters",
        lambda: [(name, torch.empty(number, device="meta")) for name, number in sizes.items()],
    )
    monkeypatch.setattr("ni_framework.engines.deepspeed.nvme.build_model", lambda recipe, device: model)
    zero: dict[str, Any] = {"offload_optimizer": dict(given), "offload_param": {}, "sub_group_size": 1_000_000}
    size_buffers(zero, small_recipe(tmp_path), 2)
    assert (zero["offload_optimizer"]["buffer_count"], zero["offload_param"]) == (buffers, weights)
