"""The error that a user can mend: a fault in the data or in the params, not in the code."""

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input; the message names the file or param, what is wrong, what came and what is allowed.

    `stages.runtime.cli.run` prints it without a traceback and exits with status 1.
    """

    @classmethod
    def listing(cls, what: str, faults: Iterable[str]) -> "InputError":
        """One error for all `faults`, a line each under the headline `what`."""
        return cls("\n  ".join([what, *faults]))
