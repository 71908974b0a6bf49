"""The routes of the source `http`: what each may say, and which one a path leads to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError

from runtime import Answer, Event, Problem, Request

from ._credentials import Auth
from ._signatures import Signature

Reading = tuple[Event | list[Event], float | None] | Answer
Read = Callable[[Request, bytes], Reading]

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
LONGEST_WAIT = 86400  # seconds

TYPE = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH = re.compile(rf"/|(/({_PARAMETER.pattern}|[^\s/{{}}?#]+))+/?")


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of requests to a path; `timeout` in seconds, `max_body` in bytes, `key` a JMESPath into the data."""

    type: str
    reply: Literal["accepted", "result"] = "accepted"
    timeout: float = 60.0
    retries: int = 0
    priority: int | None = None
    key: str | None = None
    max_body: int | None = None
    methods: tuple[str, ...] = ("POST",)
    cors: bool | tuple[str, ...] = False
    auth: Auth | None = None
    signature: Signature | None = None


class Target(msgspec.Struct, frozen=True):
    """What a path leads to; `read` makes events of a request, and says how many seconds to wait for their result.

    What is no event is answered by `read` itself. `auth` is that of the route, or of the source.
    `parameters` are the names of those segments that take any text, by index.
    """

    segments: tuple[str, ...]
    parameters: dict[int, str]
    route: Route
    auth: Auth | None
    max_body: int
    read: Read

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """Return the parameters when the target takes a path of as many segments, else None."""
        for index, segment in enumerate(segments):
            if not segment if index in self.parameters else segment != self.segments[index]:
                return None
        return {name: segments[index] for index, name in self.parameters.items()}


class Targets:
    """The targets by path; among templates a literal segment goes before a parameter."""

    def __init__(self, auth: Auth | None, max_body: int) -> None:
        self._auth = auth
        self._max_body = max_body
        self._literals: dict[tuple[str, ...], Target] = {}
        self._templates: dict[int, list[Target]] = {}
        self._found = lru_cache(256)(self._search)

    def add(self, path: str, route: Route, read: Read) -> None:
        """Let a path lead to a route, which has the limit of the source and asks for its `auth` unless it says something else."""
        segments = path.split("/")[1:]
        parameters = {index: found[1] for index, segment in enumerate(segments) if (found := _PARAMETER.fullmatch(segment))}
        auth = route.auth or (None if route.signature else self._auth)
        max_body = route.max_body or self._max_body
        target = Target(tuple(unquote(segment) for segment in segments), parameters, route, auth, max_body, read)
        if parameters:
            targets = self._templates.setdefault(len(segments), [])
            targets.append(target)
            targets.sort(key=lambda target: [index in target.parameters for index in range(len(target.segments))])
        else:
            self._literals[target.segments] = target

    def find(self, path: bytes) -> tuple[Target, dict[str, str]]:
        """Return the target of a path as it came, and its parameters; segments are decoded after they are split.

        Raises:
            Problem: there is none (404).
        """
        target, parameters = self._found(path)
        return target, parameters.copy()  # whoever is given them may change them

    def _search(self, path: bytes) -> tuple[Target, dict[str, str]]:
        segments = tuple([unquote(segment) for segment in path.decode("ascii").split("/")[1:]])
        target = self._literals.get(segments)
        if target is not None:
            return target, {}
        for target in self._templates.get(len(segments), ()):
            parameters = target.match(segments)
            if parameters is not None:
                return target, parameters
        raise Problem(404, "nothing is served at this path")


def faults_of(routes: Mapping[str, Route], *, events: bool) -> list[str]:
    """Return what is wrong with routes, beside `/events` or without it."""
    faults = [fault for path, route in routes.items() for fault in _faults(path, route, events=events)]
    shapes: dict[str, str] = {}
    for path in routes:
        twin = shapes.setdefault(_PARAMETER.sub("{}", path), path)
        if twin != path:
            faults.append(f'routes."{path}": takes the same paths as routes."{twin}"; remove one of them')
    return faults


def _faults(path: str, route: Route, *, events: bool) -> list[str]:
    """Return what is wrong with a route."""
    names = _PARAMETER.findall(path)
    wrong_auth = route.auth and route.auth.fault()
    wrong_signature = route.signature and route.signature.fault()
    unknown = ", ".join(method for method in route.methods if method not in METHODS)
    checks = [
        (_PATH.fullmatch(path), "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
        (len(set(names)) == len(names), "each parameter has a name of its own"),
        (not events or path.split("/")[1:2] != ["events"], "/events is the source's own; choose another path or set `events = false`"),
        (TYPE.fullmatch(route.type), f'`type` is one event type without wildcards, found "{route.type}"'),
        (route.methods and not unknown, f"`methods` are one or more of {', '.join(METHODS)}, found {unknown or 'none'}"),
        (0 < route.timeout <= LONGEST_WAIT, f"`timeout` is more than 0 and at most {LONGEST_WAIT} seconds, found {route.timeout:g}"),
        (route.retries >= 0, f"`retries` is 0 or more, found {route.retries}"),
        (route.priority is None or 0 <= route.priority <= 9, f"`priority` is 0 (bulk) to 9 (urgent), found {route.priority}"),
        (route.max_body is None or route.max_body > 0, f"`max_body` is 1 byte or more, found {route.max_body}"),
        (not wrong_auth, wrong_auth),
        (not wrong_signature, wrong_signature),
        (not route.key or _is_expression(route.key), f'`key` is a JMESPath into the data, found "{route.key}"'),
    ]
    return [f'routes."{path}": {message}' for good, message in checks if not good]


def _is_expression(key: str) -> bool:
    try:
        jmespath.compile(key)
    except JMESPathError:
        return False
    return True
