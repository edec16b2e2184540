"""One run of questions for an InvokeAI, real or fake, and how their answers are compared: by shape, not by value."""

import json
from typing import Any

import trio

from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall
from appliance.upstream.websocket import WebSocket
from appliance.upstream.websocket_call import WebSocketCall
from tests.fakes.pictures import png

QUEUE = "/api/v1/queue/default"
PATIENCE_S = 60.0
EXACT = frozenset({"code", "status", "type", "open", "connected", "enqueued", "requested", "loc", "png"})
WHITE = {"r": 255, "g": 255, "b": 255, "a": 255}
NO_MODEL = {"id": "img", "type": "blank_image", "width": 64, "height": 48, "color": WHITE, "use_cache": False}


def batch(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    graph = {"id": "probe", "nodes": {node["id"]: node for node in nodes}, "edges": []}
    return {"batch": {"graph": graph, "runs": 1, **more}, "prepend": False}


async def probe(upstream: UpstreamClient, base_url: str) -> dict[str, Any]:
    """Ask everything the backend asks, and a few things that are refused. Needs no model and a queue of two."""

    async def ask(method: str, path: str, body: object = None) -> UpstreamAnswer:
        sent = b"" if body is None else json.dumps(body).encode()
        return await send(method, path, sent, "application/json")

    async def send(method: str, path: str, body: bytes, kind: str) -> UpstreamAnswer:
        headers = {"Content-Type": kind} if body else {}
        return await upstream.exchange(
            UpstreamCall("probe", method, base_url + path, PATIENCE_S, PATIENCE_S, headers=headers, body=body)
        )

    async def until_over(item_id: int) -> UpstreamAnswer:
        while True:
            answer = await ask("GET", f"{QUEUE}/i/{item_id}")
            if json.loads(answer.body)["status"] in ("completed", "failed", "canceled"):
                return answer
            await trio.sleep(0.1)

    answers: dict[str, Any] = {}

    def note(name: str, answer: UpstreamAnswer) -> Any:
        said = json.loads(answer.body)
        answers[name] = {"code": answer.status, "said": said}
        return said

    note("models", await ask("GET", "/api/v2/models/?model_type=main"))
    enqueue = f"{QUEUE}/enqueue_batch"
    enqueued = note("enqueue", await ask("POST", enqueue, batch(NO_MODEL, destination="probe")))
    done = note("completed", await until_over(enqueued["item_ids"][0]))
    name = done["session"]["results"][done["session"]["source_prepared_mapping"]["img"][0]]["image"]["image_name"]
    picture = await ask("GET", f"/api/v1/images/i/{name}/full")
    answers["picture"] = {
        "code": picture.status,
        "type": picture.content_type,
        "png": picture.body.startswith(b"\x89PNG"),
    }
    listed = json.loads((await ask("GET", f"{QUEUE}/list_all?destination=probe")).body)
    answers["listed"] = {"code": 200, "said": listed}
    note("cancel of a completed one", await ask("PUT", f"{QUEUE}/i/{enqueued['item_ids'][0]}/cancel"))
    note("idle", await ask("GET", f"{QUEUE}/status"))

    note("pause", await ask("PUT", f"{QUEUE}/processor/pause"))
    waiting = note("two", await ask("POST", enqueue, {**batch(NO_MODEL, destination="a"), **_twice()}))
    note("full", await ask("POST", enqueue, batch(NO_MODEL, destination="b")))
    note("pending", await ask("GET", f"{QUEUE}/i/{waiting['item_ids'][0]}"))
    note("cancel", await ask("PUT", f"{QUEUE}/i/{waiting['item_ids'][0]}/cancel"))
    note("cancel by destination", await ask("PUT", f"{QUEUE}/cancel_by_destination?destination=a"))
    note("cancel of nothing", await ask("PUT", f"{QUEUE}/cancel_by_destination?destination=nobody"))
    note("resume", await ask("PUT", f"{QUEUE}/processor/resume"))

    note("no such item", await ask("GET", f"{QUEUE}/i/999999"))
    note("no such cancel", await ask("PUT", f"{QUEUE}/i/999999/cancel"))
    note("no such picture", await ask("GET", "/api/v1/images/i/nothing.png/full"))
    note("unknown node", await ask("POST", enqueue, batch({"id": "x", "type": "nope"})))
    note("off the grid", await ask("POST", enqueue, batch({"id": "n", "type": "noise", "width": 60, "height": 64})))
    note("no batch", await ask("POST", enqueue, {"no": 1}))
    note("login", await ask("POST", "/api/v1/auth/login", {"email": "a@example.org", "password": "x"}))

    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    path = "/api/v1/images/upload?image_category=user&is_intermediate=true"
    upload = await send("POST", path, form + png(8, 8) + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")
    uploaded = note("upload", upload)
    note("delete", await ask("POST", "/api/v1/images/delete", {"image_names": [name, uploaded["image_name"]]}))
    answers["socket"] = await _listen(upstream, base_url)
    return answers


def _twice() -> dict[str, Any]:
    data = [[{"node_path": "img", "field_name": "width", "items": [64, 72]}]]
    return {"batch": {**batch(NO_MODEL, destination="a")["batch"], "data": data}}


async def _listen(upstream: UpstreamClient, base_url: str) -> dict[str, Any]:
    """The handshake of engine.io and socket.io; what follows is what the tests of previews see."""
    url = base_url + "/ws/socket.io/?EIO=4&transport=websocket"
    async with upstream.open_websocket(WebSocketCall("probe", url, PATIENCE_S, 1_000_000)) as socket:
        opening = await _text(socket)
        await socket.send("40")
        connected = await _text(socket)
        await socket.send('42["subscribe_queue",{"queue_id":"default"}]')
    return {"open": opening[:1], "opening": json.loads(opening[1:]), "connected": connected[:2]}


async def _text(socket: WebSocket) -> str:
    with trio.fail_after(PATIENCE_S):
        return str(await socket.receive())


def assert_like(ours: Any, real: Any, where: str = "") -> None:
    """Each key that the fake has the real one has, with a value of the same kind; None is like anything."""
    if isinstance(ours, dict):
        assert isinstance(real, dict), where
        if where.endswith(".results"):  # by ids that are made up for each item
            ours, real = ({"id": next(iter(each.values()), None)} for each in (ours, real))
        assert ours.keys() <= real.keys(), f"{where}: {ours.keys() - real.keys()} is only in the fake"
        for key, value in ours.items():
            assert_like(value, real[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert isinstance(real, list), where
        assert bool(ours) == bool(real), f"{where}: one is empty"
        for one, other in zip(ours[:1], real[:1], strict=True):
            assert_like(one, other, where)
    elif ours is not None and real is not None:
        assert type(ours) is type(real), f"{where}: {ours!r} is not like {real!r}"
        if isinstance(ours, bool) or where.rpartition(".")[2] in EXACT:
            assert ours == real, f"{where}: {ours!r} is not {real!r}"
