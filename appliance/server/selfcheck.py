"""Self-check: the parts that a living gateway must move, each asked to do so for real."""

import socket
import ssl

import trio

from appliance.components import Components
from appliance.host.watchdog import Check

_REQUEST = b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what is bound to every address answers on loopback


def gateway_checks(
    components: Components, api: socket.socket, api_tls: bool, observability: socket.socket | None
) -> dict[str, Check]:
    """The accept loops, the thread pool and the journal's writer, in the order in which they are asked.

    The journal comes last: the requests before have left lines that it has to write.
    """
    api_address = api.getsockname()[:2]
    observability_address = observability.getsockname()[:2] if observability is not None else None
    journal = components.journal

    async def api_answers() -> bool:
        # Draining, it accepts nobody: that is not a stall.
        return components.lifecycle.draining or await answers(*api_address, tls=api_tls)

    async def observability_answers() -> bool:
        return observability_address is None or await answers(*observability_address, tls=False)

    async def threads_run() -> bool:
        return await trio.to_thread.run_sync(_nothing, abandon_on_cancel=True)

    async def journal_writes() -> bool:
        if journal is not None:
            await journal.wait_attempt()
        return True

    return {
        "api listener": api_answers,
        "observability listener": observability_answers,
        "threads": threads_run,
        "request journal": journal_writes,
    }


async def answers(host: str, port: int, *, tls: bool) -> bool:
    """Whether a listener of ours accepts and answers; what it answers does not matter."""
    try:
        stream: trio.abc.Stream = await trio.open_tcp_stream(_ANY.get(host, host), port)
        async with stream:
            if tls:
                stream = trio.SSLStream(stream, _trusting_context(), https_compatible=True)
            await stream.send_all(_REQUEST)
            return (await stream.receive_some()).startswith(b"HTTP/1.1 ")
    except (OSError, trio.BrokenResourceError):
        return False


def _trusting_context() -> ssl.SSLContext:
    """Nothing is sent that would need a proof of who answers: the address is our own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _nothing() -> bool:
    return True
