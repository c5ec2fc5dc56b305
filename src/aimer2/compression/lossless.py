"""The way down: a blob in fewer bytes, and the very same bytes again, by itself or as what has changed since another of the same size.

Zstandard (RFC 8878) over the bytes in another order: of each 8 bytes first all first ones, then all second ones, and so on, so that the exponents of
floating-point numbers, which are alike, come together (as in Alted's Blosc). Of two models the exclusive or is taken first: what is the same becomes
zeros. Both ways go through pieces of 1 MiB, whatever the blob's size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import zstandard

from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Blob, BlobWriter

_PIECE = 1 << 20
_WIDTH = 8
_WINDOW = 1 << 23
"""The most that a reader sets aside for looking back."""


def pack(blob: Blob, base: Blob | None, writer: BlobWriter) -> None:
    """Writes the blob in fewer bytes; ``base``, of the same size, is what the reader has already."""
    packer = zstandard.ZstdCompressor(level=3, write_checksum=False).compressobj(size=blob.ref.size)
    for piece in _pieces(blob, base):
        head = len(piece) - len(piece) % _WIDTH
        ordered = np.concatenate([piece[:head].reshape(-1, _WIDTH).T.reshape(-1), piece[head:]])
        writer.write(packer.compress(ordered.tobytes()))
    writer.write(packer.flush())


def unpack(packed: Blob, base: Blob | None, size: int, writer: BlobWriter) -> None:
    """Writes the blob of this size again. Whoever calls compares its digest. Raises BadUpdate where the bytes are none that `pack` has written."""
    old = None if base is None else np.frombuffer(base.view(), np.uint8)
    if old is not None and len(old) != size:
        raise BadUpdate("What has changed was packed against a blob of another size.")
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(packed.view())
    try:
        for start in range(0, size, _PIECE):
            ordered = np.frombuffer(_read(reader, min(_PIECE, size - start)), np.uint8)
            head = len(ordered) - len(ordered) % _WIDTH
            piece = np.concatenate([ordered[:head].reshape(_WIDTH, -1).T.reshape(-1), ordered[head:]])
            if old is not None:
                piece ^= old[start : start + len(piece)]
            writer.write(piece.tobytes())
        if reader.read(1):
            raise BadUpdate("More bytes were packed than were announced.")
    except zstandard.ZstdError:
        raise BadUpdate("These bytes are not packed.") from None


def _pieces(blob: Blob, base: Blob | None) -> Iterator[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    new = np.frombuffer(blob.view(), np.uint8)
    old = None if base is None else np.frombuffer(base.view(), np.uint8)
    for start in range(0, len(new), _PIECE):
        piece = new[start : start + _PIECE]
        yield piece if old is None else piece ^ old[start : start + _PIECE]


def _read(reader: zstandard.ZstdDecompressionReader, count: int) -> bytes:
    parts = []
    while count:
        part = reader.read(count)
        if not part:
            raise BadUpdate("The packed bytes end too soon.")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
