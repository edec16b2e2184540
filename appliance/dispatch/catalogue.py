"""Catalogue: which models there are, asked of every class at once, and the names that this gateway adds to them."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import trio

from appliance.backends.base import LanguageBackend, ModelEntry
from appliance.config.alias import Alias
from appliance.config.classes import BackendClass, Backends, Provider
from appliance.config.settings import Settings
from appliance.protocol.errors import GatewayError, NotFound
from appliance.upstream.client import UpstreamClient

FAILED_TTL_S = 2.0  # a backend that is being started is seen soon, and one that is dead is not asked at every turn

_LANGUAGE = frozenset({"chat", "embeddings", "rerank"})
_NEAREST = 3
_NEAR = 0.5  # of difflib's ratio: `qwen2.5` is near `qwen2.5:7b`, `gpt-4o` is near nothing here
_COMPARED = 2000  # names; comparing is slow and nobody reads a hint that long


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One id that a request may name. `created`: Unix seconds. `alias`: the one that has this name."""

    id: str
    created: int
    owned_by: Literal["local", "gateway"]
    alias: Alias | None = None


@dataclass(frozen=True, slots=True)
class ModelList:
    """Every id once. `warnings` name the classes that could not be asked and are left out."""

    entries: tuple[CatalogueEntry, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Listing:
    """What one class offers, or why that is not known; good until `expires`, by trio's clock."""

    models: tuple[ModelEntry, ...]
    warning: str | None
    expires: float


@dataclass(slots=True, eq=False)
class _Shelf:
    """One class's last listing. Whoever holds the lock asks; the others wait for what comes of it."""

    one: BackendClass
    lock: trio.Lock = field(default_factory=trio.Lock)
    listing: _Listing = field(default_factory=lambda: _Listing((), None, -math.inf))

    @property
    def fresh(self) -> bool:
        return trio.current_time() < self.listing.expires


class Catalogue:
    """The models of all classes that chat, embed or rerank, remembered for a short time.

    `created`: Unix seconds, given to the names that are the gateway's own. A class without an address is not asked.
    """

    def __init__(
        self,
        backends: Backends,
        aliases: Mapping[str, Alias],
        providers: Mapping[Provider, LanguageBackend],
        upstream: UpstreamClient,
        settings: Settings,
        *,
        created: int,
    ) -> None:
        self._legacy = backends.legacy_mapping
        self._providers = providers
        self._upstream = upstream
        self._ttl_s = settings.models_cache_ttl_sec
        self._timeout_s = settings.models_probe_timeout_sec
        language = [one for one in backends.classes.values() if one.capabilities & _LANGUAGE]
        self._shelves = {one.name: _Shelf(one) for one in language if one.configured and one.provider in providers}
        self._own = _own_entries(language, aliases, created)

    async def list(self) -> ModelList:
        """Ask every class whose listing is not fresh, all at once. Takes no longer than MODELS_PROBE_TIMEOUT_SEC."""
        listings: dict[str, _Listing] = {}

        async def ask(shelf: _Shelf) -> None:
            listings[shelf.one.name] = await self._ask(shelf)

        async with trio.open_nursery() as nursery:
            for shelf in self._shelves.values():
                nursery.start_soon(ask, shelf)
        found: dict[str, CatalogueEntry] = {}
        for name in self._shelves:
            for model in listings[name].models:
                entry = _local_entry(name, model)
                if entry.id.lower() not in self._own:
                    found.setdefault(entry.id, entry)
        warnings = tuple(warning for name in self._shelves if (warning := listings[name].warning))
        return ModelList((*found.values(), *self._own.values()), warnings)

    async def refresh(self) -> dict[str, dict[str, Any]]:
        """Ask every class anew, whatever is remembered: class -> `{"ok", "models"}` or `{"ok", "error"}`."""
        for shelf in self._shelves.values():
            shelf.listing = replace(shelf.listing, expires=-math.inf)
        await self.list()
        listings = {name: shelf.listing for name, shelf in self._shelves.items()}
        return {
            name: {"ok": False, "error": listing.warning}
            if listing.warning
            else {"ok": True, "models": [model.name for model in listing.models]}
            for name, listing in listings.items()
        }

    async def find(self, model_id: str) -> CatalogueEntry:
        """The entry of this id; names of the gateway's own in any case. Asks one class at most.

        Raises NotFound with the nearest names.
        """
        if own := self._own.get(model_id.lower()):
            return own
        prefix, _, name = model_id.partition(":")
        shelf = self._shelves.get(self._legacy.get(prefix.lower(), prefix.lower()))
        models = (await self._ask(shelf)).models if shelf is not None else ()
        for model in models:
            if shelf is not None and model.name == name:
                return _local_entry(shelf.one.name, model)
        raise model_not_found(model_id, await self.nearest(model_id))

    async def nearest(self, model: str) -> tuple[str, ...]:
        """Ids that a client may have meant, best first; with or without the name of their class."""
        wanted = model.lower()
        scores: dict[str, float] = {}
        for entry in (await self.list()).entries[:_COMPARED]:
            score = max(_likeness(wanted, entry.id.lower()), _likeness(wanted, entry.id.lower().partition(":")[2]))
            if score >= _NEAR:
                scores[entry.id] = score
        return tuple(sorted(scores, key=lambda name: -scores[name])[:_NEAREST])

    async def _ask(self, shelf: _Shelf) -> _Listing:
        """One question at a time for each class: a caller that is cancelled hands it to the next one who waits.

        A failure is remembered if the class had its whole time, not if this caller had been waiting for another.
        """
        whole_time = not shelf.lock.locked()
        with trio.move_on_after(self._timeout_s):
            async with shelf.lock:
                if not shelf.fresh:
                    shelf.listing = await self._list_models(shelf.one)
                return shelf.listing
        late = self._failed(f"{shelf.one.name} did not list its models within {self._timeout_s:g} s.")
        if whole_time:
            shelf.listing = late
        return late

    async def _list_models(self, one: BackendClass) -> _Listing:
        backend = self._providers[one.provider]
        try:
            models = await backend.list_models(one, self._upstream, self._timeout_s)
        except GatewayError as error:
            return self._failed(error.message)
        return _Listing(models, None, trio.current_time() + self._ttl_s)

    def _failed(self, warning: str) -> _Listing:
        return _Listing((), warning, trio.current_time() + min(FAILED_TTL_S, self._ttl_s))


def model_not_found(model: str, nearest: Sequence[str]) -> NotFound:
    """The 404 of an unknown model. `nearest` is part of its body too."""
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "GET /v1/models lists what there is."
    return NotFound(
        f"The model {model[:128]!r} does not exist: {hint}",
        param="model",
        code="model_not_found",
        extra={"nearest": list(nearest)},
    )


def _own_entries(language: list[BackendClass], aliases: Mapping[str, Alias], created: int) -> dict[str, CatalogueEntry]:
    """`auto`, the classes' names, the aliases sorted. An alias that has a class's name stands for both."""
    names = ["auto", *(one.name for one in language if one.name not in aliases)]
    plain = {name: CatalogueEntry(name, created, "gateway") for name in names}
    return {**plain, **{name: CatalogueEntry(name, created, "gateway", aliases[name]) for name in sorted(aliases)}}


def _local_entry(backend_class: str, model: ModelEntry) -> CatalogueEntry:
    return CatalogueEntry(f"{backend_class}:{model.name}", model.created, "local")


def _likeness(one: str, other: str) -> float:
    if not one or not other:
        return 0.0
    matcher = difflib.SequenceMatcher(None, other, one)
    # The first two are cheap and never less than the third.
    return matcher.ratio() if min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= _NEAR else 0.0
