"""The web chat: the model alone on the left, with its adapter on the right, and what the adapter decided.

    asa chat --web

On this machine's own address unless another is asked for; nothing is shared, counted or fetched from elsewhere. Needs
the extra `app` (Gradio 6). What both sides say is `sides`' matter, how it looks `pages`'.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asa.app.asking import AssistantError, Options
from asa.app.assistant import Assistant
from asa.app.pages import CSS, conversation, strip, title
from asa.app.sides import Side, in_turn, replies, transcript
from asa.engine.calling import as_called
from asa.tools.definitions import Tool

NEEDED = "the web chat needs Gradio 6, found {}: pip install 'gradio>=6'."
try:
    import gradio as gr
except ImportError as error:
    raise AssistantError(NEEDED.format("none")) from error
if int(gr.__version__.split(".")[0]) < 6:
    raise AssistantError(NEEDED.format(gr.__version__))

HOST = "127.0.0.1"
DONE = " "  # in place of the request that is being answered: it is, but nothing may be sent before `settled`
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
    refuse_address(host, port)
    blocks = page(assistant, functions)
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        footer_links=[],
        theme=theme,
        css=CSS,
    )
    print(f"The chat is open at {blocks.share_url or blocks.local_url}")
    if wait:
        blocks.block_thread()
    return blocks


def refuse_address(host: str, port: int | None) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        AssistantError: It is taken or is none of this machine's.
    """
    try:
        with socket.create_server((host, port or 0)):
            return
    except (OSError, OverflowError) as error:  # the latter of a port beyond 65535
        said = getattr(error, "strerror", None) or error
        place = host if port is None else f"{host}:{port}"
        raise AssistantError(f"the chat cannot be opened at {place} ({said}): choose another host or port.") from error


def page(assistant: Assistant, functions: Mapping[str, Callable[..., Any]] | None = None) -> gr.Blocks:
    """The chat as Gradio blocks; arguments as of `serve`."""
    adapter, profile = assistant.adapter, assistant.prompter.profile
    both, empty = (Side(), Side()), conversation((), {}, profile.markers)
    calls_fit, most = "tool_choice" in adapter.config, max(1.0, 2 * adapter.dose)

    def set_to(tau: float, wanted: float, dose: float | None = None) -> Assistant:
        """The assistant with another gate or dose; a threshold stays until tau is moved."""
        tuned = assistant.tuned(None if tau == adapter.tau else tau, dose)
        return tuned.with_target_fpr(wanted) if wanted else tuned

    def shown(sides: tuple[Side, Side], edges: set[float], whole: bool = True) -> list:
        """What the page shows; what is kept and exported changes with whole answers alone."""
        left, right = (conversation(side.turns, assistant.tools, profile.markers) for side in sides)
        line = strip(sides[1].decision, edges, sides[1].error or sides[0].error)
        return [left, right, line, *([sides, transcript(assistant, sides)] if whole else [gr.skip(), gr.skip()])]

    def begin(said: str, current: str) -> list:
        """Take a request out of the box; while one is answered, or there is none, all stays as it is."""
        return [gr.skip()] * 3 if current or not said.strip() else ["", said, said]

    def answered(
        asked: str, steer: bool, grammar: bool, tau: float, wanted: float, dose: float, sides: tuple[Side, Side]
    ) -> Iterator[list]:
        if not asked:
            yield [gr.skip()] * len(everything)
            return
        alone = replies(assistant, sides[0], asked, functions, {"steer": False})
        options: Options = {"steer": steer, "grammar": grammar}
        tuned = set_to(tau, wanted, dose)
        steered, edges = replies(tuned, sides[1], asked, functions, options), tuned.adapter.edges
        for sides in in_turn(alone, steered):
            yield [*shown(sides, edges, whole=False), *stoppable(True), gr.skip(), "", gr.skip()]
        failed = any(side.error for side in sides)
        # what cannot be answered can be mended
        yield [*shown(sides, edges), gr.skip(), gr.skip(), asked if failed else gr.skip(), "", DONE]

    def settled(sides: tuple[Side, Side], tau: float, wanted: float, current: str) -> list:
        """An answer is whole, or was stopped: then the page is as before, and its request may be changed."""
        stopped = current.strip()
        shows_now = shown(sides, set_to(tau, wanted).adapter.edges) if stopped else [gr.skip()] * len(shows)
        return [*shows_now, *stoppable(False), current if stopped else gr.skip(), "", ""]

    def stoppable(answering: bool) -> list:
        return [gr.update(interactive=answering), gr.update(interactive=not answering)]  # Stop, and Send

    with gr.Blocks(title="ASA chat", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(title(profile.model_id, adapter.layer))
        with gr.Row():
            with gr.Column(min_width=320):
                left = gr.HTML(empty, label="The model alone", show_label=True, container=True, elem_id="baseline")
            with gr.Column(min_width=320):
                right = gr.HTML(empty, label="With the adapter", show_label=True, container=True, elem_id="asa")
        line = gr.HTML(strip(None, adapter.edges), elem_id="decision")
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
                steer = gr.Checkbox(True, label="Steering", info="off: the right side is the model alone, too")
                grammar = gr.Checkbox(calls_fit, label="Grammar", info="on the right, calls fit the tools' schemas")
            tau = gr.Slider(
                0.5,
                max(0.99, adapter.tau),
                adapter.tau,
                step=0.01,
                label="tau",
                info="the confidence that the gate asks for",
                elem_id="tau",
            )
            wanted = gr.Slider(
                0, 0.3, 0, step=0.01, label="false calls", info="the share that is allowed; at 0 tau decides",
                elem_id="wanted", visible="calibration" in adapter.config,
            )  # fmt: skip
            dose = gr.Slider(
                0, most, adapter.dose, step=0.01, label="dose", info="length of the push over that of a hidden state",
                elem_id="dose", interactive=adapter.dose > 0,
            )  # fmt: skip
        for domain, requests in examples(assistant.tools).items():
            gr.Examples(requests, text, label=domain, api_visibility="private")
        sides, written = gr.State(both), gr.Textbox(visible=False)
        asked, current = gr.State(""), gr.State("")  # what is to be answered, and what is being answered
        shows, buttons, flow = [left, right, line, sides, written], [stop, send], [text, asked, current]

        quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        everything = [*shows, *buttons, *flow]
        taken = gr.on([text.submit, send.click], begin, [text, current], flow, queue=False, **quietly)
        answering = taken.then(answered, [asked, steer, grammar, tau, wanted, dose, sides], everything, **quietly)
        # after a stop or a fault, too; only then does Gradio let another request be answered
        for ended in (answering.then, answering.failure):
            ended(settled, [sides, tau, wanted, current], everything, queue=False, **quietly)
        stop.click(None, cancels=answering, **quietly)
        new.click(
            lambda *gate: shown(both, set_to(*gate).adapter.edges), [tau, wanted], shows, cancels=answering, **quietly
        )
        copy.click(None, written, js=COPY, **quietly)
        save.click(None, written, js=SAVE, **quietly)
    return blocks.queue(default_concurrency_limit=1)


def examples(tools: Mapping[str, Tool]) -> dict[str, list[str]]:
    """Domain -> requests to try: of each tool one that needs it, and one that does not."""
    found: dict[str, list[str]] = {}
    for name, tool in as_called(tools).items():
        words = [example.request for example in tools[name].examples if example.answer]
        found.setdefault(tool.domain, []).extend([*(example.request for example in tool.examples[:1]), *words[:1]])
    return found
