"""The parts of `offload: nvme` that are ours: folder, buffer sizes, copies in files, aligned reads. No NVMe disk is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework.distributed.rendezvous import init_process_group
from ni_framework.engines.deepspeed.nvme_offload.aio_alignment import AlignedAio
from ni_framework.engines.deepspeed.nvme_offload.folder import (
    copy_to_mmap,
    create_swap_dir,
    prepare_async_io,
    set_buffer_sizes,
)
from ni_framework.engines.deepspeed.setup import import_deepspeed
from ni_framework.errors import RecipeError, RunError
from tests.helpers.fake_aio import FakeAio
from tests.helpers.small_recipe import load_small_recipe


def test_an_nvme_dir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nvme_dir = tmp_path / "file" / "disk"
    recipe = load_small_recipe(
        tmp_path, "engine.use=zero", "engine.stage=3", "engine.offload=nvme", f"engine.nvme_dir={nvme_dir}"
    )
    with pytest.raises(RecipeError) as caught:
        create_swap_dir(recipe)
    first, *_, last = str(caught.value).splitlines()
    assert first.endswith(f"engine.nvme_dir: {nvme_dir} is not a writable folder (Not a directory)")
    assert last == "  help: use a folder on a disk that every machine has"


@pytest.mark.slow
def test_async_io_that_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_process_group(load_small_recipe(tmp_path, "engine.use=zero").engine)
    import_deepspeed(sys.stderr)
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    def fail(self: Any, verbose: bool = True) -> None:
        raise RuntimeError("Unable to JIT load the async_io op\nand more")

    monkeypatch.setattr(AsyncIOBuilder, "load", fail)
    with pytest.raises(RunError) as caught:
        prepare_async_io()
    assert str(caught.value) == (
        "engine.offload: DeepSpeed cannot compile async_io, with which it reads and writes a disk "
        "(Unable to JIT load the async_io op); "
        "install libaio with its headers (libaio-dev), ninja and a C++ compiler, or use `offload: cpu`"
    )


def test_copy_to_mmap_leaves_no_file(tmp_path: Path) -> None:
    values_P = torch.randn(1000)
    copy_P = copy_to_mmap(values_P, str(tmp_path))
    assert torch.equal(copy_P, values_P)
    assert copy_P.data_ptr() != values_P.data_ptr()
    assert list(tmp_path.iterdir()) == []
    assert copy_to_mmap(values_P[:0], str(tmp_path)).numel() == 0


def test_aligned_aio_reads_and_writes_unaligned_memory(tmp_path: Path) -> None:
    """With the bare handle, memory that does not start at a block boundary keeps its old values."""
    path = str(tmp_path / "file")
    for handle, is_read in [(FakeAio(), False), (AlignedAio(FakeAio()), True)]:
        memory_P = handle.new_cpu_locked_tensor(1024, torch.zeros(1))
        handle.async_pwrite(memory_P[256:512].copy_(torch.arange(256)), path, 0)
        assert handle.wait() == 1
        into_P = memory_P[5:261].fill_(-1)
        handle.async_pread(into_P, path, 0)
        assert handle.wait() == 1
        assert torch.equal(into_P, torch.arange(256.0)) == is_read
        handle.async_pwrite(memory_P[5:261].copy_(torch.arange(256.0) + 1), path, 0)
        assert handle.wait() == 1
        assert torch.equal(torch.from_file(path, size=256), torch.arange(256.0) + 1)
        assert handle.free_cpu_locked_tensor(memory_P)


@pytest.mark.parametrize(
    ("optimizer_settings", "optimizer_buffers", "weight_buffers"),
    [
        ({}, 4, {"buffer_count": 3, "buffer_size": 300_000}),
        ({"pipeline_read": True, "pipeline_write": True}, 12, {"buffer_count": 3, "buffer_size": 300_000}),
        ({"buffer_count": 6, "fast_init": True}, 6, {"buffer_count": 3, "buffer_size": 1_300_000}),
    ],
)
def test_buffer_sizes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer_settings: dict[str, Any],
    optimizer_buffers: int,
    weight_buffers: dict[str, int],
) -> None:
    """There are buffers for the large weights of one script, which are read together, and for those outside of scripts."""
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
    monkeypatch.setattr("ni_framework.engines.deepspeed.nvme_offload.folder.build_model", lambda recipe, device: model)
    zero: dict[str, Any] = {
        "offload_optimizer": dict(optimizer_settings),
        "offload_param": {},
        "sub_group_size": 1_000_000,
    }
    set_buffer_sizes(zero, load_small_recipe(tmp_path), 2)
    assert zero["offload_optimizer"]["buffer_count"] == optimizer_buffers, "buffers of the optimizer"
    assert zero["offload_param"] == weight_buffers, "buffers of the weights"
