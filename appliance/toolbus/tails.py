"""Tails: the last of what a program writes, in bounded memory, however much it is."""

_UTF8_BYTES = 4  # the most that a character takes (RFC 3629)


class Tail:
    """Keeps the last characters of a stream of bytes, and counts them all. Takes twice what it keeps, at most."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._max_bytes = max_chars * _UTF8_BYTES
        self._kept = bytearray()
        self.total_bytes = 0

    def add(self, data: bytes | bytearray) -> None:
        self.total_bytes += len(data)
        self._kept += data[-self._max_bytes :] if self._max_bytes else b""
        if len(self._kept) > 2 * self._max_bytes:  # seldom, so that a byte is moved once and not each time
            del self._kept[: -self._max_bytes]

    def text(self) -> str:
        """The last characters; what is not UTF-8, as U+FFFD."""
        return self._decoded()[-self._max_chars :] if self._max_chars else ""

    def is_cut(self) -> bool:
        """Whether there was more than `text` has."""
        return len(self._kept) < self.total_bytes or len(self._decoded()) > self._max_chars

    def _decoded(self) -> str:
        """A first character that lost its head falls out: so many bytes have as many characters after it."""
        return self._kept.decode("utf-8", "replace")
