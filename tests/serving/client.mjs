// The `ai` package against a server: node client.mjs URL MODEL TOOLS.json, prints JSON. Run by test_clients.py.
import { readFileSync } from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const [url, model, file] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "asa", baseURL: url });
const ran = [];
const tools = Object.fromEntries(
  JSON.parse(readFileSync(file, "utf8")).map(({ function: given }) => [
    given.name,
    tool({
      description: given.description,
      inputSchema: jsonSchema(given.parameters),
      execute: async (input) => {
        ran.push([given.name, input]);
        return "bonjour";
      },
    }),
  ]),
);
const asked = { model: provider(model), tools, temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const called = await generateText({
  ...asked,
  prompt: "Translate 'good morning' into French.",
  stopWhen: stepCountIs(2), // the call, and the answer to its result
});
const words = await generateText({ ...asked, prompt: "Tell me a joke about cats." });
const stream = streamText({ ...asked, prompt: "Tell me a joke about cats." });
let streamed = "";
for await (const piece of stream.textStream) streamed += piece;
console.log(
  JSON.stringify({
    ran,
    steps: called.steps.map((step) => [step.finishReason, step.toolCalls.map((call) => call.toolName), step.text]),
    words: [words.finishReason, words.toolCalls.length, words.text],
    streamed,
  }),
);
