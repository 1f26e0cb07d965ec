"""Requests to vLLM's chat API without vLLM: how they are put, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from asa.app.fitted import plain_prompter
from asa.app.vllm_requests import Putter, RequestError, chosen, conversation
from asa.models.profiles import EMBEDDED
from asa.models.prompts import Prompter, PromptError
from asa.tools.definitions import ToolsError, load_tools, render_call

TOOLS = Path(__file__).parents[2] / "data" / "tools.json"
OTHER = [{"type": "function", "function": {"name": "thermometer", "description": "Measures", "parameters": {}}}]


@pytest.fixture(scope="module")
def prompter(tiny_tokenizer):
    return Prompter(tiny_tokenizer, EMBEDDED, load_tools(TOOLS))


@pytest.fixture(scope="module")
def put(prompter):
    return Putter(prompter)


@pytest.fixture(scope="module")
def tools(prompter) -> list[dict]:
    """The adapter's own, as a client sends them."""
    return [{"type": "function", "function": tool.schema()} for tool in prompter.tools.values()]


def asked(tools, text: str = "What is 2 + 2?", **more) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "tools": tools} | more


def shown(prompter, body: dict) -> str:
    """The prompt that the model's own chat template makes of a body."""
    return prompter._rendered(body["messages"])


def test_the_adapters_tools_get_the_prompt_of_the_fit(put, prompter, tools):
    body, said = put(asked(tools, vllm_xargs={"asa_tau": 0.7}))
    assert said == "steered" and body["vllm_xargs"] == {"asa_tau": 0.7, "asa": 1}
    assert shown(prompter, body) == prompter.text("What is 2 + 2?")
    assert body["tools"] == tools and body["skip_special_tokens"] is False
    assert body["structured_outputs"]["grammar"].startswith("start: WORDS?")


def test_a_conversation_is_put_as_it_was(put, prompter, tools):
    """Calls as the model writes them, and the client's system text in front of the first request."""
    calls = [{"id": "1", "type": "function", "function": {"name": "calculator", "arguments": '{"expression": "2+2"}'}}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "2 + 2?"}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And 3 + 3?"},
    ]
    body, said = put({"messages": messages, "tools": tools})
    opening, closing = prompter.profile.markers
    turns = [
        {"role": "user", "content": "Be brief.\n\nWhat is\n2 + 2?"},
        {"role": "assistant", "content": f"{opening}[{render_call('calculator', {'expression': '2+2'})}]{closing}"},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "Four."},
    ]
    assert said == "steered" and shown(prompter, body) == prompter.text("And 3 + 3?", turns)


def test_a_tools_result_is_answered_in_words(put, prompter, tools):
    """In a prompt without tools, unsteered, as `Assistant.run` has it."""
    turns = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "calculator", "arguments": "{}"}}]},
        {"role": "tool", "content": "4"},
    ]
    body, said = put({"messages": turns, "tools": tools})
    assert said == "unsteered: a tool's result is answered"
    assert body["tool_choice"] == "none" and body["vllm_xargs"] == {"asa": 0}
    opening, closing = prompter.profile.markers
    turns[1] = {"role": "assistant", "content": f"{opening}[calculator()]{closing}"}
    assert shown(prompter, body) == plain_prompter(prompter).text("", turns)
    reminded, said = put({"messages": [*turns, {"role": "system", "content": "Be brief."}], "tools": tools})
    assert said == "unsteered: a tool's result is answered" and "Be brief." in shown(prompter, reminded)
    again, _ = put({"messages": turns, "tools": tools, "tool_choice": "required"})
    assert again.get("tool_choice") == "required" and shown(prompter, again) == prompter.text("", turns)


@pytest.mark.parametrize(
    ("more", "why", "grammar"),
    [
        ({"vllm_xargs": {"asa": "0"}}, "the request says so", "start: WORDS? |"),
        ({"tool_choice": "required"}, "tool_choice says whether to call", 'start: "<tool_call>['),
        ({"tool_choice": "none"}, "tool_choice says whether to call", "start: WORDS?\n"),
        ({"tools": None}, "the request has no tools", None),
        ({"tools": OTHER}, "the tools are not the adapter's", "start: WORDS? |"),
    ],
)
def test_what_is_not_steered_says_why(put, tools, more, why, grammar):
    body, said = put(asked(tools) | more)
    assert said == f"unsteered: {why}" and body["vllm_xargs"]["asa"] == 0
    found = body.get("structured_outputs", {}).get("grammar")
    assert found is None if grammar is None else found.startswith(grammar)


def test_other_tools_are_shown_in_the_same_form(put, prompter):
    body, _ = put(asked(OTHER))
    text = shown(prompter, body)
    assert "thermometer" in text and "calculator" not in text


def test_other_tools_are_refused_where_that_is_wanted(prompter, tools):
    strict = Putter(prompter, strict=True)
    assert strict(asked(tools))[1] == "steered"
    with pytest.raises(RequestError, match=r"knows nothing of these \(thermometer\): send its own"):
        strict(asked(OTHER))


def test_a_clients_own_constraint_stays(put, tools):
    """But where a call is required; an answer that is to be text is free; and the grammar may be left out."""
    form = {"type": "json_object"}
    body, _ = put(asked(tools, response_format=form))
    assert "structured_outputs" not in body and body["response_format"] == form
    required, _ = put(asked(tools, response_format=form, tool_choice="required"))
    assert required["structured_outputs"]["grammar"] and required["response_format"] is None
    text, _ = put(asked(tools, response_format={"type": "text"}))
    assert text["structured_outputs"]["grammar"]
    free, _ = put(asked(tools, vllm_xargs={"asa_grammar": 0}))
    assert "structured_outputs" not in free and free["vllm_xargs"] == {"asa": 1}


def test_what_would_make_another_prompt_is_left_out(put, tools):
    body, _ = put(asked(tools, add_generation_prompt=False, chat_template="x", chat_template_kwargs={"a": 1}))
    assert not {"add_generation_prompt", "chat_template", "chat_template_kwargs"} & body.keys()


@pytest.mark.parametrize(("stop", "found"), [(None, ["\n"]), ("###", ["###", "\n"]), (["a", "b"], ["a", "b", "\n"])])
def test_what_ends_a_profiles_turn_ends_the_answer(tiny_tokenizer, tools, stop, found):
    prompter = Prompter(tiny_tokenizer, replace(EMBEDDED, turn_end="\n"), load_tools(TOOLS))
    assert Putter(prompter)(asked(tools, stop=stop))[0]["stop"] == found


def test_a_tool_whose_name_no_call_can_write(put, prompter):
    """Goes on by the name that the client knows, back and forth; and its result may be empty."""
    odd = [{"type": "function", "function": {"name": "ns::f", "parameters": {"type": "object", "properties": {}}}}]
    turns = [
        {"role": "user", "content": "Do it."},
        {"role": "assistant", "tool_calls": [{"function": {"name": "ns::f", "arguments": "{}"}}]},
        {"role": "tool", "content": ""},
    ]
    body, said = put({"messages": turns, "tools": odd})
    assert said == "unsteered: the tools are not the adapter's" and "[ns_f()]" in shown(prompter, body)


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, ("auto", ["calculator", "web_search"])),
        ("required", ("required", ["calculator", "web_search"])),
        ({"type": "function", "function": {"name": "web_search"}}, ("required", ["web_search"])),
    ],
)
def test_tool_choice(prompter, choice, found):
    tools = {name: prompter.tools[name] for name in ("calculator", "web_search")}
    answer, held = chosen(choice, tools)
    assert (answer, list(held)) == found


@pytest.mark.parametrize("choice", [{"function": {"name": "nobody"}}, {"function": 3}, "sometimes", 7])
def test_a_tool_choice_that_names_none_is_refused(prompter, choice):
    with pytest.raises(RequestError, match="tool_choice names no tool of the request"):
        chosen(choice, prompter.tools)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "there is nothing to answer"),
        ([{"role": "assistant", "content": "Hi"}], "there is nothing to answer"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}], "there is nothing to answer"),
        ([{"role": "user", "content": " "}], "there is nothing to answer"),
        ([{"role": "robot", "content": "Hi"}], "message 1 has no role that is known"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "or more than text"),
        ([7], "message 1 has no role that is known"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "1 has tool calls"),
        ([{"role": "assistant", "tool_calls": 3}], "message 1 has tool calls that cannot be read"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 10**5}}]}], "1 has tool"),
    ],
)  # fmt: skip
def test_messages_of_no_use_are_refused(messages, said):
    with pytest.raises(RequestError, match=said):
        conversation(messages, ("<a>", "</a>"))


def test_what_cannot_be_put_is_refused(put, tools):
    with pytest.raises(PromptError, match="half a character"):
        put(asked(tools, "\ud83d"))
    with pytest.raises(ToolsError, match="entry 1"):
        put(asked([{"name": "?"}]))


def test_what_is_no_chat_is_left_to_vllm(put):
    assert put([1]) == ([1], "unsteered: no messages")
    assert put({"prompt": "Hi"})[0] == {"prompt": "Hi"}
