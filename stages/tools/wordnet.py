"""Fit WordNet as Debian packs it into the layout that NLTK reads. A tool, no stage of the pipeline.

Debian's package wordnet-base holds the files of WordNet 3.0 but lacks two that NLTK opens:
`lexnames`, the numbered list of lexicographer files (manual page lexnames(5WN)), and `index.sense`,
which only sense keys need and which may be empty. The files are copied, for NLTK refuses links that
lead out of its folder.

    apt-get install wordnet-base
    verdict wordnet --from /usr/share/wordnet --to ~/nltk_data
"""

import logging
import shutil
from pathlib import Path

from stages.core.errors import InputError
from stages.core.tables import atomic
from stages.runtime.cli import run

log = logging.getLogger("verdict")

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
NEEDED = [name for pos in PARTS_OF_SPEECH for name in (f"data.{pos}", f"index.{pos}", f"{pos}.exc")]
LEXNAMES = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location
noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process
noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change
verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation
verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather
adj.ppl
"""


def lexnames() -> str:
    """The file `lexnames`: number, name, part of speech (1 noun to 4 adverb), a line each."""
    number = {pos: index for index, pos in enumerate(PARTS_OF_SPEECH, start=1)}
    return "".join(
        f"{index:02d}\t{name}\t{number[name.partition('.')[0]]}\n"
        for index, name in enumerate(LEXNAMES.split())
    )


def main(*, from_: Path, to: Path) -> None:
    """Copy WordNet into a folder that NLTK searches.

    Args:
        from_: Folder with WordNet's files, such as /usr/share/wordnet.
        to: NLTK's data folder, such as ~/nltk_data; its `corpora/wordnet` is replaced.
    """
    missing = [name for name in NEEDED if not (from_ / name).is_file()]
    if missing:
        expected = "expected the files of Debian's wordnet-base"
        raise InputError(f"--from {from_}: no WordNet there, missing {missing}; {expected}")
    with atomic(to / "corpora" / "wordnet") as folder:
        folder.mkdir()
        for name in NEEDED:
            shutil.copyfile(from_ / name, folder / name)
        (folder / "lexnames").write_text(lexnames(), encoding="utf-8")
        (folder / "index.sense").touch()
    log.info("wordnet: %d files in %s", len(NEEDED) + 2, to / "corpora" / "wordnet")


if __name__ == "__main__":
    run(main)
