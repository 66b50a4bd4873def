"""The records of a TensorBoard event file, also of a damaged one. Pure.

A record is 8 bytes of length, 4 of their checksum, the event, 4 of its checksum (TFRecord, with masked CRC-32C). Where
a checksum is wrong, the next bytes that are a record with right checksums are looked for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

HEADER, FOOTER = 12, 4
# No length has more than 4 bytes; zeros without an end are no header, as the checksum of zeros is another number.
MAY_BE_HEADER = re.compile(rb"(?=.{4}\0{4}(?!\0{4}))", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """A record with right checksums; ``start`` and ``end`` are bytes of the file."""

    start: int
    end: int
    event: bytes


@dataclass(frozen=True)
class Gap:
    """Bytes that hold no record. ``torn``: the file ends within a record that begins with them."""

    start: int
    end: int
    torn: bool = False


def records(data: bytes) -> Iterator[Record | Gap]:
    """All bytes of a file, in their order."""
    at = 0
    while at < len(data):
        part = _record(data, at) or _gap(data, at)
        yield part
        at = part.end


def _gap(data: bytes, at: int) -> Gap:
    following = _next(data, at + 1)
    return Gap(at, len(data), _torn(data, at)) if following is None else Gap(at, following)


def _record(data: bytes, at: int) -> Record | None:
    length = _length(data, at)
    if length is None:
        return None
    end = at + HEADER + length + FOOTER
    event = data[at + HEADER : end - FOOTER]
    if end > len(data) or struct.unpack_from("<I", data, end - FOOTER)[0] != _checksum(event):
        return None
    return Record(at, end, event)


def _length(data: bytes, at: int) -> int | None:
    """What a header says, if its checksum is right."""
    header = data[at : at + HEADER]
    if len(header) < HEADER or struct.unpack_from("<I", header, 8)[0] != _checksum(header[:8]):
        return None
    return int(struct.unpack("<Q", header[:8])[0])


def _next(data: bytes, at: int) -> int | None:
    found = (match.start() for match in MAY_BE_HEADER.finditer(data, at))
    return next((start for start in found if _record(data, start) is not None), None)


def _torn(data: bytes, at: int) -> bool:
    length = _length(data, at)
    if len(data) - at < HEADER:
        return not data[at + 4 : at + 8].strip(b"\0")
    return length is not None and at + HEADER + length + FOOTER > len(data)


@lru_cache(maxsize=1024)
def _checksum(data: bytes) -> int:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return int(masked_crc32c(data))
