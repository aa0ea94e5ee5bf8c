"""Read the body of an answer: decompressed, and up to a size limit."""

from __future__ import annotations

import zlib

#: The size limit of an answer, in bytes, after decompression.
MAX_BODY = 16 * 2**20
#: How many bytes are read at once. So few, because they may grow a thousandfold when they are decompressed.
READ_SIZE = 8192
#: The only compression that is asked for. Both clients decompress here, so that both have the limit.
ACCEPT_ENCODING = "gzip"
#: How much is kept of an answer that is too large, for the error.
_EXCERPT = 500


class Body:
    """Collect the body of an answer."""

    def __init__(self, *encodings: str) -> None:
        listed = [each.strip().lower() for each in ",".join(encodings).split(",")]
        applied = [each for each in listed if each not in ("", "identity")]
        if applied and applied not in (["gzip"], ["x-gzip"], ["deflate"]):
            text = ", ".join(applied)[:40]
            raise zlib.error(f"the answer has the encoding {text!r}, which was not asked for")
        self._decoder = _decoder() if applied else None
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def is_too_large(self) -> bool:
        """Whether the answer is larger than the limit; no more of it is needed then."""
        return self._size > MAX_BODY

    def add(self, data: bytes) -> None:
        """Take a piece as it was received."""
        if self._decoder is None:
            self._append(data)
            return
        while data and not self.is_too_large:
            self._append(self._decoder.decompress(data, MAX_BODY + 1 - self._size))
            if not self._decoder.eof:
                return
            data = self._decoder.unused_data
            if not data.startswith(b"\x1f"):
                # Padding after the end, which is not part of the answer.
                return
            # The next member of the same gzip file.
            self._decoder = _decoder()

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)

    def to_bytes(self) -> bytes:
        """Return the whole body; its first characters if it is too large."""
        if self.is_too_large:
            return b"".join(self._pieces)[:_EXCERPT] + b" ..."
        if self._size and self._decoder is not None and not self._decoder.eof:
            raise zlib.error("the compressed answer was cut")
        return b"".join(self._pieces)


def _decoder() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)
