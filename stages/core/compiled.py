"""Loops over numbers, compiled by numba: for what neither numpy nor scipy does without copies."""

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """`loop` in machine code, without the interpreter's lock; kept on disk beside its module.

    Compiled when it is first called. Sums keep their order: the same bytes as the plain loop.
    """
    import numba

    fast: Callable[..., Any] = numba.njit(nogil=True, cache=True)(loop)
    return fast
