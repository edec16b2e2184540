"""Routing of language requests: the five rules, the policy, and the caps of an alias."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.alias import Alias
from appliance.config.classes import BackendClass, Backends, Models, Provider, capabilities_of, default_health
from appliance.config.settings import Settings
from appliance.dispatch.caps import apply_caps
from appliance.dispatch.requesttype import is_coding
from appliance.dispatch.routing import LanguageRoute, Router, build_router, choose_language
from appliance.protocol.errors import BackendNotFound, GatewayError, InvalidRequest
from appliance.protocol.language import LanguageKind, LanguageRequest, parse_language_request

FIELDS: Mapping[LanguageKind, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hello"}]},
    "completions": {"prompt": "hello"},
    "responses": {"input": "hello"},
    "embeddings": {"input": "hello"},
    "rerank": {"query": "hello", "documents": ["a"]},
}
TOOLS = [{"type": "function", "function": {"name": "noop"}}]
REASON = re.compile(
    r"override:x-backend|alias:[!-~]+|pinned:model|direct:model"
    r"|policy:(?:tools->(?:default|coder|strong)|long_context->(?:long|strong)|coding->(?:coder|strong)"
    r"|fast->(?:fast|strong))"
)


def backend(name: str, provider: Provider, base_url: str = "http://host:1") -> BackendClass:
    return BackendClass(
        name=name,
        base_url=base_url,
        provider=provider,
        capabilities=capabilities_of(provider) - {"tts", "stt"},
        limits={},
        health=default_health(provider),
        models=Models(f"{name}-strong", f"{name}-fast"),
    )


CLASSES = [
    backend("ollama", "ollama"),
    backend("local_mlx", "openai", base_url=""),
    backend("vllm", "openai"),
    backend("gpu_heavy", "a1111"),
]
ALIASES = [
    Alias("default", "ollama", "qwen:32b"),
    Alias("fast", "ollama", "qwen:7b"),
    Alias("coder", "vllm", "coder"),
    Alias("long", "vllm", "long", context_window=100),
    Alias("gpt-4o", "vllm", "capped", tools=False, max_tokens_cap=100, temperature_cap=0.5),
]


def make_router(aliases: list[Alias] = ALIASES, **fields: Any) -> Router:
    made = build_router(
        Settings(**fields),
        Backends({one.name: one for one in CLASSES}, {"mlx": "local_mlx"}),
        {alias.name: alias for alias in aliases},
    )
    assert isinstance(made, Router)
    return made


def make_request(kind: LanguageKind = "chat", **fields: Any) -> LanguageRequest:
    return parse_language_request(kind, {**FIELDS[kind], **fields}, b"{}")


def choose(
    request: LanguageRequest, router: Router, x_backend: str | None = None, request_type: str | None = None
) -> LanguageRoute:
    return choose_language(request, x_backend=x_backend, request_type=request_type, router=router)


def asked(model: str | None, x_backend: str | None = None, kind: LanguageKind = "chat") -> tuple[str, str, str]:
    route = choose(make_request(kind, model=model), make_router(), x_backend)
    return route.backend_class, route.model, route.reason


# Rule 1


@pytest.mark.parametrize(
    ("x_backend", "model", "backend_class", "sent"),
    [
        ("vllm", "qwen2.5:7b", "vllm", "qwen2.5:7b"),
        (" VLLM ", "x", "vllm", "x"),
        ("mlx", "x", "local_mlx", "x"),
        ("vllm", "vllm:x", "vllm", "x"),
        ("vllm", "VLLM:x:y", "vllm", "x:y"),
        ("local_mlx", "mlx:x", "local_mlx", "x"),
        ("vllm", "ollama:x", "vllm", "ollama:x"),  # another's prefix is a part of the name
        ("vllm", "gpt-4o", "vllm", "gpt-4o"),  # an alias is no model of this class
        ("vllm", "", "vllm", "vllm-strong"),
        ("vllm", "AUTO", "vllm", "vllm-strong"),
        ("vllm", "default", "vllm", "vllm-strong"),
        ("vllm", "vllm:auto", "vllm", "vllm-strong"),
        ("openai", "x", "vllm", "x"),  # local_mlx comes first and has no address
        ("OpenAI", "vllm:x", "vllm", "x"),
        ("gpu_heavy", "x", "gpu_heavy", "x"),  # the capability is the next check's
        ("a1111", "x", "gpu_heavy", "x"),
    ],
)
def test_the_header_overrides_everything(x_backend: str, model: str, backend_class: str, sent: str) -> None:
    assert asked(model, x_backend) == (backend_class, sent, "override:x-backend")


def test_a_provider_means_its_first_class_that_can_serve() -> None:
    classes = [backend("bare", "openai", base_url=""), backend("chatty", "openai"), backend("ranker", "openai")]
    object.__setattr__(classes[1], "capabilities", frozenset({"chat"}))
    router = build_router(Settings(), Backends({one.name: one for one in classes}, {}), {})
    assert choose(make_request("chat"), router, "openai").backend_class == "chatty"
    assert choose(make_request("rerank"), router, "openai").backend_class == "ranker"
    only = build_router(Settings(), Backends({"bare": classes[0]}, {}), {})
    assert choose(make_request("chat"), only, "openai").backend_class == "bare", "it is not ready, and says so"


@pytest.mark.parametrize("x_backend", ["cloud", "vllm:x", "ollama,vllm", "é"])
def test_an_unknown_header_is_refused(x_backend: str) -> None:
    with pytest.raises(BackendNotFound) as caught:
        asked("x", x_backend)
    assert caught.value.extra["available_backends"] == ["gpu_heavy", "local_mlx", "ollama", "vllm"]


@pytest.mark.parametrize("x_backend", [None, "", "  "])
def test_an_empty_header_is_none(x_backend: str | None) -> None:
    assert asked("x", x_backend)[2] == "direct:model"


# Rules 2 to 5


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", ("vllm", "capped", "alias:gpt-4o")),
        ("GPT-4o", ("vllm", "capped", "alias:gpt-4o")),
        (" fast ", ("ollama", "qwen:7b", "alias:fast")),
        ("default", ("ollama", "qwen:32b", "alias:default")),
        ("vllm:x", ("vllm", "x", "pinned:model")),
        ("VLLM:Org/X", ("vllm", "Org/X", "pinned:model")),
        ("mlx:x", ("local_mlx", "x", "pinned:model")),
        ("MLX:x:y", ("local_mlx", "x:y", "pinned:model")),
        ("vllm:gpt-4o", ("vllm", "gpt-4o", "pinned:model")),
        ("vllm:", ("vllm", "vllm-strong", "pinned:model")),
        ("vllm:auto", ("vllm", "vllm-strong", "pinned:model")),
        ("vllm", ("vllm", "vllm-strong", "pinned:model")),
        ("mlx", ("local_mlx", "local_mlx-strong", "pinned:model")),
        ("gpu_heavy:x", ("gpu_heavy", "x", "pinned:model")),
        ("auto", ("ollama", "qwen:32b", "alias:default")),
        ("Auto", ("ollama", "qwen:32b", "alias:default")),
        ("", ("ollama", "qwen:32b", "alias:default")),
        ("   ", ("ollama", "qwen:32b", "alias:default")),
        (None, ("ollama", "qwen:32b", "alias:default")),
        ("qwen2.5:7b", ("ollama", "qwen2.5:7b", "direct:model")),
        ("openai:x", ("ollama", "openai:x", "direct:model")),  # a provider is no prefix
        ("hf.co/org/x:Q4", ("ollama", "hf.co/org/x:Q4", "direct:model")),
        (":x", ("ollama", ":x", "direct:model")),
    ],
)
def test_the_model_chooses_by_the_first_rule_that_matches(model: str | None, expected: tuple[str, str, str]) -> None:
    assert asked(model) == expected


def test_an_alias_goes_before_a_class_of_its_name() -> None:
    router = make_router([Alias("vllm", "vllm", "mine")])
    assert choose(make_request(model="vllm"), router).model == "mine"
    assert choose(make_request(model="vllm:x"), router).model == "x"


@pytest.mark.parametrize("model", ["auto", "default", ""])
def test_without_the_alias_default_the_strong_model_answers(model: str) -> None:
    route = choose(make_request(model=model), make_router([], default_backend="vllm"))
    assert route == LanguageRoute("vllm", "vllm-strong", "direct:model", None)


@pytest.mark.parametrize("model", ["auto", "x"])
def test_a_default_backend_that_is_not_there_is_refused_by_name(model: str) -> None:
    with pytest.raises(BackendNotFound, match="'cloud'"):
        choose(make_request(model=model), make_router([], default_backend="cloud"))


def test_the_alias_comes_with_the_route_for_its_caps() -> None:
    router = make_router()
    assert choose(make_request(model="gpt-4o"), router).alias is ALIASES[4]
    assert choose(make_request(model="auto"), router).alias is ALIASES[0]
    assert choose(make_request(model="vllm:gpt-4o"), router).alias is None


# The policy


@pytest.mark.parametrize(
    ("fields", "request_type", "aliases", "expected"),
    [
        ({}, None, ALIASES, ("ollama", "qwen:7b", "policy:fast->fast")),
        ({}, None, [], ("ollama", "ollama-strong", "policy:fast->strong")),
        ({"tools": TOOLS}, None, ALIASES, ("ollama", "qwen:32b", "policy:tools->default")),
        (
            {"tools": TOOLS},
            None,
            [Alias("default", "ollama", "no", tools=False), ALIASES[2]],
            ("vllm", "coder", "policy:tools->coder"),
        ),
        (
            {"tools": TOOLS},
            None,
            [Alias("default", "ollama", "no", tools=False), Alias("coder", "vllm", "no", tools=False)],
            ("ollama", "ollama-strong", "policy:tools->strong"),
        ),
        ({"tools": TOOLS}, None, [], ("ollama", "ollama-strong", "policy:tools->strong")),
        ({"tools": []}, None, ALIASES, ("ollama", "qwen:7b", "policy:fast->fast")),
        ({"tools": TOOLS, "content": "x" * 101}, None, ALIASES, ("ollama", "qwen:32b", "policy:tools->default")),
        ({"content": "x" * 101}, None, ALIASES, ("vllm", "long", "policy:long_context->long")),
        ({"content": "x" * 100}, None, ALIASES, ("ollama", "qwen:7b", "policy:fast->fast")),
        ({"content": "x" * 1001}, None, ALIASES[:2], ("ollama", "ollama-strong", "policy:long_context->strong")),
        ({"content": "x" * 1000}, None, ALIASES[:2], ("ollama", "qwen:7b", "policy:fast->fast")),
        ({"content": "x" * 1001}, None, [Alias("long", "vllm", "l", context_window=9999)], ("vllm", "l", "policy:long_context->long")),
        ({"content": "x" * 101}, "coding", ALIASES, ("vllm", "long", "policy:long_context->long")),
        ({}, "coding", ALIASES, ("vllm", "coder", "policy:coding->coder")),
        ({}, " CODING ", ALIASES, ("vllm", "coder", "policy:coding->coder")),
        ({}, "coding", [], ("ollama", "ollama-strong", "policy:coding->strong")),
        ({"content": "fix this function"}, None, ALIASES, ("vllm", "coder", "policy:coding->coder")),
        ({"content": "fix this function"}, "poetry", ALIASES, ("vllm", "coder", "policy:coding->coder")),
        ({"content": "fix this function"}, "chat", ALIASES, ("ollama", "qwen:7b", "policy:fast->fast")),
    ],
)  # fmt: skip
def test_the_policy_asks_for_tools_length_and_code_in_this_order(
    fields: dict[str, Any], request_type: str | None, aliases: list[Alias], expected: tuple[str, str, str]
) -> None:
    router = make_router(
        aliases, router_enable_policy=True, router_enable_request_type=True, router_long_context_chars=1000
    )
    content = fields.pop("content", "hello")
    request = make_request(messages=[{"role": "user", "content": content}], model="auto", **fields)
    route = choose(request, router, request_type=request_type)
    assert (route.backend_class, route.model, route.reason) == expected


def test_without_request_types_neither_header_nor_code_counts() -> None:
    router = make_router(router_enable_policy=True)
    request = make_request(messages=[{"role": "user", "content": "fix this function"}])
    assert choose(request, router, request_type="coding").reason == "policy:fast->fast"


@pytest.mark.parametrize("model", ["default", "fast", "vllm:x", "x"])
def test_a_model_that_is_named_is_not_the_policys(model: str) -> None:
    request = make_request(model=model, tools=TOOLS)
    assert choose(request, make_router(router_enable_policy=True)) == choose(request, make_router())


def test_the_header_goes_before_the_policy() -> None:
    assert choose(make_request(), make_router(router_enable_policy=True), "vllm").reason == "override:x-backend"


@pytest.mark.parametrize("kind", ["embeddings", "rerank"])
def test_vectors_always_come_from_the_same_model(kind: LanguageKind) -> None:
    router = make_router(router_enable_policy=True, router_long_context_chars=1)
    assert choose(make_request(kind), router).reason == "alias:default"


@pytest.mark.parametrize(
    ("text", "coding"),
    [
        ("def f(x):\n  return x", True),
        ("why does main.py not run?", True),
        ("```\nx\n```", True),
        ("Traceback (most recent call last)", True),
        ("SELECT name FROM users", True),
        ("write a function that adds", True),
        ("please refactor this", True),
        ("const x = 1", True),
        ("what is the function of the liver?", False),
        ("write a poem about the class struggle of the sea", False),
        ("tell me about Python snakes", False),
        ("select a book from the shelf", False),
        ("import tariffs rose in May", False),
        ("import numpy\nnumpy.sum(1)", True),
        ("class Lamp(Base):\n    lit = True", True),
        ("In the U.S.C. they say so", False),
        ("hello", False),
        ("", False),
    ],
)
def test_code_is_recognised_in_the_last_words_of_the_user(text: str, coding: bool) -> None:
    said = [{"role": "system", "content": "You write code: def f(): pass"}, {"role": "user", "content": "```x```"}]
    messages = [*said, {"role": "user", "content": text}, {"role": "assistant", "content": "```x```"}]
    parts = [*said, {"role": "user", "content": [{"type": "text", "text": text}]}]
    assert is_coding(make_request(messages=messages), None) is coding
    assert is_coding(make_request(messages=parts), None) is coding
    assert is_coding(make_request("completions", prompt=text), None) is coding
    if text:
        assert is_coding(make_request("responses", input=[{"role": "user", "content": text}]), None) is coding


# Any request

words = st.sampled_from(
    ["", "auto", "default", "fast", "gpt-4o", "vllm", "vllm:", "mlx:x", ":", "qwen:7b", "ollama:a:b", "openai", "long"]
)
names = words | st.text(max_size=10)


@settings(deadline=None)  # two shared cores
@given(
    kind=st.sampled_from(list(FIELDS)),
    model=st.none() | names,
    x_backend=st.none() | names,
    request_type=st.none() | st.sampled_from(["coding", "chat", "x"]),
    policy=st.booleans(),
    aliases=st.lists(st.sampled_from(ALIASES), unique_by=lambda alias: alias.name),
    default_backend=st.sampled_from(["ollama", "vllm", "nowhere"]),
    unknown=st.dictionaries(st.text(max_size=5).map("x_{}".format), st.text(max_size=5), max_size=2),
    content=st.text(max_size=200),
)
def test_every_request_is_routed_with_a_documented_reason_or_refused(
    kind: LanguageKind,
    model: str | None,
    x_backend: str | None,
    request_type: str | None,
    policy: bool,
    aliases: list[Alias],
    default_backend: str,
    unknown: dict[str, str],
    content: str,
) -> None:
    router = make_router(
        aliases, default_backend=default_backend, router_enable_policy=policy, router_enable_request_type=policy
    )
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": content}]} if kind == "chat" else {}
    try:
        route = choose(make_request(kind, model=model, **fields), router, x_backend, request_type)
    except GatewayError:
        return
    assert REASON.fullmatch(route.reason)
    assert route.backend_class in router.backends.classes
    assert route.model
    claims = {"backend": "gpu_heavy", "base_url": "http://evil", "provider": "a1111", "x-backend": "gpu_heavy"}
    with_claims = make_request(kind, model=model, **{**fields, **unknown, **claims})
    assert choose(with_claims, router, x_backend, request_type) == route, "no other field leads anywhere else"


# Caps

CAPPED = Alias("capped", "ollama", "x", tools=False, max_tokens_cap=100, temperature_cap=0.5)


@pytest.mark.parametrize(
    ("kind", "fields", "changes"),
    [
        ("chat", {"max_tokens": 50, "temperature": 0.1}, {}),
        ("chat", {"max_tokens": 100, "temperature": 0.5}, {}),
        ("chat", {"max_tokens": 101}, {"max_tokens": 100}),
        ("chat", {"max_completion_tokens": 101}, {"max_completion_tokens": 100}),
        ("chat", {"max_completion_tokens": 7}, {}),
        ("chat", {"max_tokens": 101, "max_completion_tokens": 7}, {"max_tokens": 100}),
        ("chat", {}, {"max_tokens": 100}),
        ("chat", {"max_tokens": None}, {"max_tokens": 100}),
        ("chat", {"max_tokens": 7, "n_predict": -1}, {"n_predict": 100}),
        ("chat", {"max_tokens": 7, "num_predict": "many"}, {"num_predict": 100}),
        ("chat", {"max_tokens": 7, "temperature": 2}, {"temperature": 0.5}),
        ("chat", {"max_tokens": 7, "temperature": None}, {}),
        ("completions", {"max_tokens": 101}, {"max_tokens": 100}),
        ("completions", {}, {"max_tokens": 100}),
        ("responses", {"max_output_tokens": 101, "temperature": 1}, {"max_output_tokens": 100, "temperature": 0.5}),
        ("responses", {}, {"max_output_tokens": 100}),
        ("embeddings", {}, {}),
        ("rerank", {}, {}),
    ],
)
def test_caps_clamp_what_was_asked_and_fill_in_a_length(
    kind: LanguageKind, fields: dict[str, Any], changes: dict[str, Any]
) -> None:
    request = make_request(kind, **fields)
    body = apply_caps(request, CAPPED)
    assert body == {**request.body, **changes}
    assert (body is request.body) is not bool(changes), "unchanged bodies go out as they came in"


def test_without_an_alias_or_caps_nothing_is_changed() -> None:
    request = make_request(max_tokens=10**6, temperature=2, tools=TOOLS)
    assert apply_caps(request, None) is request.body
    assert apply_caps(request, Alias("a", "ollama", "x")) is request.body
    assert apply_caps(request, Alias("a", "ollama", "x", tools=True)) is request.body


def test_an_alias_without_tools_refuses_a_request_with_tools() -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply_caps(make_request(tools=TOOLS), CAPPED)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "tools", "tools_not_supported")
    with pytest.raises(InvalidRequest) as caught:
        apply_caps(make_request(functions=[{"name": "noop"}]), CAPPED)
    assert caught.value.param == "functions"
    apply_caps(make_request(tools=[]), CAPPED)
