"""What a function is made of, for a process of its own: the texts of its file and of what that imports, and its settings.

Only these are sent to a worker process, and only when one of them changes it is replaced. What a file imports by another
way than `import` (`importlib.import_module`) is not among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.loading.importer import Modules
from runtime.loading.units import prefixes
from runtime.resources import ResourceSpec
from runtime.settings import Settings
from runtime.specs import FunctionSpec, Isolation


class Isolations:
    """Tells for functions of loaded modules, under some settings, what they are made of."""

    def __init__(self, modules: Modules, settings: Settings, resources: Mapping[str, ResourceSpec | None]) -> None:
        self._modules = modules
        self._settings = settings
        self._resources = resources
        self._homes: dict[tuple[str, bool], str] = {}
        for module, owned in modules.owned.items():
            for loaded in owned:
                self._homes[loaded.declaration.name, loaded.declaration.is_resource] = module
        self._closures: dict[str, frozenset[str]] = {}

    def of(self, function: FunctionSpec) -> Isolation | None:
        """Return what a function of the modules is made of; None for one that none of them declares."""
        if (function.name, False) not in self._homes:
            return None
        taken = _all(self._resources[name] for name in function.parameters.resources)
        table = self._settings.functions.get(function.name)
        homes = [self._homes[function.name, False], *(self._homes[resource.name, True] for resource in taken)]
        return Isolation(
            name=function.name,
            folder=str(self._modules.folder),
            texts=self._texts(frozenset[str]().union(*map(self._closure, homes))),
            overrides=table.overrides if table else {},
            settings=function.settings,
            resources={resource.name: resource.settings for resource in taken},
            memory=function.memory,
            **({"process": table.process} if table else {}),
        )

    def _closure(self, home: str) -> frozenset[str]:
        """Return the modules that one needs, itself included."""
        if home not in self._closures:
            found: set[str] = set()
            waiting = [home]
            while waiting:
                name = waiting.pop()
                if name not in found and name in self._modules.units:
                    found.add(name)
                    waiting += [*prefixes(name)[:-1], *self._modules.imports[name]]
            self._closures[home] = frozenset(found)
        return self._closures[home]

    def _texts(self, names: Iterable[str]) -> dict[str, bytes]:
        units = [self._modules.units[name] for name in sorted(names)]
        return {unit.relative: unit.source for unit in units if unit.source is not None}


def _all(taken: Iterable[ResourceSpec | None]) -> list[ResourceSpec]:
    """Return resources and those that they take."""
    found: dict[str, ResourceSpec] = {}
    waiting = [one for one in taken if one is not None]
    while waiting:
        resource = waiting.pop()
        found[resource.name] = resource
        waiting += resource.takes
    return list(found.values())
