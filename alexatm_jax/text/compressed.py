"""Opens plain, gzip and Zstandard files as streams of bytes that notice a missing end."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSIONS = (".gz", ".zst")
# A Zstandard block of 4 bytes may stand for 128 KiB: this much input gives 8 MiB at most.
FEED_BYTES = 256


class _ZstandardFile(io.RawIOBase):
    """The content of a file of Zstandard frames, one after another.

    zstandard's own reader takes a file that was cut short for a whole one, so this one keeps
    the decompressor of each frame and asks it. Windows above 128 MiB are refused, as by `zstd -d`.
    """

    def __init__(self, file: BinaryIO) -> None:
        # Not everybody has it, and not everybody has .zst files.
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Reading .zst files needs the package zstandard; install alexatm_jax[data]."
            ) from error

        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._unused = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._ready:
            data = self._unused or self._file.read(FEED_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last Zstandard frame is incomplete")
                return 0
            # Lets go of the old content before the new is made.
            self._ready = memoryview(b"")
            self._ready = memoryview(self._decompressed(data))
        view = memoryview(buffer)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompressed(self, data: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        try:
            content = self._frame.decompress(data)
        except self._error as error:
            raise OSError(str(error)) from error
        self._unused = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return content

    def close(self) -> None:
        self._file.close()
        super().close()


def open_bytes(path: str) -> BinaryIO:
    """Opens a file to be read as bytes, decompressed if its name ends in .gz or .zst.

    All members of a gzip file and all frames of a Zstandard file are read, one after another.
    What comes before some damage is given before the damage is raised, if it is asked for with
    `read1`.

    Raises:
      EOFError: on opening or reading, where compressed data ends too early.
      OSError, zlib.error: where the file cannot be read, or is not what its name says.
    """
    file = open(path, "rb")
    if not path.lower().endswith(COMPRESSIONS):
        return file
    if not file.peek(1):
        file.close()
        # Both formats have headers; gzip's module would call this whole.
        raise EOFError("the file is empty")
    if path.lower().endswith(".gz"):
        file.close()
        return cast(BinaryIO, gzip.open(path, "rb"))
    return cast(BinaryIO, io.BufferedReader(_ZstandardFile(file)))
