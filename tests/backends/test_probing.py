"""Probing: each server is known by its own answers, and what is something else is said to be."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pydantic import SecretStr

from appliance.backends.probing import PROBES, identify, probe
from appliance.config.classes import Login
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import open_upstream
from tests.backends.calls import backend_class
from tests.fakes.a1111 import MODELS, Behaviour, open_fake_a1111
from tests.fakes.http import open_server
from tests.fakes.invokeai import Behaviour as InvokeAIBehaviour
from tests.fakes.invokeai import open_fake_invokeai
from tests.fakes.ollama import open_fake_ollama
from tests.fakes.openai_images import open_fake_openai_images

# What the real servers were seen to answer: ComfyUI 0.3.75, InvokeAI 6.14.2, stable-diffusion.cpp, llama.cpp.
COMFYUI = {
    "/system_stats": {"system": {"comfyui_version": "0.3.75", "os": "posix"}, "devices": []},
    "/models/checkpoints": ["tiny.safetensors"],
}
INVOKEAI = {
    "/api/v1/app/version": {"version": "6.14.2"},
    "/api/v2/models/?model_type=main": {"models": [{"name": "tiny", "base": "sd-1", "type": "main"}]},
}
SD_CPP = {
    "/v1/models": {"data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]},
    "/sdapi/v1/sd-models": [{"title": "flux-tiny", "model_name": "flux-tiny"}],
    "/sdapi/v1/options": {"samples_format": "png"},
}
LLAMA_CPP = {"/v1/models": {"object": "list", "data": [{"id": "qwen.gguf", "object": "model"}]}}
SERVERS = {"comfyui": COMFYUI, "invokeai": INVOKEAI, "openai_images": SD_CPP, "openai": LLAMA_CPP}


@asynccontextmanager
async def open_canned(answers):
    async def handle(request):
        if request.method == "GET" and request.target in answers:
            await request.respond(200, json.dumps(answers[request.target]).encode())
        else:
            await request.respond_json(404, {"detail": "Not Found"})

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        yield upstream, server.base_url


def one(provider, base_url="http://127.0.0.1:1", **changes):
    return replace(backend_class(base_url), provider=provider, **changes)


@pytest.mark.parametrize("provider", SERVERS)
async def test_a_server_is_what_it_is_whether_it_is_asked_or_found(loopback_clock, provider):
    async with open_canned(SERVERS[provider]) as (upstream, base_url):
        asked = await probe(one(provider, base_url), upstream, 5)
        found = await identify(one("ollama", base_url), upstream, 5)
    assert asked == found
    assert asked.provider == provider
    assert len(asked.models) == 1


async def test_what_is_told_of_comfyui_and_invokeai(loopback_clock):
    async with open_canned(COMFYUI) as (upstream, base_url):
        comfyui = await probe(one("comfyui", base_url), upstream, 5)
    async with open_canned(INVOKEAI) as (upstream, base_url):
        invokeai = await probe(one("invokeai", base_url), upstream, 5)
    assert (comfyui.kind, comfyui.version, comfyui.models) == ("ComfyUI", "0.3.75", ("tiny.safetensors",))
    assert (invokeai.kind, invokeai.version, invokeai.models) == ("InvokeAI", "6.14.2", ("tiny",))
    assert "queued or running" in comfyui.cancel == invokeai.cancel


async def test_stable_diffusion_cpp_is_known_behind_both_its_doors(loopback_clock):
    async with open_canned(SD_CPP) as (upstream, base_url):
        found = [await probe(one(provider, base_url), upstream, 5) for provider in ("a1111", "openai_images")]
    assert [finding.kind for finding in found] == ["stable-diffusion.cpp"] * 2
    assert all("none" in finding.cancel for finding in found)


@pytest.mark.parametrize(("tracked", "words"), [(True, "its own job"), (False, "--nowebui")])
async def test_an_a1111_is_asked_whether_it_knows_its_jobs(loopback_clock, tracked, words):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(tracked=tracked)) as fake:
        asked = await probe(one("a1111", fake.base_url), upstream, 5)
        found = await identify(one("openai", fake.base_url), upstream, 5)
    assert asked == found
    assert (asked.kind, asked.models) == ("AUTOMATIC1111", MODELS)
    assert words in asked.cancel


async def test_forge_is_told_from_a1111_by_its_options(loopback_clock):
    answers = {"/sdapi/v1/sd-models": [], "/sdapi/v1/options": {"forge_preset": "sd"}}
    async with open_canned(answers) as (upstream, base_url):
        assert (await probe(one("a1111", base_url), upstream, 5)).kind == "Forge"


async def test_an_a1111_with_a_password_is_asked_with_it(loopback_clock):
    login = Login("me", SecretStr("secret"))
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(credentials="me:secret")) as fake:
        assert (await probe(one("a1111", fake.base_url, login=login), upstream, 5)).models
        with pytest.raises(UpstreamFailed, match="401"):
            await probe(one("a1111", fake.base_url), upstream, 5)


async def test_ollama_and_openai_style_image_servers_are_known(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_ollama() as ollama, open_fake_openai_images() as images:
        assert (await identify(one("openai", ollama.base_url), upstream, 5)).kind == "Ollama"
        assert (await probe(one("openai_images", images.base_url), upstream, 5)).cancel == "by closing the connection"


@pytest.mark.parametrize("provider", sorted(PROBES.keys() - {"mock_chat"}))
@pytest.mark.parametrize(
    "said",
    [b"[]", b"{}", b"5", b"null", b"x", b'{"data":5}', b'{"data":[5],"models":[5],"system":5,"version":5}'],
)
async def test_an_answer_of_something_else_is_said_to_be_one(loopback_clock, provider, said):
    async def handle(request):
        await request.respond(200, said)

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        if said == b"[]" and provider == "a1111":
            assert (await probe(one(provider, server.base_url), upstream, 5)).models == ()
            return
        with pytest.raises(UpstreamFailed):
            await probe(one(provider, server.base_url), upstream, 5)


async def test_nothing_is_found_where_nothing_is_known(loopback_clock):
    async with open_canned({}) as (upstream, base_url):
        assert await identify(one("openai", base_url), upstream, 5) is None
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await identify(one("openai"), upstream, 5)


async def test_a_name_is_shown_without_what_a_terminal_would_obey(loopback_clock):
    answers = {"/v1/models": {"data": [{"id": "a\x1b[31mb" + "x" * 500}, {"id": 5}, {"id": ""}]}}
    async with open_canned(answers) as (upstream, base_url):
        (name,) = (await probe(one("openai", base_url), upstream, 5)).models
    assert name.startswith("a[31mb")
    assert len(name) == 120


async def test_the_scripted_model_needs_no_server():
    assert (await probe(one("mock_chat"), None, 5)).kind == "script"


@pytest.mark.parametrize(("knows_jobs", "words"), [(True, "while it waits in the queue"), (False, "draws to the end")])
async def test_what_cancel_can_do_at_stable_diffusion_cpp_depends_on_its_jobs(loopback_clock, knows_jobs, words):
    features = {"features": {"cancel_queued": True, "cancel_generating": False}}
    answers = {**SD_CPP, **({"/sdcpp/v1/capabilities": features} if knows_jobs else {})}
    async with open_canned(answers) as (upstream, base_url):
        assert words in (await probe(one("openai_images", base_url), upstream, 5)).cancel


ACCOUNT = {"me@example.org": "word"}


@pytest.mark.parametrize(
    ("login", "models", "wants"),
    [
        (None, (), "a login: set IMAGES_INVOKEAI_USER and IMAGES_INVOKEAI_PASSWORD"),
        (Login("me@example.org", SecretStr("other"), by_basic=False), (), "another login"),
        (Login("me@example.org", SecretStr("word"), by_basic=False), ("a-flux", "tiny-sd", "tiny-sdxl"), None),
    ],
)
async def test_an_invokeai_with_users_is_asked_with_the_login_of_its_class(loopback_clock, login, models, wants):
    behaviour = InvokeAIBehaviour(users=ACCOUNT)
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(behaviour) as fake:
        found = await probe(one("invokeai", fake.base_url, login=login), upstream, 5)
        anonymous = await identify(one("openai", fake.base_url), upstream, 5)
    assert (found.kind, found.version, found.models) == ("InvokeAI", "6.14.2", models)
    assert (wants is None) == (found.wants is None)
    assert wants is None or wants in found.wants
    assert anonymous.provider == "invokeai"
    assert "IMAGES_INVOKEAI_USER" in anonymous.wants


async def test_an_invokeai_without_users_wants_nothing(loopback_clock):
    login = Login("me@example.org", SecretStr("word"), by_basic=False)
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        found = await probe(one("invokeai", fake.base_url, login=login), upstream, 5)
        assert (found.wants, len(found.models), fake.logins) == (None, 3, 0)
