"""Chat whole: a streamed chat completion put together, for those who need all of it. Sans-IO: bytes in, one answer out."""

import json
import math
from collections.abc import Mapping
from typing import Any

from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.ids import NewId
from appliance.protocol.responses_calls import Call, Calls
from appliance.protocol.sse import SseReader, data_of, is_done
from appliance.protocol.streams import ended_early, read_events, upstream_error_event

# What the first chunk says for all; of any other field the last word counts: usage, timings.
_SAID_FIRST = frozenset({"id", "created", "model", "system_fingerprint"})
_NOT_KEPT = frozenset({"object", "choices"})


class ChatWhole:
    """Puts the chunks of one answer together.

    `text`: what was said so far. `finish_reason` None: not given yet.
    """

    def __init__(self, new_id: NewId) -> None:
        self._calls = Calls(new_id)
        self._arguments: dict[Call, list[str]] = {}
        self._first: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {"content": []}
        self._others: dict[str, Any] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self.finish_reason: str | None = None

    @property
    def text(self) -> str:
        return join_halves("".join(self._texts["content"]))

    def take(self, chunk: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take the next chunk; what it adds to the message is given back, {} if nothing."""
        for name, value in chunk.items():
            if name in _SAID_FIRST:
                self._first.setdefault(name, value)
            elif name not in _NOT_KEPT and value is not None:
                self._last[name] = value
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return {}
        finish = choice.get("finish_reason")
        self.finish_reason = finish if isinstance(finish, str) and finish else self.finish_reason
        if (logprobs := choice.get("logprobs")) is not None:
            self._take_logprobs(logprobs)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return {}
        for name, value in delta.items():
            if name in self._texts and isinstance(value, str):
                self._texts[name].append(value)
            elif name != "role" and value is not None:
                self._take_field(name, value)
        return delta

    def _take_field(self, name: str, value: Any) -> None:
        if name == "tool_calls":
            for entry in value if isinstance(value, list) else ():
                if isinstance(entry, dict):
                    call, arguments = self._calls.take(entry)
                    self._arguments.setdefault(call, []).append(arguments)
        elif name == "content" and isinstance(value, list):  # parts, as Mistral's models stream them
            texts = (part.get("text") for part in value if isinstance(part, dict))
            self._texts["content"] += [text for text in texts if isinstance(text, str)]
        elif isinstance(value, str):
            self._texts[name] = [value]
        elif name != "content":
            self._others[name] = value

    def _take_logprobs(self, logprobs: object) -> None:
        for name, tokens in logprobs.items() if isinstance(logprobs, dict) else ():
            if isinstance(tokens, list):
                self._logprobs.setdefault(name, []).extend(tokens)

    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls as a message holds them; those without an id of their own have one made. To be asked once."""
        return [
            {
                "id": self._calls.call_id(call),
                "type": "function",
                "function": {"name": call.name, "arguments": join_halves("".join(pieces))},
            }
            for call, pieces in self._arguments.items()
        ]

    def completion(self) -> dict[str, Any]:
        """The `chat.completion` that these chunks are the stream of. To be asked once."""
        calls = self.tool_calls()
        texts = {name: join_halves("".join(pieces)) for name, pieces in self._texts.items() if name != "content"}
        content = self.text or (None if calls else "")
        message = {"role": "assistant", "content": content, **texts, **self._others}
        if calls:
            message["tool_calls"] = calls
        logprobs = self._logprobs or None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}
        return {**self._first, "object": "chat.completion", "choices": [choice], **self._last}


class WholeReader:
    """Reads a stream to its end. `done`: it has nothing more to say."""

    def __init__(self, upstream: str, new_id: NewId) -> None:
        self._upstream = upstream
        self._reader = SseReader()
        self._whole = ChatWhole(new_id)
        self.done = False

    def feed(self, piece: bytes) -> bytes:
        """What of this read is the answer's: all of it, but for what comes after the event `[DONE]`.

        Raises UpstreamFailed for what is no chunk, and for an error that comes as an event.
        """
        if self.done:
            return b""
        events = read_events(self._reader, piece, self._upstream)
        for number, event in enumerate(events, 1):
            if is_done(event):
                self.done = True
                return piece[: len(piece) - sum(map(len, events[number:])) - len(self._reader.rest)]
            if (chunk := read_chunk(event, self._upstream)) is not None:
                self._whole.take(chunk)
        return piece

    def finish(self) -> dict[str, Any]:
        """The whole completion. Raises UpstreamFailed where the stream was left before its end: as in a relay, `[DONE]` is
        one, and a `finish_reason`. A `[DONE]` needs no blank line if nothing follows."""
        if not self.done and self._whole.finish_reason is None and not is_done(self._reader.rest):
            raise ended_early(self._upstream)
        return self._whole.completion()


def put_together(stream: bytes, upstream: str, new_id: NewId) -> dict[str, Any]:
    """The completion that a whole stream makes, as it makes it piece by piece. Raises UpstreamFailed as WholeReader does."""
    reader = WholeReader(upstream, new_id)
    reader.feed(stream)
    return reader.finish()


def join_halves(text: str) -> str:
    """Both halves of a surrogate pair, which came by different ways, as the one character that a record reads them as."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def read_chunk(event: bytes, upstream: str) -> dict[str, Any] | None:
    """The chunk in an event, None in a comment; numbers that JSON does not have become null.

    Raises UpstreamFailed for one that is none, or holds an error.
    """
    data = data_of(event)
    if data is None:
        return None
    try:
        chunk = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        chunk = None
    if not isinstance(chunk, dict):
        raise UpstreamFailed(f"{upstream} sent an event that is no JSON object.", upstream=upstream)
    if chunk.get("error"):
        raise upstream_error_event(data, upstream)
    return chunk


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)  # made once: each costs 10 us
