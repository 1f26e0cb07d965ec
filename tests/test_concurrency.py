"""Threads and processes that use one model: each answer is what it would be alone, or it is refused in a sentence."""

import multiprocessing
import threading
import warnings

import pytest
from conftest import fit_adapter, hooks_of, make_llama
from steered import changed, padded, said

from asa import AdapterError, ASAAdapter

ROUNDS = 60


def opposite(adapter: ASAAdapter) -> ASAAdapter:
    """The same decisions, pushed the other way."""
    return ASAAdapter(adapter.config, adapter.arrays | {"vectors": -adapter.arrays["vectors"]})


@pytest.mark.shows("Two threads steer one model with opposite adapters: each gets what it gets alone, or is refused")
def test_opposite_adapters_in_two_threads(tiny_llama, prompts, tried):
    adapter = fit_adapter(tiny_llama, prompts).adapter
    both = {"one": adapter, "other": opposite(adapter)}
    inputs, before = padded(prompts[:3]), hooks_of(tiny_llama)
    alone = {}
    for name, each in both.items():
        with each.steer(tiny_llama):
            alone[name] = said(tiny_llama, inputs, max_new_tokens=4, min_new_tokens=4)
    plain = said(tiny_llama, inputs, max_new_tokens=4, min_new_tokens=4)
    assert alone["one"] != alone["other"]
    found: dict[str, list] = {"one": [], "other": []}

    def steer(name: str, start: threading.Barrier) -> None:
        start.wait(20)
        try:
            with both[name].steer(tiny_llama):
                found[name].append(said(tiny_llama, inputs, max_new_tokens=4, min_new_tokens=4))
        except AdapterError as error:
            found[name].append(str(error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(ROUNDS):
            start = threading.Barrier(2)
            threads = [threading.Thread(target=steer, args=(name, start)) for name in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
    answered = sum(result == alone[name] for name, results in found.items() for result in results)
    for name, results in found.items():
        assert len(results) == ROUNDS
        assert all(result == alone[name] or "steered already" in result for result in results)
    assert answered >= ROUNDS  # one of the two gets in
    assert hooks_of(tiny_llama) == before and said(tiny_llama, inputs, max_new_tokens=4, min_new_tokens=4) == plain
    tried(2 * ROUNDS, "answers asked for")


def steer_in_a_child(folder: str, model, prompts: list, answers) -> None:
    """What a child process does; a model that is started anew is made anew."""
    model = make_llama() if model is None else model
    adapter = ASAAdapter.from_pretrained(folder)
    with adapter.steer(model):
        answers.put(said(model, padded(prompts), max_new_tokens=4, min_new_tokens=4))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.shows("A child process, forked or started anew, steers as its parent does, and changes nothing there")
def test_children(tiny_llama, prompts, tmp_path, how):
    adapter = fit_adapter(tiny_llama, prompts).adapter
    adapter.save(tmp_path)
    few, context = prompts[:3], multiprocessing.get_context(how)
    with adapter.steer(tiny_llama):
        expected = said(tiny_llama, padded(few), max_new_tokens=4, min_new_tokens=4)
    before, answers = hooks_of(tiny_llama), context.Queue()
    given = (str(tmp_path), tiny_llama if how == "fork" else None, few, answers)
    child = context.Process(target=steer_in_a_child, args=given)
    child.start()
    assert answers.get(timeout=120) == expected
    child.join(60)
    assert child.exitcode == 0 and hooks_of(tiny_llama) == before


@pytest.mark.shows("A generator that is dropped half-way, or an error of a streamer, leaves no hook")
def test_answers_that_are_not_finished(tiny_model, adapter, prompts):
    before, plain = hooks_of(tiny_model), said(tiny_model, padded(prompts[:2]))

    def pieces():
        with adapter.steer(tiny_model):
            yield said(tiny_model, padded(prompts[:2]))
            yield said(tiny_model, padded(prompts[:2]))

    dropped = pieces()
    next(dropped)
    dropped.close()
    forgotten = pieces()
    next(forgotten)
    del forgotten

    class Failing:
        def put(self, value) -> None:
            raise KeyboardInterrupt

        def end(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt), adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:1]), streamer=Failing())
    assert hooks_of(tiny_model) == before and said(tiny_model, padded(prompts[:2])) == plain
    with changed(adapter).steer(tiny_model):  # and it can be steered again
        said(tiny_model, padded(prompts[:1]))
