"""The web chat: the model alone on the left, with its adapter on the right, and what the adapter decided.

    asa chat --web

On this machine's own address unless another is asked for; nothing is shared, counted or fetched from elsewhere. Needs
the extra `app` (Gradio 6). What both sides say is `sides`' matter, how it looks `pages`'.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asa.app.asking import AssistantError, Options
from asa.app.assistant import Assistant
from asa.app.pages import CSS, conversation, strip, title
from asa.app.sides import Side, in_turn, replies, transcript
from asa.tools.definitions import Tool

NEEDED = "the web chat needs Gradio 6, found {}: pip install 'gradio>=6'."
try:
    import gradio as gr
except ImportError as error:
    raise AssistantError(NEEDED.format("none")) from error
if int(gr.__version__.split(".")[0]) < 6:
    raise AssistantError(NEEDED.format(gr.__version__))

HOST = "127.0.0.1"
COPY = "(text) => navigator.clipboard.writeText(text)"
SAVE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "conversation.json";
  link.click();
}"""


def serve(
    assistant: Assistant,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    host: str = HOST,
    port: int | None = None,
    share: bool = False,
    wait: bool = True,
) -> gr.Blocks:
    """Open the chat, and wait until it is closed.

    Args:
        assistant: Answers; one request at a time, whoever asks.
        functions: By tool name; where there are any, calls are run and their results answered.
        host: Address to listen on.
        port: Its port; the first free one from 7860 on unless given.
        share: Make a public link through Gradio's servers.
        wait: Whether to wait; else the chat is open as long as the process lives, or until `close()`.

    Raises:
        AssistantError: The address is taken or is none.
    """
    blocks = page(assistant, functions)
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=not wait,
            ssr_mode=False,
            mcp_server=False,
            footer_links=[],
            theme=theme,
            css=CSS,
        )
    except (OSError, OverflowError) as error:  # the latter of a port beyond 65535
        raise AssistantError(f"the chat cannot be opened at {host}:{port or ''} ({error}): choose another.") from error
    return blocks


def page(assistant: Assistant, functions: Mapping[str, Callable[..., Any]] | None = None) -> gr.Blocks:
    """The chat as Gradio blocks; arguments as of `serve`."""
    adapter, profile = assistant.adapter, assistant.prompter.profile
    both, empty = (Side(), Side()), conversation((), {}, profile.markers)
    calls_fit, most = "tool_choice" in adapter.config, max(1.0, 2 * adapter.dose)

    def shown(sides: tuple[Side, Side], tau: float, whole: bool = True) -> list:
        """What the page shows; what is kept and exported changes with whole answers alone."""
        left, right = (conversation(side.turns, assistant.tools, profile.markers) for side in sides)
        line = strip(sides[1].decision, tau, sides[1].error or sides[0].error)
        kept = [sides, transcript(assistant, sides)] if whole else [gr.skip(), gr.skip()]
        return [left, right, line, *kept, gr.update(interactive=not whole)]

    def answered(
        text: str, steer: bool, grammar: bool, tau: float, dose: float, sides: tuple[Side, Side]
    ) -> Iterator[list]:
        if not text.strip():
            yield [*shown(sides, tau), ""]
            return
        alone = replies(assistant, sides[0], text, functions, {"steer": False})
        options: Options = {"steer": steer, "grammar": grammar}
        steered = replies(assistant.tuned(tau, dose), sides[1], text, functions, options)
        box = ""  # it is emptied once, and what is typed meanwhile stays
        for sides in in_turn(alone, steered):
            yield [*shown(sides, tau, whole=False), box]
            box = gr.skip()
        yield [*shown(sides, tau), box]

    with gr.Blocks(title="ASA chat", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(title(profile.model_id, adapter.layer))
        with gr.Row():
            with gr.Column(min_width=320):
                left = gr.HTML(empty, label="The model alone", show_label=True, container=True, elem_id="baseline")
            with gr.Column(min_width=320):
                right = gr.HTML(empty, label="With the adapter", show_label=True, container=True, elem_id="asa")
        line = gr.HTML(strip(None, adapter.tau), elem_id="decision")
        text = gr.Textbox(placeholder="Ask something", show_label=False, autofocus=True, elem_id="request")
        with gr.Row():
            send = gr.Button("Send", variant="primary", size="md", min_width=80, elem_id="send")
            stop, new, copy, save = (
                gr.Button(name, size="md", min_width=80, elem_id=name.lower())
                for name in ("Stop", "New", "Copy", "Save")
            )
            stop.interactive = False
        with gr.Row():
            with gr.Column(min_width=200):
                steer = gr.Checkbox(True, label="Steering", info="off: the right side is the model alone too")
                grammar = gr.Checkbox(calls_fit, label="Grammar", info="on the right, calls fit the tools' schemas")
            tau = gr.Slider(
                0.5,
                max(0.99, adapter.tau),
                adapter.tau,
                step=0.01,
                label="tau",
                info="how sure the gate must be",
                elem_id="tau",
            )
            dose = gr.Slider(
                0, most, adapter.dose, step=0.01, label="dose", info="the push, in lengths of a state", elem_id="dose",
                interactive=adapter.dose > 0,
            )  # fmt: skip
        for domain, requests in examples(assistant.tools).items():
            gr.Examples(requests, text, label=domain, api_visibility="private")
        sides, written = gr.State(both), gr.Textbox(visible=False)
        shows, settings = [left, right, line, sides, written, stop], [steer, grammar, tau, dose, sides]

        quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        sending = gr.on([text.submit, send.click], answered, [text, *settings], [*shows, text], **quietly)
        stop.click(shown, [sides, tau], shows, cancels=sending, **quietly)
        new.click(lambda tau: shown(both, tau), tau, shows, cancels=sending, **quietly)
        copy.click(None, written, js=COPY, **quietly)
        save.click(None, written, js=SAVE, **quietly)
    return blocks.queue(default_concurrency_limit=1)


def examples(tools: Mapping[str, Tool]) -> dict[str, list[str]]:
    """Domain -> requests to try: of each tool one that needs it, and one that does not."""
    found: dict[str, list[str]] = {}
    for tool in tools.values():
        calling = [
            example.request for example in (*tool.call_examples, *tool.examples) if example.arguments is not None
        ]
        words = [example.request for example in tool.examples if example.answer]
        found.setdefault(tool.domain, []).extend(calling[:1] + words[:1])
    return found
