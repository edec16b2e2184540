// The openai package of npm against a gateway: each finding is a key of one JSON object on stdout.
import OpenAI from "openai";

const model = process.env.GATEWAY_MODEL;
const client = new OpenAI({ baseURL: process.env.GATEWAY_URL + "/v1", apiKey: process.env.GATEWAY_TOKEN, maxRetries: 0 });
const messages = [{ role: "user", content: "say: a lighthouse" }];
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];
const found = {};

async function refusal(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

async function chat() {
  const { data, response } = await client.chat.completions.create({ model, messages }).withResponse();
  found.chat = data.choices[0].message.content;
  found.usage = data.usage.total_tokens;
  found.headers = {
    backend: response.headers.get("x-backend-used"),
    reason: response.headers.get("x-router-reason"),
    request: data._request_id,
  };
}

async function stream() {
  const options = { include_usage: true };
  const events = await client.chat.completions.create({ model, messages, stream: true, stream_options: options });
  found.stream = "";
  for await (const event of events) {
    found.stream += event.choices[0]?.delta?.content ?? "";
    found.streamUsage = event.usage?.total_tokens ?? found.streamUsage;
  }
}

async function call() {
  const asked = [{ role: "user", content: "use the tool" }];
  const runner = client.chat.completions.stream({ model, messages: asked, tools });
  const call = (await runner.finalMessage()).tool_calls[0];
  found.call = { name: call.function.name, arguments: JSON.parse(call.function.arguments) };
  const result = { role: "tool", tool_call_id: call.id, content: "rain" };
  const said = { role: "assistant", content: null, tool_calls: [call] };
  const answer = await client.chat.completions.create({ model, messages: [...asked, said, result], tools });
  found.afterCall = answer.choices[0].message.content;
}

async function responses() {
  const input = "say: a lighthouse";
  found.response = (await client.responses.create({ model, input })).output_text;
  const events = await client.responses.create({ model, input, stream: true });
  found.responseTypes = [];
  found.responseText = "";
  for await (const event of events) {
    found.responseTypes.push(event.type);
    found.responseText += event.type === "response.output_text.delta" ? event.delta : "";
  }
}

async function vectors() {
  const input = ["one", "two"];
  const packed = await client.embeddings.create({ model, input });
  const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
  found.embeddings = packed.data.map((item) => item.embedding.length);
  const differences = packed.data[0].embedding.map((value, at) => Math.abs(value - plain.data[0].embedding[at]));
  found.embeddingDifference = Math.max(...differences);
}

async function models() {
  found.models = [];
  for await (const item of client.models.list()) found.models.push(item.id);
  found.oneModel = (await client.models.retrieve(found.models[0])).id;
}

async function refusals() {
  found.wrongToken = await refusal(client.withOptions({ apiKey: "wrong" }).chat.completions.create({ model, messages }));
  found.wrongModel = await refusal(client.models.retrieve("no/such:model"));
  found.wrongField = await refusal(client.chat.completions.create({ model, messages, temperature: 9 }));
}

for (const step of [chat, stream, call, responses, vectors, models, refusals]) await step();
console.log(JSON.stringify(found));
