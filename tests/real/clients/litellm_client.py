"""litellm as a library against a gateway: each finding is a key of one JSON object on stdout."""

import json
import os

import litellm

WHERE = {
    "model": "openai/" + os.environ["GATEWAY_MODEL"],
    "api_base": os.environ["GATEWAY_URL"] + "/v1",
    "api_key": os.environ["GATEWAY_TOKEN"],
    "num_retries": 0,
}
MESSAGES = [{"role": "user", "content": "say: a lighthouse"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


def main() -> None:
    found = {"chat": litellm.completion(messages=MESSAGES, **WHERE).choices[0].message.content}
    chunks = list(litellm.completion(messages=MESSAGES, stream=True, **WHERE))
    found["stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    asked = [{"role": "user", "content": "use the tool"}]
    whole = litellm.stream_chunk_builder(list(litellm.completion(messages=asked, tools=TOOLS, stream=True, **WHERE)))
    call = whole.choices[0].message.tool_calls[0]
    found["call"] = {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
    vectors = litellm.embedding(input=["one", "two"], **{k: v for k, v in WHERE.items() if k != "num_retries"})
    found["embeddings"] = [len(item["embedding"]) for item in vectors.data]
    response = litellm.responses(input="say: a lighthouse", **{k: v for k, v in WHERE.items() if k != "num_retries"})
    found["response"] = response.output[0].content[0].text
    try:
        litellm.completion(messages=MESSAGES, **{**WHERE, "api_key": "wrong"})
    except litellm.AuthenticationError:
        found["wrong_token"] = "AuthenticationError"
    print(json.dumps(found))


main()
