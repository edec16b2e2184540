"""langchain-openai against a gateway: each finding is a key of one JSON object on stdout."""

import json
import os

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

WHERE = {"base_url": os.environ["GATEWAY_URL"] + "/v1", "api_key": os.environ["GATEWAY_TOKEN"], "max_retries": 0}
MODEL = os.environ["GATEWAY_MODEL"]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def main() -> None:
    chat = ChatOpenAI(model=MODEL, stream_usage=True, **WHERE)
    answer = chat.invoke("say: a lighthouse")
    found = {"chat": answer.content, "usage": answer.usage_metadata["total_tokens"]}
    found["stream"] = "".join(chunk.content for chunk in chat.stream("say: a lighthouse"))
    call = chat.bind_tools([weather]).invoke("use the tool").tool_calls[0]
    found["call"] = {"name": call["name"], "arguments": call["args"]}
    pieces = list(chat.bind_tools([weather]).stream("use the tool"))
    streamed = sum(pieces[1:], start=pieces[0]).tool_calls[0]
    found["streamed_call"] = {"name": streamed["name"], "arguments": streamed["args"]}
    embeddings = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **WHERE)
    found["embeddings"] = [len(vector) for vector in embeddings.embed_documents(["one", "two"])]
    through_responses = ChatOpenAI(model=MODEL, use_responses_api=True, **WHERE)
    found["response"] = through_responses.invoke("say: a lighthouse").text
    found["streamed_response"] = "".join(piece.text for piece in through_responses.stream("say: a lighthouse"))
    print(json.dumps(found))


main()
