"""Adding: further tools for a fitted adapter, by labelled requests and without tuning.

A prompt that shows other tools gives other hidden states, so all readers and vectors are fitted anew: on the new tools'
requests and on known ones of the adapter's own. Layer, direction, dose, beta and tau stay, and so they are not chosen
for the new tools. Nothing is tested here; `asa evaluate` does.
"""

import os
from collections.abc import Mapping

import numpy as np

from asa.adapter import ASAAdapter
from asa.app.asking import AssistantError
from asa.app.assistant import Assistant
from asa.data.examples import with_examples
from asa.data.requests import Request
from asa.data.splits import ReadSplit, requests_key
from asa.engine.states import read_requests
from asa.method.probes import choose_probe
from asa.method.recipe import Recipe
from asa.method.tuning import Setting
from asa.models.facts import profile_facts, prompt_facts
from asa.models.prompts import Prompter
from asa.tools.definitions import Tool, domains_of

UNTESTED = ("test", "calibration", "threshold", "benchmark", "asa_version")  # facts of the earlier one


def with_more_tools(
    assistant: Assistant, more: Mapping[str, Tool], requests: list[Request], known: list[Request], folder: str = "."
) -> Assistant:
    """The assistant of an adapter that serves more tools; the given one stays as it is.

    Args:
        assistant: Of the adapter to go by.
        more: The new tools, by name.
        requests: Labelled ones of the new tools.
        known: Labelled ones of the tools that the adapter has.
        folder: Where the new adapter is going to stand; a model folder is named as seen from there.

    Raises:
        AssistantError: A name or domain is taken, or a domain has no requests of a label.
        RequestsError: A tool has no examples and no requests to make some of, or a request is too long.
    """
    config, own = assistant.adapter.config, assistant.tools
    taken = {*own, *domains_of(own)} & {*more, *domains_of(more)}
    if taken:
        raise AssistantError(f"the adapter has {', '.join(sorted(taken))} already: give the new tool another name.")
    profile, tools = assistant.prompter.profile, {**own, **more}
    labelled = [*requests, *known]
    if profile.few_shot:
        tools, labelled = with_examples(tools, labelled)
    domains = domains_of(tools)
    _refuse_one_sided(labelled, domains)
    prompter = Prompter(assistant.prompter.tokenizer, profile, tools)
    split = read_requests(assistant.model, prompter, labelled, "states")
    setting = _setting(assistant.adapter)
    recipe = Recipe(split, split, domains, *_regularised(split, setting.layer, domains))
    facts = {name: value for name, value in config.items() if name not in UNTESTED}
    if os.path.isdir(profile.model_id) and str(config.get("model_id", "")).startswith((".", "/")):
        facts |= profile_facts(profile, folder)  # a folder's name is as seen from the adapter's
    facts |= prompt_facts(prompter) | {"data_hash": requests_key({"known": labelled}), "added": sorted(more)}
    adapter = recipe.adapter(setting, facts)
    del adapter.config["valid"]  # nothing was scored
    return Assistant(adapter, assistant.model, prompter)


def _setting(adapter: ASAAdapter) -> Setting:
    """The adapter's own; how it did is left out."""
    for name in ("direction", "beta"):
        if name not in adapter.config:
            raise AssistantError(f"the adapter's config.json has no {name}: fit it again with this version.")
    return Setting(adapter.config["direction"], adapter.layer, adapter.dose, adapter.config["beta"], adapter.tau)


def _refuse_one_sided(requests: list[Request], domains: list[str]) -> None:
    given = {(request.domain, request.label) for request in requests}
    for domain in domains:
        for label in (1, 0):
            if (domain, label) not in given:
                raise AssistantError(f"{domain}: no labelled request with label {label} is left: give some.")


def _regularised(split: ReadSplit, layer: int, domains: list[str]) -> tuple[float, float]:
    """The probes' regularisation, chosen on every other request of each domain and label."""
    fit, valid = (split.chosen(np.concatenate([cell[start::2] for cell in split.cells(domains)])) for start in (0, 1))
    return choose_probe(fit.states[:, layer], fit.labels, fit.domains, valid.states[:, layer], valid.labels, domains)
