"""What the tests of text share: TFRecord files written the slow way, and reading all units."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace

import pytest

from alexatm_jax.text.problems import Problems


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = slow_crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field of a Protocol Buffers message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(text: bytes | None, name: str = "text") -> bytes:
    """A `tf.train.Example` with an int64 feature, and a bytes feature unless the text is None."""
    numbers = message(1, message(1, b"id") + message(2, message(3, message(1, b"\x01\x80\x01"))))
    if text is None:
        return message(1, numbers)
    value = message(2, message(1, message(1, text)))
    return message(1, numbers + message(1, message(1, name.encode()) + value))


@pytest.fixture(scope="session")
def tfrecord():
    """Writers of TFRecord files that share no code with the reader."""
    return SimpleNamespace(crc32c=slow_crc32c, record=record, example=example)


@pytest.fixture(scope="session")
def read_all():
    """Reads a source as workers would: each unit alone, after a trip through JSON."""

    def read(source):
        documents, reports = [], []
        for unit in source.units():
            problems = Problems(keep=1000)
            documents += source.documents(json.loads(json.dumps(unit)), problems)
            reports.append(problems.as_json())
        found = Problems.merged(reports, keep=1000)["examples"]
        return documents, [(p["kind"], p["path"], p["line"]) for p in found]

    return read
