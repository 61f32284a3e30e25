"""What the page and the card say of each kind of task.

The sentences are kept here and not in the task classes: models depend on those, and none should be
trained again because a sentence has changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stages.core.tasks import MultiLabel, Preference, SingleLabel


@dataclass(frozen=True)
class Texts:
    """The sentences about a kind of task.

    Attributes:
        lead: What the page says below its title.
        predicts: What the model predicts, to end a sentence.
        use: What the model is for.
        misuse: What it is not for, to end a sentence.
    """

    lead: str
    predicts: str
    use: str
    misuse: str


OF_TEXTS = "other kinds of text, other languages and other times; decisions about single persons."

TEXTS: Mapping[str, Texts] = {
    Preference.kind: Texts(
        lead="Which of two answers a person prefers",
        predicts="which of two answers to a prompt a person prefers",
        use="Estimating which of two answers to a prompt people like these judges would prefer: to "
        "rank answers in bulk, to find close cases, to compare chatbots on average.",
        misuse="saying which answer is correct, safe or useful, which it does not know; deciding a "
        "single case; rewarding a chatbot, which would learn the biases of the judges.",
    ),
    SingleLabel.kind: Texts(
        lead="One class for each text",
        predicts="the class of a text",
        use="Sorting texts like those of its training data into one of its classes, in bulk.",
        misuse=OF_TEXTS,
    ),
    MultiLabel.kind: Texts(
        lead="Several classes for each text",
        predicts="the classes of a text",
        use="Tagging texts like those of its training data with none, one or several of its "
        "classes.",
        misuse=OF_TEXTS,
    ),
}
