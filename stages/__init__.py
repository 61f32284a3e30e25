"""Verdict's stages. Whatever imports one of them runs this first."""

import gc
import sys

if sys.argv[0] == "-m":  # as Python sets it while it looks for the module of `python -m`
    # Importing makes some hundred thousand objects that stay. By default the collector looks
    # through the new ones for garbage after every 700, a tenth of what a small stage takes to
    # start. A process that only uses the stages keeps its own threshold.
    gc.set_threshold(700_000, 10, 10)
