"""One probe for two servers: everything that the backend relies on, by shape, so that fake and real can be compared."""

import json

from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.websocket_call import WebSocketCall


async def ask(upstream, base_url, path, body=None):
    call = UpstreamCall(
        backend_class="test",
        method="GET" if body is None else "POST",
        url=base_url + path,
        first_byte_s=30,
        idle_s=30,
        body=b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode(),
    )
    return await upstream.exchange(call)


def shape(value, depth=4):
    """What kind of thing stands where: keys and types, not values."""
    if depth == 0:
        return "..."
    if isinstance(value, dict):
        return {key: shape(one, depth - 1) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0], depth - 1)] if value else []
    return type(value).__name__


async def probe(graph, upstream, base_url):
    """Ask everything that the backend relies on; `graph`: one without a model, which saves in node 2."""
    job = {"prompt": graph, "prompt_id": "probe", "client_id": "prober", "extra_data": {"preview_method": "none"}}
    nameless = {"1": {"class_type": "Nope", "inputs": {}}}
    partly = {**graph, "3": {"class_type": "PreviewImage", "inputs": {}}}
    wrong = {**graph, "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope"}}}
    found = {}
    for name, path, body in (
        ("malformed", "/prompt", b"{"),
        ("no prompt", "/prompt", {}),
        ("unknown class", "/prompt", {"prompt": nameless, "prompt_id": "a"}),
        ("half valid", "/prompt", {"prompt": partly, "prompt_id": "b", "client_id": "other"}),
        ("no output", "/prompt", {"prompt": {"3": wrong["3"]}, "prompt_id": "c"}),
        ("unknown job", "/history/nobody", None),
        ("unknown picture", "/view?filename=nope.png&subfolder=&type=temp", None),
        ("unknown class's inputs", "/object_info/Nope", None),
        ("interrupt of nobody", "/interrupt", {"prompt_id": "nobody"}),
        ("delete of nobody", "/queue", {"delete": ["nobody"]}),
    ):
        answer = await ask(upstream, base_url, path, body)
        kind = answer.content_type.partition(";")[0]
        found[name] = (
            answer.status,
            shape(json.loads(answer.body)) if kind == "application/json" and answer.body else answer.body[:20],
        )
    call = WebSocketCall("test", base_url + "/ws?clientId=prober", 5, 1 << 20)
    async with upstream.open_websocket(call) as websocket:
        await websocket.send('{"type":"feature_flags","data":{"supports_preview_metadata":true}}')
        found["accepted"] = shape(json.loads((await ask(upstream, base_url, "/prompt", job)).body))
        told = {}
        while "end" not in told:
            message = json.loads(await websocket.receive())
            told[message["type"]] = sorted(message["data"])
            if message["type"] == "executing" and message["data"]["node"] is None:
                told["end"] = sorted(message["data"])
    for kind in ("feature_flags", "execution_success", "end"):
        found[f"told: {kind}"] = told[kind]
    ended = json.loads((await ask(upstream, base_url, "/history/probe")).body)["probe"]
    found["outputs"] = shape(ended["outputs"])
    found["status"] = {key: shape(value, 1) for key, value in ended["status"].items()}
    found["last message"] = ended["status"]["messages"][-1][0]
    file = ended["outputs"]["2"]["images"][0]
    picture = await ask(upstream, base_url, f"/view?filename={file['filename']}&subfolder=&type={file['type']}")
    found["picture"] = (picture.content_type, picture.body[:8], b"EmptyImage" in picture.body)
    found["queue"] = shape(json.loads((await ask(upstream, base_url, "/queue")).body))
    return found
