"""Verdict's stages. Whatever imports one of them runs this first."""

import gc

# Importing makes some hundred thousand objects that stay. By default the collector looks through
# the new ones for garbage after every 700, a tenth of what a small stage takes to start.
gc.set_threshold(200_000, 10, 10)
