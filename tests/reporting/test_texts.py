from dataclasses import asdict

from stages.core.tasks import TASKS
from stages.reporting._texts import TEXTS


def test_every_kind_of_task_has_all_its_sentences():
    assert list(TEXTS) == list(TASKS)
    assert all(text for texts in TEXTS.values() for text in asdict(texts).values())
