"""Write the embedded dataset: an arena of our own, whose judge is known.

In: nothing but params. Out: a folder in the format of the Kaggle competition (`train.csv`,
`test.csv`, `sample_submission.csv`) and `truth.csv`, the judge's true probabilities for each row,
from which the best possible log loss follows.

The idea: a synthetic *brief* (a prompt of some kind, on some topic) is answered by two synthetic
models. Each answer is drawn right, nearly right or wrong, on or off the topic, long or short,
structured, refused or empty, and is worded accordingly, so that most of it can be read from the
text. The judge's utility of an answer is linear in these (`COEFFICIENTS`); with pi = exp(utility),
a tie has weight nu * sqrt(pi_a * pi_b), as in Davidson (1970), "On extending the Bradley-Terry
model to accommodate ties in paired comparison experiments", JASA 65.

Row i depends on the seed and on i alone, and is written before the next one is drawn: memory does
not grow with the rows, and the parts of a larger set begin with those of a smaller one.

    python -m stages.data.demo --dataset demo
"""

import csv
import functools
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field
from tqdm import tqdm

from stages.core.layout import Layout
from stages.core.params import Params, read_params
from stages.core.tables import atomic
from stages.data import _demo_text as text
from stages.runtime.cli import run

log = logging.getLogger("verdict")
T = TypeVar("T")
Turns = tuple[str | None, ...]

RIGHT, NEARLY, WRONG = range(3)  # whether the answer's fact is true
ON_TOPIC, DRIFTS, OFF_TOPIC = range(3)
SATURATION = 400  # words beyond which a longer answer is no better

# The judge: what an answer is worth, in log-odds against the other one.
COEFFICIENTS: Mapping[str, float] = {
    "nearly": -0.4,
    "wrong": -1.1,
    "drifts": -0.6,
    "off_topic": -1.4,
    "log_words": 0.68,  # a unit of log(1 + words), up to SATURATION
    "structure": 0.32,  # each of list, bold, heading
    "refused": -1.0,
    "empty": -0.5,
}

FOREIGN_SHARE = 0.08
SEVERAL_TURNS_SHARE = 0.14
COPY_SHARE = 0.015  # train prompts that repeat an earlier one, word for word or nearly
LEAK_EVERY = 200  # one test row in so many has the prompt of a train row
NO_ANSWERS_SHARE = 0.002  # both answers are empty or null
LONE_SURROGATE = "\ud83d"  # half an emoji, as texts cut in the middle have it


class DemoParams(Params):
    """Section `demo`."""

    section = "demo"

    train_rows: Annotated[int, Field(ge=1, le=10_000_000)] = 6000
    test_rows: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    seed: Annotated[int, Field(ge=0)] = 1
    position_bias: Annotated[float, Field(ge=-1, le=1)] = 0.03  # added to the utility of answer A
    tie: Annotated[float, Field(gt=0, le=10)] = 1.05  # Davidson's nu


@dataclass(frozen=True)
class Model:
    """A synthetic chatbot: shares of right, structured and refused answers; its usual length."""

    name: str
    skill: float
    words: int
    structure: float
    refuses: float


MODELS = (
    Model("larch-180b", 0.85, 200, 0.55, 0.02),
    Model("cedar-70b-chat", 0.80, 210, 0.60, 0.03),
    Model("cedar-13b-chat", 0.62, 170, 0.45, 0.06),
    Model("aspen-pro", 0.82, 150, 0.50, 0.08),
    Model("aspen-instant", 0.70, 90, 0.35, 0.08),
    Model("rowan-8x7b-instruct", 0.75, 160, 0.40, 0.02),
    Model("rowan-7b-instruct", 0.60, 120, 0.30, 0.03),
    Model("willow-33b", 0.58, 160, 0.25, 0.05),
    Model("willow-7b", 0.42, 120, 0.20, 0.06),
    Model("juniper-34b", 0.68, 190, 0.50, 0.01),
    Model("hazel-6b", 0.35, 90, 0.15, 0.03),
    Model("alder-12b", 0.25, 50, 0.08, 0.02),
    Model("maple-3b", 0.30, 70, 0.10, 0.02),
    Model("birch-1b-mini", 0.22, 60, 0.10, 0.01),
)


@dataclass(frozen=True)
class Topic:
    """The words of one topic in one language."""

    language: str
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adjectives: tuple[str, ...]


@dataclass(frozen=True)
class Brief:
    """What a row asks for: its prompt, and the fact asked for as it is, nearly so, and wrong."""

    kind: str
    topic: Topic
    focus: tuple[str, ...]
    turns: tuple[str, ...]
    facts: tuple[str, str, str]


@dataclass(frozen=True)
class Side:
    """How one model treats one brief; the text is written after it."""

    model: str
    correctness: int
    relevance: int
    words: int
    marks: frozenset[str] = field(default_factory=frozenset)  # of list, bold, heading
    refused: bool = False
    missing: bool = False  # an empty answer


@dataclass(frozen=True)
class Row:
    """One row of the arena; `truth` and `verdict` in the order a, b, tie."""

    id: int
    models: tuple[str, str]
    prompt: Turns
    responses: tuple[Turns, Turns]
    truth: tuple[float, float, float]
    verdict: int


class Words(dict[str, str]):
    """Fills the places of a pattern: `pattern.format_map(words)` draws each of them anew.

    Those in `given` stay as they are.
    """

    def __init__(
        self, rng: random.Random, topic: Topic, focus: Sequence[str], **given: str
    ) -> None:
        super().__init__(given)
        self.rng, self.topic, self.focus = rng, topic, focus

    def __missing__(self, place: str) -> str:
        rng = self.rng
        match place:
            case "noun":
                return pick(rng, self.focus if rng.random() < 0.5 else self.topic.nouns)
            case "focus":
                return pick(rng, self.focus)
            case "verb":
                return pick(rng, self.topic.verbs)
            case "adj":
                return pick(rng, self.topic.adjectives)
            case "num":
                return str(2 + int(97 * rng.random() ** 2))
            case "year":
                return str(1850 + int(175 * rng.random()))
            case "name":
                return invent_name(rng)
        raise KeyError(place)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of `options`, each as likely."""
    return options[int(rng.random() * len(options))]


def draws(seed: int, *place: str | int) -> random.Random:
    """A generator of its own for each place, so that rows do not depend on each other."""
    return random.Random("/".join(map(str, (seed, *place))))  # noqa: S311 - no cryptography here


def invent_name(rng: random.Random) -> str:
    """A name that hardly any other text has."""
    stem = "".join(pick(rng, text.SYLLABLES) for _ in range(1 + (rng.random() < 0.7)))
    return (stem + pick(rng, text.ENDINGS)).capitalize()


@functools.cache
def topics(language: str) -> tuple[Topic, ...]:
    """All topics of a language."""
    source = text.ENGLISH_TOPICS if language == "en" else text.FOREIGN_TOPICS[language]
    return tuple(
        Topic(language, *(tuple(part.split()) for part in words.split(";")))
        for words in source.values()
    )


def sentence(words: Words) -> str:
    """One sentence of the topic's words."""
    rng, language = words.rng, words.topic.language
    pattern = "".join(
        pick(rng, bank[language]) for bank in (text.OPENERS, text.CLAUSES, text.TAILS)
    )
    filled = pattern.format_map(words)
    return filled[0].upper() + filled[1:] + "."


def sentences(words: Words, n_words: float) -> list[str]:
    """Sentences of about `n_words` words together, one at least."""
    found = [sentence(words)]
    n = found[0].count(" ") + 1
    while n < n_words:
        found.append(sentence(words))
        n += found[-1].count(" ") + 1
    return found


def code_block(words: Words, language: str = "python") -> str:
    """A function of a few lines about the topic."""
    name = "{verb}_{focus}".format_map(words).replace("-", "_")
    lines = [f"def {name}({words['noun']}, limit={words['num']}):", f"    {words['adj']} = []"]
    loop = "    for item in {noun}:\n        {adj}.append({verb}(item, {num}))"
    lines += [loop.format_map(words) for _ in range(1 + int(words.rng.random() * 4))]
    lines.append(f"    return {words['adj']}[:limit]  # {words['noun']}")
    return "\n".join([f"```{language}", *lines, "```"])


# --- the brief -----------------------------------------------------------------------------------


def draw_brief(rng: random.Random) -> Brief:
    """A prompt of some kind on some topic."""
    foreign = rng.random() < FOREIGN_SHARE
    language = pick(rng, tuple(text.FOREIGN_PROMPTS)) if foreign else "en"
    kind = "foreign" if foreign else pick(rng, tuple(text.PROMPTS))
    topic = pick(rng, topics(language))
    focus = tuple(rng.sample(topic.nouns, 4))
    words = Words(rng, topic, focus)
    question, facts = _question(rng, kind, words)
    words["question"] = question
    pattern = pick(rng, text.FOREIGN_PROMPTS[language] if foreign else text.PROMPTS[kind])
    if "{passage}" in pattern:
        words["passage"] = _passage(words)
    if "{code}" in pattern:
        words["code"] = code_block(words, "")
    if not foreign:
        pattern = pick(rng, text.PREFIXES) + pattern + pick(rng, text.SUFFIXES)
    turns = [pattern.format_map(words) + (LONE_SURROGATE if rng.random() < 0.003 else "")]
    while len(turns) < 6 and rng.random() < (SEVERAL_TURNS_SHARE if len(turns) == 1 else 0.4):
        turns.append(pick(rng, text.FOLLOW_UPS[language]).format_map(words))
    return Brief(kind, topic, focus, tuple(turns), facts)


def _passage(words: Words) -> str:
    """A pasted text: mostly one paragraph, now and then pages."""
    found = sentences(words, min(1500, words.rng.lognormvariate(math.log(130), 0.9)))
    return "\n\n".join(" ".join(found[start : start + 6]) for start in range(0, len(found), 6))


def _question(rng: random.Random, kind: str, words: Words) -> tuple[str, tuple[str, str, str]]:
    """A question (where the kind has one) and its fact: right, nearly right and wrong."""
    if kind == "arithmetic":
        a, b, c = (2 + int(rng.random() * 98) for _ in range(3))
        question = f"What do {a} {words['focus']} at {b} coins each and {c} coins of delivery cost?"
        return question, _numbers(rng, a * b + c)
    if kind == "fact":
        source = int(rng.random() * 3)
        if source == 0:
            country, *others = rng.sample(tuple(text.CAPITALS), 3)
            cities = [text.CAPITALS[name] for name in (country, *others)]
            return f"what is the capital of {country}?", (cities[0], cities[1], cities[2])
        if source == 1:
            element = pick(rng, tuple(text.ELEMENTS))
            return f"which number does {element} have?", _numbers(rng, text.ELEMENTS[element])
        event = pick(rng, tuple(text.EVENTS))
        return f"when did {event}?", _numbers(rng, text.EVENTS[event])
    right, nearly, wrong = (
        pattern.format_map(words) for pattern in ("{focus} + {focus}", "{focus} + {noun}", "{name}")
    )
    return "", (right, nearly, wrong)


def _numbers(rng: random.Random, right: int) -> tuple[str, str, str]:
    return (
        str(right),
        str(right + 1 + int(rng.random() * 3)),
        str(right + 10 + int(rng.random() * 300)),
    )


# --- the answers ---------------------------------------------------------------------------------


def draw_side(rng: random.Random, model: Model) -> Side:
    """How `model` treats a brief."""
    chance = rng.random()
    correctness = (
        RIGHT if chance < model.skill else NEARLY if chance < (1 + model.skill) / 2 else WRONG
    )
    chance = rng.random()
    relevance = (
        ON_TOPIC if chance < 0.7 + 0.25 * model.skill else DRIFTS if chance < 0.95 else OFF_TOPIC
    )
    return Side(
        model=model.name,
        correctness=correctness,
        relevance=relevance,
        words=int(min(2000, rng.lognormvariate(math.log(model.words), 0.75))),
        marks=frozenset(
            mark for mark in ("list", "bold", "heading") if rng.random() < model.structure
        ),
        refused=rng.random() < model.refuses,
        missing=rng.random() < 0.003,
    )


def write_answer(rng: random.Random, brief: Brief, side: Side) -> Turns:
    """The text of one side, with as many turns as the prompt; a missing one is empty or null."""
    if side.missing:
        return (pick(rng, ("", None)),) * len(brief.turns)
    own = Words(rng, brief.topic, brief.focus, key=brief.facts[side.correctness])
    if side.refused:
        return tuple(_refusal(own) for _ in brief.turns)
    topic = pick(rng, topics(brief.topic.language))
    other = Words(rng, topic, rng.sample(topic.nouns, 4), key=own["key"])
    n_words = side.words / len(brief.turns) ** 0.5
    return tuple(_turn(brief, side, own, other, n_words) for _ in brief.turns)


def _refusal(words: Words) -> str:
    first = pick(words.rng, text.REFUSALS[words.topic.language]).format_map(words)
    return " ".join([first, *(sentence(words) for _ in range(int(words.rng.random() * 3)))])


def _turn(brief: Brief, side: Side, own: Words, other: Words, n_words: float) -> str:
    rng, language = own.rng, brief.topic.language
    first = other if side.relevance == OFF_TOPIC else own
    lead = pick(rng, text.LEADS[language]).format_map(first)
    if side.relevance == DRIFTS:
        found = sentences(own, n_words * 0.3) + sentences(other, n_words * 0.6)
    else:
        found = sentences(first, n_words * 0.85)
    found = _with_wording(rng, found, first, side.correctness)
    parts = [lead, _layout(rng, found, first, side.marks)]
    if brief.kind == "code" and rng.random() < 0.8:
        parts.insert(1, code_block(first))
    if rng.random() < 0.3:
        parts.append(pick(rng, text.CLOSINGS[language]).format_map(first))
    if rng.random() < 0.04:
        parts.append(pick(rng, text.EMOJI))
    if rng.random() < 0.002:
        parts.append(LONE_SURROGATE)
    return "\n\n".join(parts)


def _with_wording(
    rng: random.Random, found: list[str], words: Words, correctness: int
) -> list[str]:
    """Right answers give reasons; wrong ones hedge and repeat themselves."""
    language = words.topic.language
    hedges, repeats = ((0.02, 0.0), (0.6, 0.05), (0.95, 0.2))[correctness]
    worded = []
    for number, one in enumerate(found):
        worded.append(one)
        if number % 5 == 0:
            hedged = rng.random() < hedges
            bank = text.UNSURE if hedged else text.SURE if correctness == RIGHT else None
            if bank:
                worded.append(pick(rng, bank[language]).format_map(words))
        if rng.random() < repeats:
            worded.append(one)
    return worded


def _layout(rng: random.Random, found: list[str], words: Words, marks: frozenset[str]) -> str:
    """Sentences as paragraphs, or as a list, with headings and bold words."""
    if "bold" in marks:
        found = [_bold(one) if number % 3 == 0 else one for number, one in enumerate(found)]
    blocks = []
    step = 3 + int(rng.random() * 3)
    numbered = rng.random() < 0.5
    for start in range(0, len(found), step):
        block = found[start : start + step]
        if "heading" in marks and (start // step) % 2 == 0:
            blocks.append("## " + pick(rng, text.HEADINGS[words.topic.language]).format_map(words))
        if "list" in marks and (start // step) % 2 == 0:
            bullets = [f"{number}. " if numbered else "* " for number in range(1, len(block) + 1)]
            blocks.append("\n".join(map("".join, zip(bullets, block, strict=True))))
        else:
            blocks.append(" ".join(block))
    return "\n\n".join(blocks)


def _bold(one: str) -> str:
    head, space, tail = one.partition(" ")
    return f"**{head}**{space}{tail}"


# --- the judge -----------------------------------------------------------------------------------


def utility(side: Side, n_words: int) -> float:
    """What the judge thinks of an answer of `n_words` words."""
    value = COEFFICIENTS["log_words"] * math.log1p(min(n_words, SATURATION))
    if side.missing:
        return value + COEFFICIENTS["empty"]
    if side.refused:
        return value + COEFFICIENTS["refused"]
    value += (0.0, COEFFICIENTS["nearly"], COEFFICIENTS["wrong"])[side.correctness]
    value += (0.0, COEFFICIENTS["drifts"], COEFFICIENTS["off_topic"])[side.relevance]
    return value + COEFFICIENTS["structure"] * len(side.marks)


def davidson(utility_a: float, utility_b: float, tie: float) -> tuple[float, float, float]:
    """Probabilities of a, b and a tie after Davidson (1970); `tie` is his nu."""
    half = (utility_a - utility_b) / 2
    a, b = math.exp(half), math.exp(-half)  # both sides divided by sqrt(pi_a * pi_b)
    total = a + b + tie
    return a / total, b / total, tie / total


def entropy(probabilities: Sequence[float]) -> float:
    """The expected log loss of a forecast that knows `probabilities`, in nats."""
    return -sum(p * math.log(p) for p in probabilities)


# --- rows and files ------------------------------------------------------------------------------


def draw_row(params: DemoParams, part: str, number: int) -> Row:
    """Row `number` (from 0) of the part `train` or `test`."""
    rng = draws(params.seed, part, number)
    brief = _brief_of_row(params.seed, part, number)
    models = rng.sample(MODELS, 2)
    sides = [draw_side(rng, model) for model in models]
    if rng.random() < NO_ANSWERS_SHARE:
        sides = [replace(side, missing=True) for side in sides]
    responses = [write_answer(rng, brief, side) for side in sides]
    utilities = [
        utility(side, sum(len((turn or "").split()) for turn in turns))
        for side, turns in zip(sides, responses, strict=True)
    ]
    truth = davidson(utilities[0] + params.position_bias, utilities[1], params.tie)
    chance = rng.random()
    return Row(
        # Multiplication modulo a prime: unlike any order, and never the same number twice.
        id=(2 * number + (part == "test") + 1) * 48271 % (2**31 - 1),
        models=(sides[0].model, sides[1].model),
        prompt=brief.turns,
        responses=(responses[0], responses[1]),
        truth=truth,
        verdict=0 if chance < truth[0] else 1 if chance < truth[0] + truth[1] else 2,
    )


def _brief_of_row(seed: int, part: str, number: int) -> Brief:
    """The brief of a row: mostly its own, sometimes another row's.

    So that grouping of prompts and the leak firewall have something to find.
    """
    rng = draws(seed, part, number, "copy")
    if part == "test" and number % LEAK_EVERY == 7:
        return draw_brief(draws(seed, "train", number, "brief"))
    if part == "train" and number and rng.random() < COPY_SHARE:
        brief = draw_brief(draws(seed, "train", int(rng.random() * number), "brief"))
        turns = (brief.turns[0] + pick(rng, ("", " Please.")), *brief.turns[1:])
        return Brief(brief.kind, brief.topic, brief.focus, turns, brief.facts)
    return draw_brief(draws(seed, part, number, "brief"))


def turns_json(turns: Turns) -> str:
    r"""A JSON list as the competition writes it: ASCII, without spaces, `\/` for a slash."""
    return json.dumps(turns, separators=(",", ":")).replace("/", "\\/")


TEXTS = ("prompt", "response_a", "response_b")
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
COLUMNS = {
    "train": ("id", "model_a", "model_b", *TEXTS, *WINNERS),
    "test": ("id", *TEXTS),
    "sample_submission": ("id", *WINNERS),
    "truth": ("id", "a", "b", "tie"),
}


def write_arena(params: DemoParams, folder: Path) -> float:
    """Write the four files into the folder `folder`, row by row.

    Returns:
        The best possible log loss: the mean entropy of the judge over all rows.
    """
    folder.mkdir(exist_ok=True)
    total = 0.0
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for name, columns in COLUMNS.items():
            file = stack.enter_context(
                (folder / f"{name}.csv").open("w", encoding="utf-8", newline="")
            )
            files[name] = csv.writer(file, lineterminator="\n")
            files[name].writerow(columns)
        for part, row in tqdm(
            _rows(params), "demo", params.train_rows + params.test_rows, unit="row", disable=None
        ):
            texts = [turns_json(turns) for turns in (row.prompt, *row.responses)]
            if part == "train":
                files["train"].writerow(
                    [row.id, *row.models, *texts, *(int(row.verdict == k) for k in range(3))]
                )
            else:
                files["test"].writerow([row.id, *texts])
                files["sample_submission"].writerow([row.id, *[1 / 3] * 3])
            files["truth"].writerow([row.id, *(f"{p:.9f}" for p in row.truth)])
            total += entropy(row.truth)
    return total / (params.train_rows + params.test_rows)


def _rows(params: DemoParams) -> Iterator[tuple[str, Row]]:
    for part, n_rows in (("train", params.train_rows), ("test", params.test_rows)):
        for number in range(n_rows):
            yield part, draw_row(params, part, number)


def main(*, dataset: str) -> None:
    """Write the raw files of the embedded dataset."""
    layout = Layout(dataset)
    params = read_params(DemoParams, layout)
    log.info("demo: %d train rows, %d test rows", params.train_rows, params.test_rows)
    with atomic(layout.raw) as folder:
        best = write_arena(params, folder)
    log.info("demo: wrote %s; best possible log loss %.4f", layout.raw, best)


if __name__ == "__main__":
    run(main)
