"""How a stage is started: options from type hints, a log line at its end, clear errors."""

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import cyclopts

from stages.core.errors import InputError

log = logging.getLogger("verdict")


def run(main: Callable[..., None]) -> None:
    """Run the stage `main` with the options of the command line, and log how long it took."""
    module = sys.modules["__main__"]
    if module.__spec__ and module.__spec__.name.startswith("stages."):
        # Other processes find what the module defines by its name, not as `__main__`
        name = module.__spec__.name
        main = importlib.import_module(name).main
    else:
        module = sys.modules[main.__module__]
        name = main.__module__
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    started = time.perf_counter()
    app = cyclopts.App(name=f"python -m {name}", help=module.__doc__, help_format="plaintext")
    app.default(main)
    start(app)
    log.info("%s: %.1f s", name.removeprefix("stages."), time.perf_counter() - started)


def start(app: cyclopts.App) -> None:
    """Run an app with the words of the command line.

    Bad input (`InputError`) ends with its message and status 1; any other exception is a bug and
    keeps its traceback.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        app(result_action="return_value")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        sys.exit(1)


def _end_with(parent: int) -> None:
    """End when DVC has: what a killed run left must not write beside the next one, or after it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    log.error("stopped, since the DVC run that started this stage has ended")
    os.kill(os.getpid(), signal.SIGTERM)
