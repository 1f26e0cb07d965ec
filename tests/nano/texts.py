"""Made-up requests, and how a model that over-triggers reacts to them.

A request is made from a *core*, something a tool can do ("calculate 37 * 48"), and a frame around it. One frame asks
for it ("Can you calculate 37 * 48?"): a tool is needed. Another only talks about it ("Why would anyone calculate 37 *
48?"): words are enough, but the same words that belong to the tool are there, a *cue*. A third kind has no core at all
("Write a poem about prime numbers."). Openings and endings are shared by all three.

The reactions are what makes the model over-trigger as LFM2.5 is reported to: a call with a probability that depends on
the kind alone. Above one half, greedy decoding always calls, so it calls on nearly all cues; but the probabilities
differ, so the model must tell the kinds apart. Nothing here is a real request or a model's text.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from asa.data.duplicates import NEAR_DUPLICATE, near_duplicate_groups
from asa.tools.definitions import Tool, render_call

KINDS = ("need", "cue", "plain")
CALLS = {"need": 0.97, "cue": 0.7, "plain": 0.08}  # how often a request of this kind is answered by a call
DOMAINS = ("math", "code", "search", "translation")
HELD_OUT = {"need": 40, "cue": 21, "plain": 19}  # a domain
HELD_OUT_SEED, TRAINING_SEED = 1, 2

WORDS = (
    "window garden river pencil basket candle forest mountain ladder blanket kitchen hammer orange marble pocket "
    "saddle tunnel velvet walnut yellow anchor bottle camera dragon engine feather guitar harbour island jacket "
    "kettle lantern magnet needle oyster pepper rabbit silver thunder umbrella violin whistle bridge castle "
    "almond barrel candy desert elbow falcon ginger helmet insect jungle kernel lemon meadow nephew olive parrot "
    "quartz ribbon shadow tailor urchin valley wagon zebra acorn beacon cobweb dinner ember fossil glacier hazel "
    "iceberg jasmine kiwi lobster mirror nutmeg otter pigeon quiver radish sparrow turnip vessel willow yogurt "
    "apron biscuit copper domino emblem"
).split()
PLACES = (
    "Oslo Lima Cairo Bergen Lisbon Nairobi Kyoto Quito Dublin Warsaw Hanoi Seville Toronto Athens Denver Zagreb "
    "Helsinki Bombay Geneva Porto Malmo Tunis Perth Riga Bogota Vienna Prague Ankara Osaka Dakar Havana Naples "
    "Leeds Turin"
).split()
LANGUAGES = (
    "French Spanish Italian German Polish Dutch Korean Turkish Greek Swedish Arabic Hindi Finnish Czech Welsh Thai"
).split()
SEARCHED = (
    "the weather; the news; the train times; the price of copper; the price of coffee; the price of bread; the opening "
    "hours of the museum; the opening hours of the library; the football results; the concert dates; the mayor; the "
    "best rated hotel; the bus timetable; the ferry times; the population; the flight prices; the election results; "
    "the cinema programme; the water level; the pollen count; the school holidays; the traffic; the rents"
).split("; ")
PHRASES = (
    "good morning; thank you very much; where is the station; the soup is cold; I lost my key; see you tomorrow; two "
    "tickets please; my brother is late; the red house; happy birthday; how much is this; the dog sleeps; we need a "
    "doctor; the train is full; I am hungry; close the door; what time is it; she plays the violin; it rains a lot; "
    "turn left here; the bill please; he likes old maps; good luck; the shop is open"
).split("; ")
TOPICS = {
    "math": "prime numbers; fractions; triangles; negative numbers; the number zero; circles; infinity; proofs; "
    "geometry; algebra; puzzles with matches; symmetry; counting on fingers; old measures",
    "code": "variables; recursion; clean code; comments; pair programming; old computers; functions; debugging; open "
    "source; naming things; loops; data types; unit tests; keyboards",
    "search": "rumours; libraries; curiosity; newspapers; privacy; maps; old photographs; weather forecasts; trust; "
    "local history; encyclopedias; advertising; travel plans; gossip",
    "translation": "accents; grammar; bilingual children; dictionaries; proverbs; idioms; alphabets; sign language; "
    "spelling; dialects; subtitles; polite speech; silence; body language",
}
ACTIVITY = {"math": "doing sums", "code": "running code", "search": "looking things up", "translation": "translating"}
DATES = "Monday; Friday; tonight; lunch; the meeting; the exam; the trip; next week".split("; ")
PEOPLE = (
    "a child; a robot; my aunt; a teacher; a sailor; my neighbour; a baker; a painter; a student; my boss; a nurse; a "
    "farmer; my cousin; a pilot"
).split("; ")

OPENINGS = (
    "Hello. ", "Hi there, ", "Quick question: ", "Good day! ", "A friend wants to know: ", "For {date}: ",
    "I am in {place}. ", "My {word} club asks: ", "One more thing. ", "Sorry to bother you. ",
)  # fmt: skip
ENDINGS = (
    " Thanks!", " Please be brief.", " It is for {date}.", " Take your time.", " I am curious.", " Best, {place} team.",
    " {person} asked me.", " No rush.",
)  # fmt: skip
FRAMES = {
    "need": (
        "{core}.", "Please {core}.", "Can you {core}?", "Could you {core} for me?", "I need you to {core}.",
        "{question}", "{question}", "{question}", "Go ahead and {core} before {date}.", "{person} wants you to {core}.",
        "I forgot how, so {core}.", "Would you {core} now?",
    ),
    "cue": (
        "Why would anyone {core}?", "Is it fun to {core}?", "How do I teach {person} to {core}?",
        "Write a poem where {person} has to {core}.", "What is the point if I {core} by myself?",
        "Tell a joke about {person} who tries to {core}.", "How long did it take {person} to {core} a century ago?",
        "Explain why {person} should learn to {core}.", "Is it rude to ask {person} to {core}?",
        "What goes wrong when people {core} in a hurry?", "Invent a story: {person} must {core}.",
        "Describe how it feels to {core}.",
    ),
    "plain": (
        "Why do people care about {topic}?", "Write a poem about {topic}.", "What are {topic}, in simple words?",
        "Tell a joke about {topic}.", "How do I teach {person} about {topic}?", "Is {topic} a good hobby?",
        "Give me three reasons to study {topic}.", "Explain {topic} to {person}.",
        "I find {topic} hard. How do I start?", "Invent a story about {topic} and a {word}.",
        "What would {person} say of {topic}?", "Which is harder for {person}, {topic} or {topic2}?",
    ),
}  # fmt: skip
ANSWERS = (
    "Many people enjoy {about}. It takes practice, and it helps {person} to think.",
    "There is a simple reason: {about} can make life easier.",
    "Once there was {person} who loved {about}, and all was well in the end.",
    "Start small. A little of {about} every day is best.",
    "I would say that {about} must be a matter of patience.",
    "It depends. For {person}, {about} can be a joy.",
)


@dataclass(frozen=True)
class Sample:
    """One made-up request.

    Attributes:
        text: What the user writes.
        kind: One of `KINDS`; only "need" needs the tool.
        domain: One of `DOMAINS`.
        arguments: What the domain's tool would be called with.
        about: What an answer in words would be about.
    """

    text: str
    kind: str
    domain: str
    arguments: dict[str, str]
    about: str


def make_core(rng: random.Random, domain: str) -> tuple[str, str, dict[str, str]]:
    """Something that `domain`'s tool can do: as an order, as a question, and as the tool's arguments."""
    a, b, c = rng.sample(range(2, 100), 3)
    u, v, w = rng.sample(WORDS, 3)
    if domain == "math":
        return rng.choice((
            (f"calculate {a} * {b}", f"How much is {a} * {b}?", {"expression": f"{a} * {b}"}),
            (f"add up {a}, {b} and {c}", f"What is the sum of {a}, {b} and {c}?", {"expression": f"{a} + {b} + {c}"}),
            (f"divide {a} by {b}", f"What is {a} divided by {b}?", {"expression": f"{a} / {b}"}),
            (f"compute {a} percent of {b}", f"What is {a} percent of {b}?", {"expression": f"{a} / 100 * {b}"}),
            (f"subtract {a} from {b}", f"What is {b} minus {a}?", {"expression": f"{b} - {a}"}),
        ))  # fmt: skip
    if domain == "code":
        program = rng.choice((f"print({a} ** {b})", f"print(max({a}, {b}, {c}))", f"print(len('{u}'))"))
        return rng.choice((
            (f"run {program}", f"What does {program} print?", {"code": program}),
            (f"reverse the word '{u}'", f"What is '{u}' backwards?", {"code": f"print('{u}'[::-1])"}),
            (f"count the letters of '{u}'", f"How many letters has '{u}'?", {"code": f"print(len('{u}'))"}),
            (f"sort '{u}', '{v}' and '{w}'", f"In which order come '{u}', '{v}' and '{w}'?",
             {"code": f"print(sorted(['{u}', '{v}', '{w}']))"}),
        ))  # fmt: skip
    if domain == "search":
        thing = f"{rng.choice(SEARCHED)} in {rng.choice(PLACES)}"
        order = rng.choice(("search the web for", "look up", "find", "google"))
        return f"{order} {thing}", f"What about {thing} today?", {"query": thing}
    phrase, language = rng.choice(PHRASES), rng.choice(LANGUAGES)
    order = rng.choice((f'translate "{phrase}" into {language}', f'say "{phrase}" in {language}'))
    return order, f'What is "{phrase}" in {language}?', {"text": phrase, "target_language": language}


def make_sample(rng: random.Random, domain: str, kind: str) -> Sample:
    """A request of a domain and kind."""
    order, question, arguments = make_core(rng, domain)
    topic, other = rng.sample(TOPICS[domain].split("; "), 2)
    if kind == "plain":
        arguments = dict.fromkeys(arguments, topic)
    slots = {
        "core": order, "question": question, "topic": topic, "topic2": other, "person": rng.choice(PEOPLE),
        "date": rng.choice(DATES), "place": rng.choice(PLACES), "word": rng.choice(WORDS),
    }  # fmt: skip
    frame = rng.choice(("", rng.choice(OPENINGS))) + rng.choice(FRAMES[kind]) + rng.choice(("", rng.choice(ENDINGS)))
    text = re.sub(r"(^|[.!?] )([a-z])", lambda start: start[1] + start[2].upper(), frame.format(**slots))
    return Sample(text, kind, domain, arguments, topic if kind == "plain" else ACTIVITY[domain])


def react(rng: random.Random, sample: Sample, tool: Tool, markers: tuple[str, str]) -> str:
    """What the over-triggering model says: a call of `tool` between `markers`, or words."""
    if rng.random() < CALLS[sample.kind]:
        return f"{markers[0]}[{render_call(tool.name, sample.arguments)}]{markers[1]}"
    return rng.choice(ANSWERS).format(about=sample.about, person=rng.choice(PEOPLE))


def held_out() -> list[Sample]:
    """Requests that no training sees, `HELD_OUT` of each kind a domain, no two nearly alike."""
    rng = random.Random(HELD_OUT_SEED)
    kept = []
    for domain in DOMAINS:
        for kind, count in HELD_OUT.items():
            pool = [make_sample(rng, domain, kind) for _ in range(4 * count)]
            apart = [pool[group[0]] for group in near_duplicate_groups([sample.text for sample in pool])]
            kept += apart[:count]
    return kept


def training_samples() -> Iterator[Sample]:
    """Endless training requests, half of them in need; none is held out or nearly like one that is."""
    rng = random.Random(TRAINING_SEED)
    kept_back = [words_of(sample.text) for sample in held_out()]
    while True:
        sample = make_sample(rng, rng.choice(DOMAINS), rng.choice(("need", "need", "cue", "plain")))
        words = words_of(sample.text)
        if all(len(words & other) <= NEAR_DUPLICATE * len(words | other) for other in kept_back):
            yield sample


def words_of(text: str) -> set[str]:
    """The words by which near-duplicates are told."""
    return set(re.findall(r"\w+", text.lower()))
