"""Pages: conversations, calls and decisions as HTML for the browser.

Whatever a model, a user, a tool or an adapter says is escaped: it is shown, never obeyed. Only strings are made here.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence

from asa.adapter.decision import Decision
from asa.app.answers import push_in_words, read_calls
from asa.models.prompts import Turn
from asa.tools.calls import ToolCall
from asa.tools.definitions import Tool

CSS = """
.asa-scroll {display: flex; flex-direction: column-reverse; height: min(400px, 45vh); overflow-y: auto}
.asa-talk {display: flex; flex-direction: column; gap: 8px; line-height: 1.5; padding-top: 20px}
.asa-talk > div {border-radius: 12px; padding: 8px 12px; max-width: 90%; white-space: pre-wrap; overflow-wrap: anywhere}
.asa-user {align-self: flex-end; background: var(--color-accent-soft)}
.asa-model {align-self: flex-start; background: var(--background-fill-secondary)}
.asa-talk > .asa-tool {align-self: flex-start; border-left: 3px solid var(--color-accent); border-radius: 0;
  font-family: var(--font-mono)}
.asa-card {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 8px 10px; margin-top: 4px;
  background: var(--background-fill-primary); white-space: normal}
.asa-model code {white-space: pre-wrap; font-family: var(--font-mono)}
.asa-model summary {cursor: pointer; color: var(--body-text-color-subdued); font-size: var(--text-sm)}
.asa-head {display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 8px}
.asa-mark {font-size: var(--text-sm); border-radius: 8px; padding: 0 8px; color: white}
.asa-fits {background: #15803d} .asa-fault {background: #b91c1c}
.asa-strip {display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; min-height: 32px}
.asa-strip b {font-family: var(--font-mono)}
.asa-bar {position: relative; width: 140px; height: 12px; border-radius: 6px; background: var(--border-color-primary)}
.asa-bar i {position: absolute; inset: 0 auto 0 0; border-radius: 6px; background: var(--color-accent)}
.asa-bar s {position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--body-text-color)}
.asa-error {color: #b91c1c}
"""


def conversation(turns: Sequence[Turn], tools: Mapping[str, Tool], markers: tuple[str, str]) -> str:
    """Earlier turns and the last one; calls are cards, and an answer without a word says so."""
    said = "".join(_turn(turn, tools, markers) for turn in turns)
    return f'<div class="asa-scroll" tabindex="0"><div class="asa-talk">{said}</div></div>'


def _turn(turn: Turn, tools: Mapping[str, Tool], markers: tuple[str, str]) -> str:
    role, text = turn["role"], turn["content"]
    if role != "assistant":
        kind, shown = ("asa-tool", f"= {text}") if role == "tool" else ("asa-user", text)
        return f'<div class="{kind}">{html.escape(shown)}</div>'
    cards = "".join(_card(call, fault) for call, fault in read_calls(text, tools, markers))
    if cards:
        cards += f"<details><summary>as written</summary><code>{html.escape(text)}</code></details>"
    words = text.partition(markers[0])[0].rstrip() if cards else text or "(nothing)"
    return f'<div class="asa-model">{html.escape(words)}{cards}</div>'


def _card(call: ToolCall | None, fault: str) -> str:
    """A call, and whether it fits."""
    name = "a call that cannot be read" if call is None else call.name
    arguments = {} if call is None else call.arguments
    rows = "".join(
        f"<div>{html.escape(key)} <code>{html.escape(json.dumps(value, ensure_ascii=False))}</code></div>"
        for key, value in arguments.items()
    )
    kind, mark = ("asa-fault", "fault") if fault else ("asa-fits", "fits the schema")
    head = f'<div class="asa-head"><b>{html.escape(name)}</b><span class="asa-mark {kind}">{mark}</span></div>'
    said = f'<div class="asa-error">{html.escape(fault)}</div>' if fault else ""
    return f'<div class="asa-card">{head}{rows}{said}</div>'


def title(model_id: str, layer: int) -> str:
    """The head of the page."""
    return f"<h2>ASA chat</h2><code>{html.escape(model_id)}</code>, steered at layer {layer}: one decision per answer."


def strip(decision: Decision | None, edges: Iterable[float], error: str = "") -> str:
    """A decision in a line, its probability on a bar that is marked where the gate opens; or an error."""
    if error:
        return f'<div class="asa-strip asa-error" role="alert">{html.escape(error)}</div>'
    if decision is None:
        return '<div class="asa-strip">What the adapter decides about a request stands here.</div>'
    marks = "".join(f'<s style="left: {100 * place:.1f}%"></s>' for place in edges)
    bar = f'<span class="asa-bar"><i style="width: {100 * decision.p_tool:.1f}%"></i>{marks}</span>'
    return (
        f'<div class="asa-strip"><b>{html.escape(decision.domain)}</b><span>p(tool) {decision.p_tool:.3f}</span>{bar}'
        f"<span>gate {decision.gate:+d}: {push_in_words(decision)}</span><span>dose {decision.dose:.2f}, "
        f"layer {decision.layer}</span></div>"
    )
