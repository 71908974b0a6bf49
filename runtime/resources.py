"""Resources: the checked form of `@resource`, as the keeper opens and closes it, and the lease that an attempt has on some."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from runtime.errors import Fault, nearest
from runtime.function import Declaration, Kind
from runtime.parameters import RESERVED

OWN = "settings"  # the parameter that receives the table [resources.NAME]
TAKEN = (*RESERVED, OWN)  # names of parameters that mean something else


class ResourceOptions(msgspec.Struct, frozen=True):
    """What `@resource` may set: the seconds that opening and closing may take."""

    timeout: float = 60.0


class ResourceSpec(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A resource of the folder, checked; `line` is that of its `def`, `timeout` in seconds.

    One object stands for one thing that is opened: generations share it while nothing of it has changed.
    `takes` are the resources it is given, `settings` is its table, `configured` says whether it asks for that.
    """

    name: str
    call: Callable[..., Any]
    kind: Kind
    file: str
    line: int
    timeout: float
    takes: tuple[ResourceSpec, ...] = ()
    settings: Mapping[str, Any] = {}
    configured: bool = False

    @property
    def where(self) -> str:
        """File and line, as in every message."""
        return f"{self.file}:{self.line}"

    def is_as(self, other: ResourceSpec) -> bool:
        """Return whether what `other` opens is what this one would open."""
        return (self.call, self.timeout, self.takes, self.settings) == (other.call, other.timeout, other.takes, other.settings)


class Lease:
    """The values of resources by name, which stay open until each holder has let go; it begins with one holder."""

    def __init__(self, values: Mapping[str, Any], let_go: Callable[[], None]) -> None:
        self._values = values
        self._let_go = let_go
        self._holders = 1

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def share(self) -> None:
        """Count one holder more."""
        self._holders += 1

    def release(self) -> None:
        """Count one holder less."""
        self._holders -= 1
        if not self._holders:
            self._let_go()


Placed = tuple[Declaration, str, int]
"""A declaration with its file and the line of its `def`."""


def make_resources(
    placed: Iterable[Placed],
    tables: Mapping[str, Mapping[str, Any]],
    previous: Mapping[str, ResourceSpec] | None = None,
    *,
    whole: bool = True,
) -> tuple[dict[str, ResourceSpec | None], list[Fault]]:
    """Return the resources of a folder by name, None for those with faults, and every fault.

    `tables` are the tables `[resources.NAME]`. What is as in `previous` is the same object. Unless the declarations
    are the `whole` a name that is not among them may be that of another resource.
    """
    maker = _Maker(tables, previous or {}, whole=whole)
    for declaration, file, line in placed:
        maker.add(declaration, f"{file}:{line}", (file, line))
    for name in maker.declared:
        maker.make(name, ())
    return maker.made, maker.faults


class _Maker:
    """Makes the resources of a folder, each after those it takes; collects every fault."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]], previous: Mapping[str, ResourceSpec], *, whole: bool) -> None:
        self._tables = tables
        self._previous = previous
        self._whole = whole
        self._places: dict[str, tuple[str, int]] = {}
        self.declared: dict[str, Declaration] = {}
        self.made: dict[str, ResourceSpec | None] = {}
        self.faults: list[Fault] = []

    def add(self, declaration: Declaration, where: str, place: tuple[str, int]) -> None:
        """Take one declaration, unless its name cannot be."""
        name = getattr(declaration.call, "__name__", "")
        if not name.isidentifier():
            message = f'@resource "{name}": its name is not one of a parameter, by which functions take it; write it as a `def`'
        elif name in TAKEN:
            message = f'@resource "{name}": a parameter `{name}` means something else; rename it: all but {", ".join(TAKEN)} are free'
        elif name in self.declared:
            message = f'the name "{name}" is taken by {self._where(name)}; names are unique over the folder: rename one'
        else:
            self.declared[name] = declaration
            self._places[name] = place
            return
        self.faults.append(Fault(where, message))

    def make(self, name: str, path: tuple[str, ...]) -> ResourceSpec | None:
        """Return a resource, made after those it takes; `path` are those that wait for it."""
        if name in path:
            cycle = [*path[path.index(name) :], name]
            spelled = " takes ".join(f'"{member}" ({self._where(member)})' for member in cycle)
            self._fault(name, f"resources take each other in a cycle: {spelled}; remove one parameter")
            return None
        if name not in self.made:
            before = len(self.faults)
            spec = self._spec(name, path)
            self.made[name] = spec if len(self.faults) == before else None
        return self.made[name]

    def _spec(self, name: str, path: tuple[str, ...]) -> ResourceSpec:
        declaration = self.declared[name]
        options, parameters = self._options(name), self._parameters(name)
        takes = [self.make(taken, (*path, name)) for taken in parameters if taken != OWN]
        file, line = self._places[name]
        spec = ResourceSpec(
            name=name,
            call=declaration.call,
            kind=declaration.kind,
            file=file,
            line=line,
            timeout=options.timeout,
            takes=tuple(one for one in takes if one is not None),
            settings=self._tables.get(name, {}),
            configured=OWN in parameters,
        )
        previous = self._previous.get(name)
        return previous if previous is not None and spec.is_as(previous) else spec

    def _options(self, name: str) -> ResourceOptions:
        allowed = ResourceOptions.__struct_fields__
        given = {}
        for key, value in self.declared[name].options.items():
            if key not in allowed:
                self._fault(name, f'@resource "{name}": unknown option `{key}`{nearest(key, allowed)}; allowed: {", ".join(allowed)}')
            elif type(value) not in (int, float) or not 0 < value < math.inf:
                self._fault(name, f'@resource "{name}": `{key}` is a number of seconds above 0, found {value!r}')
            else:
                given[key] = float(value)
        return ResourceOptions(**given)

    def _parameters(self, name: str) -> list[str]:
        """Return what a resource asks for: the names of others, and its settings."""
        try:
            parameters = inspect.signature(self.declared[name].call).parameters.values()
        except (TypeError, ValueError):
            self._fault(name, f'@resource "{name}" has no signature that can be read; wrap it in a `def`')
            return []
        return [one.name for one in parameters if self._is_given(name, one)]

    def _is_given(self, name: str, parameter: inspect.Parameter) -> bool:
        """Return whether a parameter is filled; one that cannot be is a fault, unless it keeps its default."""
        wanted, others = parameter.name, [one for one in self.declared if one != name]
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            self._fault(name, f'@resource "{name}" takes `{parameter}`, which nothing can fill by its name; name the resources it needs')
        elif wanted == OWN or wanted in self.declared:
            return True
        elif parameter.default is parameter.empty and self._whole:
            there = f"other resources ({', '.join(sorted(others)[:20]) or 'there are none'}) and `{OWN}`, the table [resources.{name}]"
            self._fault(
                name, f'@resource "{name}" has an unknown parameter `{wanted}`{nearest(wanted, (*others, OWN))}; it may take {there}'
            )
        return False

    def _where(self, name: str) -> str:
        return "{}:{}".format(*self._places[name])

    def _fault(self, name: str, message: str) -> None:
        self.faults.append(Fault(self._where(name), message))
