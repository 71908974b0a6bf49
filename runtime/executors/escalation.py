"""Which functions run isolated though they do not ask for it: those that have overrun their timeout in a thread.

A thread cannot be stopped, but a process can. So a function whose timeout has passed in a thread is called in a worker
process from then on, until it, or what it imports, is saved. One that takes a resource stays where it is: the resource
is that of the whole runtime, and would be opened anew in each worker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from runtime.specs import FunctionSpec, Isolation

log = logging.getLogger("runtime.threads")


class Escalation:
    """The functions that are isolated for now, by what they are made of: a save makes something else of them."""

    def __init__(self) -> None:
        self._isolations: dict[str, Isolation] = {}

    def __contains__(self, function: FunctionSpec) -> bool:
        """Return whether a function is isolated for now."""
        isolation = self._isolations.get(function.name)
        return isolation is not None and isolation == function.isolation

    def add(self, function: FunctionSpec) -> bool:
        """Isolate a function that has overrun its timeout in a thread from now on, if it can be; return whether it is."""
        if function.isolation is None or function.parameters.resources:
            return False
        if function not in self:
            self._isolations[function.name] = function.isolation
            log.warning('"%s" (%s) runs isolated from now on, until it is saved: it does not end by itself', function.name, function.where)
        return True

    def adopt(self, functions: Iterable[FunctionSpec]) -> list[FunctionSpec]:
        """Return the functions of a generation, those that are still isolated for now as isolated ones; forget all others."""
        present = list(functions)
        self._isolations = {one.name: one.isolation for one in present if one in self and one.isolation is not None}
        return [msgspec.structs.replace(one, isolate=True) if one in self else one for one in present]
