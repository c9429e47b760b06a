"""Writes tensors as a safetensors file, one tensor at a time, so that memory never holds a second copy of all of them."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

# Smaller tensors are written together, in chunks of this many bytes.
_CHUNK_BYTES = 2**20
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | bytearray | memoryview]:
    """Yields the content of a safetensors file in chunks: the length of the header, the header as JSON, and the values.

    Source: https://github.com/huggingface/safetensors#format. Larger element types come first, so that all are aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    stop = 0
    for name in names:
        tensor = tensors[name]
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        entry = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        header[name] = entry
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    chunk = bytearray(struct.pack("<Q", len(encoded)) + encoded)
    for name in names:
        content = _tensor_bytes(tensors[name])
        if len(chunk) + len(content) > _CHUNK_BYTES:
            yield chunk
            chunk = bytearray()
        if len(content) > _CHUNK_BYTES:
            yield content
        else:
            chunk += content
    yield chunk


def _tensor_bytes(tensor: Tensor) -> memoryview:
    """Returns the bytes of a tensor's values, little-endian; a copy only if it is on another device or not contiguous."""
    bytes_P = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    if sys.byteorder == "big":
        bytes_P = bytes_P.view(-1, tensor.element_size()).flip(1).reshape(-1)
    return bytes_P.numpy().data
