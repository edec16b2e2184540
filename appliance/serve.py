"""Serve: the root nursery. Signals, listeners, services, and the order of stopping."""

import gc
import os
import resource
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import trio

from appliance.components import Components, open_components
from appliance.config.errors import ConfigError, Mistake
from appliance.config.loading import Configuration, load_configuration
from appliance.config.tokens import LocalToken, TokenMistake, load_or_create_token
from appliance.host.bootloader import wait_bootloader_gone
from appliance.host.systemd import Manager, find_manager
from appliance.host.watchdog import run_watchdog
from appliance.server.doors import CLEANUP_S, Bound, announce, bind, listener_limits, open_tls
from appliance.server.gateway import Gateway, log_fault
from appliance.server.listener import run_listener
from appliance.server.refusals import make_refuser
from appliance.server.routes import METRIC_PATHS
from appliance.server.selfcheck import gateway_checks
from appliance.server.site import Site, build_site
from appliance.storage.images import run_sweeper
from appliance.telemetry.log import open_log
from appliance.upstream.health import run_prober

STOP_MARGIN_S = 25.0  # after the drain time: clean-up, the connections' end, the journal's, a slow machine
STOP_AGAIN_S = 1.0  # the bootloader of the executable forwards signals: SIGTERM may arrive twice at once
SWEEP_INTERVAL_S = 60.0


def run(configuration: Configuration) -> int:
    """Serve until told to stop; the process's exit code. Raises ConfigError before anything listens."""
    _raise_file_limit()
    return trio.run(_serve, configuration)


async def _serve(configuration: Configuration) -> int:
    log = open_log()
    manager = find_manager(os.environ)
    settings = configuration.settings
    local = None if configuration.tokens else _local_token(configuration)
    tokens = (local.token,) if local else configuration.tokens
    tls = open_tls(settings)
    api = bind("GATEWAY", settings.gateway_host, settings.gateway_port, "https" if tls else "http")
    observability = None
    if settings.observability_enabled:
        observability = bind("OBSERVABILITY", settings.observability_host, settings.observability_port, "http")
    ports = frozenset(bound.port for bound in (api, observability) if bound is not None)
    async with open_components(configuration, routes=METRIC_PATHS, log=log, own_ports=ports) as components:
        process = _Process(components, build_site(components, tokens), manager, api, observability, tls)
        _settle_heap()
        await process.run(lambda: announce(configuration, local, api, observability))
    return 0


class _Process:
    """The running gateway: clients in front, then the observers, the services, the journal; it stops in that order."""

    def __init__(
        self,
        components: Components,
        site: Site,
        manager: Manager,
        api: Bound,
        observability: Bound | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._components = components
        self._site = site
        self._manager = manager
        self._api = api
        self._observability = observability
        self._tls = tls
        self._at_once = trio.CancelScope()

    async def run(self, announce: Callable[[], None]) -> None:
        """Serve until a signal says stop, then end everything in order."""
        async with self._signals(), self._journals():
            with self._at_once:
                async with self._services(), self._observers():
                    await self._serve_clients(announce)
        self._components.log("gateway_stopped")

    @asynccontextmanager
    async def _signals(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            nursery.start_soon(self._watch_bootloader)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _journals(self) -> AsyncIterator[None]:
        """They outlive everything that writes into them, and end by themselves, within their own deadlines."""
        components = self._components
        all_journals = (components.journal, components.tool_records, components.agent_records)
        journals = [one for one in all_journals if one is not None]
        async with trio.open_nursery() as nursery:
            for journal in journals:
                await nursery.start(journal.run)
            async with components.agents.store.opened():
                yield
            for journal in journals:
                journal.close_nowait()

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        components = self._components
        settings = components.settings
        probe = partial(
            run_prober,
            components.health,
            components.configuration.backends.classes.values(),
            components.dispatcher.upstream,
            settings.health_check_interval_sec,
            settings.health_check_timeout_sec,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(run_sweeper, components.images, SWEEP_INTERVAL_S)
            await nursery.start(probe)
            await nursery.start(components.heap.run)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _observers(self) -> AsyncIterator[None]:
        """Health and metrics are there before the clients come, and until they have gone."""
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            if self._observability is not None:
                await nursery.start(
                    self._listen, "observability", self._site.observability, self._observability, None, stop
                )
            yield
            stop.set()

    async def _serve_clients(self, announce: Callable[[], None]) -> None:
        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            stop = self._components.lifecycle.stop
            await self._listen("api", self._site.api, self._api, self._tls, stop, task_status=task_status)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            announce()
            await nursery.start(self._feed_watchdog)
            self._manager.ready(self._serving())
            await self._limit_drain()

    async def _listen(
        self,
        name: Literal["api", "observability"],
        gateway: Gateway,
        bound: Bound,
        tls: ssl.SSLContext | None,
        stop: trio.Event,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        components = self._components

        def count(change: int) -> None:
            note = components.metrics.note_opened if change > 0 else components.metrics.note_closed
            note(name)

        await run_listener(
            gateway,
            bound.sockets,
            limits=listener_limits(components.settings),
            ssl_context=tls,
            http1=components.settings.gateway_http1,
            refuse=make_refuser(components),
            stop=stop,
            on_count=count,
            on_crash=lambda fault: log_fault(components.log, "-", fault),
            task_status=task_status,
        )

    async def _limit_drain(self) -> None:
        """After the drain time, running requests are told that it is over; clean-up is hurried from then on."""
        await self._components.lifecycle.stop.wait()
        await trio.sleep(self._components.settings.drain_timeout_sec)
        self._components.grace.cut(CLEANUP_S)
        self._site.stop_visits()

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        log = self._components.log
        stopping_since: float | None = None
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload()
                elif stopping_since is None:
                    stopping_since = trio.current_time()
                    log("gateway_draining", signal=signal.Signals(number).name)
                    self._begin_draining()
                elif trio.current_time() - stopping_since > STOP_AGAIN_S:
                    self._stop_at_once()

    def _begin_draining(self) -> None:
        drain_s = self._components.settings.drain_timeout_sec
        self._manager.stopping(f"Draining: running requests have {drain_s:g} s", drain_s + STOP_MARGIN_S)
        self._components.lifecycle.begin_draining()

    def _stop_at_once(self) -> None:
        self._components.log("gateway_stopped_at_once", level="warning")
        self._components.grace.cut(0)
        self._at_once.cancel()

    async def _watch_bootloader(self) -> None:
        await wait_bootloader_gone()
        self._components.log("bootloader_died", level="warning")
        self._components.lifecycle.begin_draining()
        self._stop_at_once()

    async def _feed_watchdog(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The manager hears of us only while listeners, threads and the journal move. It lasts while clients do."""
        interval_s = self._manager.watchdog_s
        if interval_s is None:
            task_status.started()
            return
        observability = self._observability.sockets[0] if self._observability is not None else None
        checks = gateway_checks(self._components, self._api.sockets[0], self._tls is not None, observability)
        await run_watchdog(self._manager.alive, checks, interval_s, self._components.log, task_status=task_status)

    def _serving(self) -> str:
        return f"Serving {self._api.url}"

    def _reload(self) -> None:
        """Tokens, policies and address lists are read anew; what fails leaves everything as it was."""
        log = self._components.log
        self._manager.reloading()
        try:
            configuration = load_configuration(os.environ)
            tokens = configuration.tokens or (_local_token(configuration).token,)
        except ConfigError as error:
            log("reload_failed", level="error", error=str(error))
            self._manager.ready(f"{self._serving()}; the last reload failed: {error.one_line()}")
            return
        self._site.reload(configuration, tokens)
        log("configuration_reloaded", tokens=len(tokens))
        self._manager.ready(self._serving())


def _local_token(configuration: Configuration) -> LocalToken:
    try:
        return load_or_create_token(configuration.state_dir)
    except (TokenMistake, OSError) as error:
        raise ConfigError((Mistake("state directory", f"{configuration.state_dir}: {error}"),)) from None


def _settle_heap() -> None:
    """What was imported and built lives as long as the process: a full collection that walks it costs every client
    45 ms and finds nothing. Requests leave few cycles, so the young may be collected less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _raise_file_limit() -> None:
    """Two listeners full of connections, their upstreams and files want more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
