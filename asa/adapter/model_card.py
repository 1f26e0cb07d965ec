"""The model card: what an adapter is for, what it was measured at, and how to load it, for its page on the hub.

All of it stands in the adapter's config; nothing is measured here.
"""

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from asa.data.requests import QUICK_LOOK

BENCHMARKS = {"alpaca": ("tatsu-lab/alpaca", "Alpaca, labelled by need of a tool")}
LICENCES = {
    "alpaca": "The adapter learned from rows of Alpaca, which is under CC BY-NC 4.0.",
    "hand-written": "The adapter learned from this project's own requests, under Apache-2.0.",
}
BODY = """
# An activation-steering adapter for {model}

It makes {model} call tools when a request needs one, and answer in words when it does not. Once per answer, at block
{layer}, it reads the last prompt token's hidden state, decides, and adds or subtracts a steering vector. No weights
change. Method: arXiv 2602.04935 v1/v2{weighed}.

```python
from asa import load

assistant = load({source!r})
print(assistant({request!r}))
```

## What it is for

Requests in English that one of these tools serves: {tools}. The prompt lists exactly these; about prompts with other
tools the adapter knows nothing. It decides whether to call; calls are not run unless the caller gives a function.

## What it was measured at

{measured}

## Limits

The labels are language models' or their author's judgements. On domains that it was not fitted on it can be worse than
no steering. It fits one model's weights, and refuses others.

## Licence of the data

{licence}
"""


def model_card(config: dict[str, Any], source: str) -> ModelCard:
    """The card of an adapter with `config`, to be loaded from `source`."""
    named, scores = str(config.get("benchmark", "")), config.get("test", {})
    benchmark = named.removesuffix(QUICK_LOOK)
    rough = QUICK_LOOK if named != benchmark else ""
    model = str(config.get("model_id", "its model"))
    tools = config.get("tools", [])
    examples = [example["request"] for tool in tools for example in tool.get("examples", []) if "arguments" in example]
    dataset, title = BENCHMARKS.get(benchmark, (benchmark or "own", benchmark or "the user's own requests"))
    results = [
        EvalResult("text-generation", dataset, title, name, round(value, 4), dataset_split="test")
        for name, value in scores.get("asa", {}).items()
        if value is not None and not rough
    ]
    data = ModelCardData(
        base_model=None if model.startswith((".", "/")) else model, library_name="liquid-asa", language="en",
        tags=["activation-steering", "tool-calling"],
        model_name=source if results else None, eval_results=results or None,
    )  # fmt: skip
    body = BODY.format(
        model=model,
        layer=config["layer"],
        weighed=", with every domain's probe weighed by the router" if config.get("weighs_probes") else "",
        source=source,
        request=examples[0] if examples else "What is 17 * 23?",
        tools=", ".join(f"{tool['name']} ({tool['description']})" for tool in tools) or ", ".join(config["domains"]),
        measured=_measured(scores, title + rough),
        licence=LICENCES.get(benchmark, "The adapter learned from its author's own requests: ask them."),
    )
    return ModelCard(f"---\n{data}\n---\n{body}")


def _measured(scores: dict[str, dict[str, float]], title: str) -> str:
    """A table of the runs on TEST, or that there is none."""
    if not scores:
        return "It was not measured."
    names = list(next(iter(scores.values())))
    lines = ["| run | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for run, values in scores.items():
        shown = ["-" if values[name] is None else f"{values[name]:.3f}" for name in names]
        lines.append(f"| {run} | " + " | ".join(shown) + " |")
    return f"On TEST ({title}), by the calls that the model writes; nothing was fitted to it:\n\n" + "\n".join(lines)
