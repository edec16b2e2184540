"""The catalogue: every class asked at once and rarely, whoever hangs, dies or leaves."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import trio
import trio.testing

from appliance.backends.base import ByteSource, LanguageCall, ModelEntry
from appliance.config.alias import Alias
from appliance.config.classes import BackendClass, Backends, Capability, Provider, default_health
from appliance.config.settings import Settings
from appliance.dispatch.catalogue import FAILED_TTL_S, Catalogue, CatalogueEntry
from appliance.protocol.errors import NotFound, UpstreamFailed
from appliance.protocol.language import LanguageKind
from appliance.upstream.client import UpstreamClient

UPSTREAM = cast("UpstreamClient", object())  # the fakes below talk to nobody
TTL_S = 10.0
PROBE_S = 3.0


@dataclass
class Listed:
    """A language backend that only lists: what each class offers, or the error it fails with, after so long."""

    offers: dict[str, Sequence[str] | Exception] = field(default_factory=dict)
    takes_s: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        raise NotImplementedError

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        raise NotImplementedError

    def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AbstractAsyncContextManager[ByteSource]:
        raise NotImplementedError

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        assert timeout_s == PROBE_S
        name = backend_class.name
        self.asked.append(name)
        await trio.sleep(self.takes_s.get(name, 0))
        offered = self.offers.get(name, ())
        if isinstance(offered, Exception):
            raise offered
        return tuple(ModelEntry(model, 7) for model in offered)


def backend(
    name: str, *does: Capability, base_url: str = "http://host:1", provider: Provider = "openai"
) -> BackendClass:
    return BackendClass(
        name=name,
        base_url=base_url,
        provider=provider,
        capabilities=frozenset(does or ("chat",)),
        limits={},
        health=default_health(provider),
    )


def make_catalogue(listed: Listed, *classes: BackendClass, aliases: Sequence[Alias] = ()) -> Catalogue:
    return Catalogue(
        Backends({one.name: one for one in classes}, {"old": "a"}),
        {alias.name: alias for alias in aliases},
        {"openai": listed, "mock_chat": listed},
        UPSTREAM,
        Settings(models_cache_ttl_sec=TTL_S, models_probe_timeout_sec=PROBE_S),
        created=99,
    )


async def ids(catalogue: Catalogue) -> list[str]:
    return [entry.id for entry in (await catalogue.list()).entries]


def died(name: str) -> UpstreamFailed:
    return UpstreamFailed(f"{name} cannot be reached.", upstream=name)


# What is in it


async def test_models_come_first_then_auto_the_classes_and_the_aliases_sorted() -> None:
    listed = Listed({"a": ["org/x:7b", "y"], "b": ["x"]})
    aliases = [Alias("slow", "b", "x"), Alias("fast", "a", "y", tools=False)]
    catalogue = make_catalogue(listed, backend("b"), backend("a", "embeddings"), aliases=aliases)
    found = await catalogue.list()
    assert found.warnings == ()
    assert [entry.id for entry in found.entries] == ["b:x", "a:org/x:7b", "a:y", "auto", "b", "a", "fast", "slow"]
    assert found.entries[0] == CatalogueEntry("b:x", 7, "local")
    assert found.entries[3] == CatalogueEntry("auto", 99, "gateway")
    assert found.entries[6] == CatalogueEntry("fast", 99, "gateway", aliases[1])


async def test_only_classes_with_an_address_and_a_known_provider_are_asked() -> None:
    listed = Listed({name: ["x"] for name in ("a", "bare", "draws", "ranks", "mock", "foreign")})
    catalogue = make_catalogue(
        listed,
        backend("a"),
        backend("bare", base_url=""),
        backend("draws", "images"),
        backend("ranks", "rerank"),
        backend("mock", base_url="", provider="mock_chat"),
        backend("foreign", provider="ollama"),
    )
    found = await catalogue.list()
    assert [entry.id for entry in found.entries] == [
        "a:x", "ranks:x", "mock:x", "auto", "a", "bare", "ranks", "mock", "foreign"
    ]  # fmt: skip
    assert found.warnings == (), "a class without an address is not dead"


async def test_an_id_is_there_once() -> None:
    listed = Listed({"a": ["x", "x", "Y"]})
    aliases = [Alias("a", "a", "x"), Alias("a:y", "a", "other")]
    catalogue = make_catalogue(listed, backend("a"), backend("b"), aliases=aliases)
    found = (await catalogue.list()).entries
    assert [entry.id for entry in found] == ["a:x", "auto", "b", "a", "a:y"]
    assert found[3].alias is aliases[0]


# Dead and slow ones


async def test_a_dead_upstream_is_left_out_and_named() -> None:
    catalogue = make_catalogue(Listed({"a": died("a"), "b": ["x"]}), backend("a"), backend("b"))
    found = await catalogue.list()
    assert [entry.id for entry in found.entries] == ["b:x", "auto", "a", "b"]
    assert found.warnings == ("a cannot be reached.",)


async def test_upstreams_that_hang_delay_the_answer_by_one_timeout(autojump_clock: trio.testing.MockClock) -> None:
    listed = Listed({"b": ["x"]}, takes_s={"a": 1000, "b": 2, "c": 1000})
    catalogue = make_catalogue(listed, backend("a"), backend("b"), backend("c"))
    started = trio.current_time()
    found = await catalogue.list()
    assert trio.current_time() - started == pytest.approx(PROBE_S)
    assert "b:x" in [entry.id for entry in found.entries]
    assert [warning.split()[0] for warning in found.warnings] == ["a", "c"]
    assert "within 3 s" in found.warnings[0]


async def test_an_error_that_nobody_meant_is_not_hidden() -> None:
    catalogue = make_catalogue(Listed({"a": ZeroDivisionError()}), backend("a"))
    with pytest.RaisesGroup(ZeroDivisionError):
        await catalogue.list()


# Remembering


async def test_a_listing_is_used_again_until_it_is_old(autojump_clock: trio.testing.MockClock) -> None:
    listed = Listed({"a": ["x"]})
    catalogue = make_catalogue(listed, backend("a"))
    for _ in range(3):
        assert "a:x" in await ids(catalogue)
    await trio.sleep(TTL_S - 0.1)
    listed.offers["a"] = ["y"]
    assert "a:x" in await ids(catalogue)
    assert listed.asked == ["a"]
    await trio.sleep(0.2)
    assert "a:y" in await ids(catalogue)
    assert listed.asked == ["a", "a"]


@pytest.mark.parametrize("takes_s", [0.0, 1000.0])
async def test_a_failure_is_remembered_for_less_long(takes_s: float, autojump_clock: trio.testing.MockClock) -> None:
    listed = Listed({"a": died("a")}, takes_s={"a": takes_s})
    catalogue = make_catalogue(listed, backend("a"))
    assert (await catalogue.list()).warnings
    await trio.sleep(FAILED_TTL_S - 0.1)
    assert (await catalogue.list()).warnings
    assert listed.asked == ["a"]
    listed.offers["a"], listed.takes_s["a"] = ["x"], 0
    await trio.sleep(0.2)
    assert "a:x" in await ids(catalogue)
    assert FAILED_TTL_S < TTL_S


# Many callers


async def test_many_callers_wait_for_one_question(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    listed = Listed({"a": ["x"]}, takes_s={"a": 2})
    catalogue = make_catalogue(listed, backend("a"))
    answers: list[list[str]] = []

    async def ask() -> None:
        answers.append(await ids(catalogue))

    async with trio.open_nursery() as askers:
        for _ in range(20):
            askers.start_soon(ask)
    assert len(answers) == 20
    assert all("a:x" in answer for answer in answers)
    assert listed.asked == ["a"]


async def test_a_caller_who_leaves_does_not_hurt_the_others(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    listed = Listed({"a": ["x"]}, takes_s={"a": 1})
    catalogue = make_catalogue(listed, backend("a"))
    answers: list[list[str]] = []
    first, waiting = trio.CancelScope(), trio.CancelScope()

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await ids(catalogue))

    nursery.start_soon(ask, first)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(ask, waiting)
    nursery.start_soon(ask, trio.CancelScope())
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(0.5)
    waiting.cancel()
    first.cancel()
    await trio.sleep(0.9)
    assert answers == []
    await trio.sleep(0.2)
    assert len(answers) == 1
    assert "a:x" in answers[0]
    assert listed.asked == ["a", "a"], "who waits goes on where the first left"


async def test_who_took_over_a_question_still_waits_no_longer_than_the_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    listed = Listed({"a": ["x"]}, takes_s={"a": 2.9})
    catalogue = make_catalogue(listed, backend("a"))
    first = trio.CancelScope()

    async def leave() -> None:
        with first:
            await catalogue.list()

    nursery.start_soon(leave)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(trio.sleep, 0)
    started = trio.current_time()

    async def cancel_late() -> None:
        await trio.sleep(2)
        first.cancel()

    nursery.start_soon(cancel_late)
    assert (await catalogue.list()).warnings
    assert trio.current_time() - started == pytest.approx(PROBE_S)
    listed.takes_s["a"] = 0
    assert "a:x" in await ids(catalogue), "a question that had no whole time is no failure of the class"


# One id


@pytest.mark.parametrize("asked", ["a:org/x:7b", "A:org/x:7b", "old:org/x:7b"])
async def test_a_model_is_found_by_asking_its_class_alone(asked: str) -> None:
    listed = Listed({"a": ["org/x:7b"], "b": ["x"]})
    catalogue = make_catalogue(listed, backend("a"), backend("b"))
    assert await catalogue.find(asked) == CatalogueEntry("a:org/x:7b", 7, "local")
    assert listed.asked == ["a"]


@pytest.mark.parametrize(("asked", "found"), [("auto", "auto"), ("B", "b"), ("FAST", "fast")])
async def test_names_of_the_gateway_are_found_without_asking(asked: str, found: str) -> None:
    listed = Listed()
    catalogue = make_catalogue(listed, backend("b"), aliases=[Alias("fast", "b", "x")])
    assert (await catalogue.find(asked)).id == found
    assert listed.asked == []


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("a:qwen2.5", ["a:qwen2.5:7b", "a:qwen2.5:32b"]),
        ("qwen2.5:7b", ["a:qwen2.5:7b", "a:qwen2.5:32b"]),
        ("QWEN2.5:7B", ["a:qwen2.5:7b", "a:qwen2.5:32b"]),
        ("fst", ["fast"]),
        ("zzzzzzzz", []),
        ("", []),
    ],
)
async def test_an_unknown_id_is_refused_with_the_nearest_names(asked: str, nearest: list[str]) -> None:
    listed = Listed({"a": ["qwen2.5:7b", "qwen2.5:32b", "llama"]})
    catalogue = make_catalogue(listed, backend("a"), aliases=[Alias("fast", "a", "x")])
    with pytest.raises(NotFound) as caught:
        await catalogue.find(asked)
    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    found: Any = error.extra["nearest"]
    assert found[: len(nearest)] == nearest
    assert bool(found) is bool(nearest)
    assert ("did you mean" if nearest else "GET /v1/models") in error.message


async def test_the_nearest_are_three_at_most() -> None:
    listed = Listed({"a": [f"qwen2.5:{size}b" for size in range(1, 9)]})
    assert len(await make_catalogue(listed, backend("a")).nearest("qwen2.5:1b")) == 3
