"""NLTK's data: read, or refused with the command that gets them."""

from collections.abc import Callable
from typing import Any

from stages.core.errors import InputError

GET_WORDNET = "get it with `python -m nltk.downloader wordnet`"


def from_nltk_data(param: str, how: str, read: Callable[[], Any]) -> Any:
    """What `read` gets from NLTK's data folders.

    Raises:
        InputError: The data are not there or damaged; the message says `how` to get them.
    """
    import nltk

    try:
        return read()
    except (LookupError, OSError, ValueError) as error:
        what = "is not installed" if isinstance(error, LookupError) else f"cannot be read ({error})"
        raise InputError(
            f"{param}: the NLTK corpus {what}; expected in one of {nltk.data.path}: {how}"
        ) from error
