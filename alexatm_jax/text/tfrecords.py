"""Reads TFRecord files of `tf.train.Example`, without TensorFlow.

TensorFlow's own reader takes a file that is cut within a record's header, or within the last bytes
of its compression, for a whole one, and holds records of any size; this one does neither.

Sources: the layout of a record in TensorFlow's `tensorflow/core/lib/io/record_writer.h`; the
messages in its `tensorflow/core/example/{example,feature}.proto`; the Protocol Buffers wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

import numpy as np

from alexatm_jax.text.byte_lines import read_blocks

CASTAGNOLI = 0x82F63B78
MASK_DELTA = 0xA282EAD8
# Hashed by one NumPy call; the table for it has 1 KiB for each byte.
HASHED_BYTES = 4096


@cache
def _crc_table() -> tuple[np.ndarray, np.ndarray]:
    """Tells what bytes add to a CRC by their place: HASHED_BYTES places, the last byte's last.

    Returns:
      uint32 [HASHED_BYTES * 256], what each value of a byte adds in each place, and
      int64 [HASHED_BYTES], where the values of each place begin.
    """
    table = np.zeros((HASHED_BYTES, 256), np.uint32)
    last: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = (last >> 1) ^ (last & 1) * np.uint32(CASTAGNOLI)
    table[-1] = last
    for row in range(HASHED_BYTES - 2, -1, -1):
        table[row] = (table[row + 1] >> 8) ^ last[table[row + 1] & 0xFF]
    return table.ravel(), np.arange(0, table.size, 256)


def crc32c(data: bytes) -> int:
    """Gives the CRC-32C of some bytes (RFC 3720, appendix B.4).

    A CRC is linear: each byte adds what depends on its distance to the end alone, and the CRC of
    what comes before acts as if it were added to the next four bytes.
    """
    table, places = _crc_table()
    crc = 0xFFFFFFFF
    for start in range(0, len(data), HASHED_BYTES):
        part = np.frombuffer(data[start : start + HASHED_BYTES], np.uint8).astype(np.intp)
        part[:4] ^= np.frombuffer(struct.pack("<I", crc), np.uint8)[: len(part)]
        added = table.take(part + places[-len(part) :])
        crc = (crc >> 8 * len(part)) ^ int(np.bitwise_xor.reduce(added))
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def read_records(file: BinaryIO, max_bytes: int) -> Iterator[bytes | None]:
    """Gives the records of a TFRecord file; None for one whose checksum is wrong.

    A record of more than `max_bytes` comes cut to one byte more than that, and unchecked.

    Raises:
      EOFError: where the file ends within a record.
      OSError: where the length of a record has a wrong checksum: nothing can be found after it.
    """
    while header := file.read(12):
        if len(header) < 12:
            raise EOFError("the file ends within the header of a record")
        length, header_crc = struct.unpack("<QI", header)
        if _masked_crc(header[:8]) != header_crc:
            raise OSError("the length of a record has a wrong checksum: damaged, or no TFRecords")
        record = file.read(min(length, max_bytes + 1))
        # As the record, read in blocks: it may be of any length.
        skipped = sum(map(len, read_blocks(file, length - len(record))))
        footer = file.read(4)
        if len(record) + skipped < length or len(footer) < 4:
            raise EOFError("the file ends within a record")
        if length <= max_bytes and _masked_crc(record) != struct.unpack("<I", footer)[0]:
            yield None
        else:
            yield record


def bytes_feature(example: bytes, name: str) -> list[bytes]:
    """Gives the values of a bytes feature of a serialized `tf.train.Example`.

    Returns:
      Its values; none where the example has no such feature, or one of numbers.

    Raises:
      ValueError: if the bytes are no such message.
    """
    # Example.features = 1; Features.feature = 1, a map of key = 1 to value = 2; Feature.bytes_list
    # = 1; BytesList.value = 1.
    entries = [entry for features in _strings(example, 1) for entry in _strings(features, 1)]
    found = [entry for entry in entries if name.encode() in _strings(entry, 1)]
    features = [feature for entry in found for feature in _strings(entry, 2)]
    lists = [values for feature in features for values in _strings(feature, 1)]
    return [value for values in lists for value in _strings(values, 1)]


def _strings(message: bytes, number: int) -> list[bytes]:
    """Gives the length-delimited fields of one number: strings, bytes, messages."""
    found = []
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            _, position = _varint(message, position)
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type} is in no tf.train.Example")
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes goes beyond the end of its message")
        if key == number << 3 | 2:
            found.append(message[position : position + length])
        position += length
    return found


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Reads a number of 7 bits a byte, the least first; gives it and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number in the message does not end")
