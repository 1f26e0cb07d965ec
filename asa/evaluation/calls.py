"""Calls: how far the requests that need a tool get, from being answered by a call to having the job done.

Counted over all requests that need a tool, not only over those that called. Whether words would have done is not asked.
"""

from asa.data.references import Reference, text_key
from asa.data.requests import Request
from asa.evaluation.jobs import does_job
from asa.evaluation.metrics import rate_of
from asa.evaluation.validity import first_call
from asa.tools.definitions import Tool, domains_of

STEPS = ("called", "parses", "known", "fits", "right_tool", "job")  # each presupposes the one before


def call_steps(
    requests: list[Request],
    answers: list[str],
    tools: dict[str, Tool],
    markers: tuple[str, str],
    references: dict[str, Reference],
    run_code: bool = False,
) -> dict[str, dict]:
    """Rates of `STEPS` over the requests that need a tool; an answer counts by its first call.

    `right_tool` asks whether it is a tool of the request's domain, and `job` whether its arguments do what was asked
    (`jobs.does_job`). Requests that cannot be judged are in no `total`: those whose domain has no tool are not in
    the last two, and those without a rule or a reference not in the last one.

    `job_by_domain` has the last one for each domain whose requests can be judged.

    Args:
        requests: N requests; those that need no tool are passed over.
        answers: Their N answers, special tokens included.
        tools: Tools by name.
        markers: What opens and closes a call.
        references: By `text_key`.
        run_code: Whether Python calls are run; without it no request for one counts in `job`.
    """
    found: dict[str, list[bool | None]] = {step: [] for step in STEPS}
    jobs: dict[str, list[bool]] = {}
    serves = {domain: {n: t for n, t in tools.items() if t.domain == domain} for domain in domains_of(tools)}
    for request, answer in zip(requests, answers, strict=True):
        if request.label != 1:
            continue
        first = first_call(answer, tools, markers)
        serving = serves.get(request.domain, {})
        name = first.call.name if first.fits and first.call else ""
        right, tool = name in serving, serving.get(name) or next(iter(serving.values()), None)
        reference = references.get(text_key(request.text))
        job = does_job(first.call if right else None, request, tool, reference, run_code)
        steps = (first.called, first.parses, first.known, first.fits, right if serving else None, job)
        if job is not None:
            jobs.setdefault(request.domain, []).append(job)
        for step, got in zip(STEPS, steps, strict=True):
            found[step].append(got)
    judged = {step: [got for got in all_of if got is not None] for step, all_of in found.items()}
    by_domain = {domain: rate_of(sum(gots), len(gots)) for domain, gots in sorted(jobs.items())}
    return {step: rate_of(sum(gots), len(gots)) for step, gots in judged.items()} | {"job_by_domain": by_domain}
