"""What a function's parameters mean: each gets a getter, made once when the file is loaded."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection
from typing import Any, Protocol

import msgspec

from runtime.codec import to_builtins
from runtime.errors import DataError, nearest
from runtime.event import Answer, Event
from runtime.function import Context

RESERVED = ("event", "data", "context", "state")

MUTABLE = frozenset({dict, list})

Decoder = Callable[[Any], Any]


class Call(Protocol):
    """What a getter reads: one attempt of one step."""

    event: Event
    results: dict[str, Any]
    state: dict[str, Any]
    resources: Any

    @property
    def context(self) -> Context:
        """The context of this attempt."""


Getter = Callable[[Any], Any]


class Parameters(msgspec.Struct, frozen=True):
    """How to call a function: getters by position and by keyword, and what they need.

    `data` decodes the event's data for each parameter that takes it (to check data before acceptance),
    `payload` is the annotation of the first of these, `resources` are the names of those it takes. Of a function with
    `batch`, `each` are the getters that take one event, whose values make the columns that all others read. `answers`:
    its result is what an HTTP caller is answered with.
    """

    args: tuple[Getter, ...]
    kwargs: tuple[tuple[str, Getter], ...]
    data: tuple[Decoder, ...]
    takes_state: bool = False
    payload: Any = Any
    resources: tuple[str, ...] = ()
    each: tuple[Getter, ...] = ()
    answers: bool = False

    def bind(self, call: Call) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and keyword arguments for a call.

        Raises:
            DataError: data or a result does not fit the annotation.
        """
        return [get(call) for get in self.args], {name: get(call) for name, get in self.kwargs}

    def bound(self, function: Callable[..., Any]) -> Callable[[Any], Any]:
        """Return what calls a function with the arguments for a call, and returns what it returns.

        It raises what the function raises, and DataError when data or a result does not fit the annotation.
        """
        if self.kwargs or len(self.args) > 1:
            return lambda call: function(*[get(call) for get in self.args], **{name: get(call) for name, get in self.kwargs})
        if not self.args:
            return lambda _: function()
        (get,) = self.args
        if get is _own_data:
            return lambda call: function(msgspec.to_builtins(data) if type(data := call.event.data) in MUTABLE else data)
        return lambda call: function(get(call))


def read_parameters(
    call: Callable[..., Any], name: str, after: tuple[str, ...], *, root: bool, resources: Collection[str] | None = (), batch: int = 1
) -> Parameters | list[str]:
    """Return how to call a function, or what is wrong with its parameters; `resources` are the names there are, None: not known."""
    reader = _Reader(call, name, after, root=root, resources=resources, batch=batch)
    parameters = reader.read()
    return reader.faults or parameters


class _Reader:
    """Reads one signature; collects every fault."""

    def __init__(
        self, call: Callable[..., Any], name: str, after: tuple[str, ...], *, root: bool, resources: Collection[str] | None, batch: int
    ) -> None:
        self.call = call
        self.name = name
        self.after = after
        self.root = root
        self.resources = resources
        self.batch = batch
        self.each: list[Getter] = []
        self.taken: list[str] = []
        self.faults: list[str] = []
        self.data: list[Decoder] = []
        self.takes_state = False
        self.payload: Any = Any
        self.free: str | None = None

    def read(self) -> Parameters:
        args: list[Getter] = []
        kwargs: list[tuple[str, Getter]] = []
        skipped = False  # after a parameter that keeps its default only keywords reach the next
        try:
            signature = inspect.signature(self.call)
        except (TypeError, ValueError):
            self.faults.append(f'"{self.name}" has no signature that can be read; wrap it in a `def`')
            return Parameters((), (), ())
        for parameter in signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                self.faults.append(f'"{self.name}" takes `{stars}{parameter.name}`, which nothing can fill; name the parameters it needs')
                continue
            getter = self.getter(parameter)
            if getter is not None and self.batch > 1 and parameter.name not in self.taken:
                getter = self.column(getter)
            if getter is None:
                skipped = True
            elif skipped or parameter.kind is parameter.KEYWORD_ONLY:
                kwargs.append((parameter.name, getter))
            else:
                args.append(getter)
        taken, each = tuple(self.taken), tuple(self.each)
        answers = signature.return_annotation in (Answer, "Answer", "runtime.Answer")
        return Parameters(tuple(args), tuple(kwargs), tuple(self.data), self.takes_state, self.payload, taken, each, answers)

    def getter(self, parameter: inspect.Parameter) -> Getter | None:
        """Return the getter of one parameter; None when it keeps its default or is a fault."""
        name = parameter.name
        annotation = self.annotation(parameter)
        if self.batch > 1:
            annotation = self.item(name, annotation)
        if name in self.after:
            decode = self.decoder(name, annotation)
            return (lambda call: call.results[name]) if decode is None else (lambda call: decode(call.results[name]))
        if annotation is Context or name == "context":
            return lambda call: call.context
        if annotation is Event or (name == "event" and annotation is Any):
            return _own_event
        if name == "state" or name in (self.resources or ()):
            return self.kept(name)
        if name in {"event", "data"}:
            return self.data_getter(name, annotation)
        return self.other(parameter, annotation)

    def item(self, name: str, annotation: Any) -> Any:
        """Return what the annotation of a parameter in a batch says of one event: there it is that of a list."""
        if annotation is Any or annotation is list or name in (self.resources or ()):
            return Any if annotation is list else annotation
        if typing.get_origin(annotation) is list:
            return typing.get_args(annotation)[0]
        is_data = self.root and self.free is None and self.resources is not None
        if is_data or name in (*self.after, *RESERVED) or annotation in (Event, Context):
            shown = getattr(annotation, "__name__", annotation)
            self.faults.append(
                f'"{self.name}" has batch = {self.batch}, so that each parameter of an event is a list:'
                f" write `{name}: list[{shown}]` for `{name}: {shown}`"
            )
        return annotation

    def column(self, one: Getter) -> Getter:
        """Return the getter of the values that another getter gives for each event of a batch."""
        number = len(self.each)
        self.each.append(one)
        return lambda call: call.columns[number]

    def kept(self, name: str) -> Getter:
        """Return the getter of what outlives the call: its state, or a resource."""
        if name == "state":
            self.takes_state = True
            return lambda call: call.state
        self.taken.append(name)
        return lambda call: call.resources[name]

    def other(self, parameter: inspect.Parameter, annotation: Any) -> Getter | None:
        """Return the getter of a parameter of a free name: a root may have one, for the event's data."""
        name = parameter.name
        if parameter.default is not parameter.empty and (self.free or not self.root):
            return None
        if self.resources is None and (self.free or not self.root):
            return None  # it may be a resource
        if not self.root:
            self.faults.append(self.unknown(name, annotation))
            return None
        if self.free is not None:
            likely = nearest(name, (*RESERVED, *(self.resources or ()))) or nearest(self.free, self.resources or ())
            self.faults.append(
                f'"{self.name}" has two parameters for the event\'s data, `{self.free}` and `{name}`; a root has one,'
                f" beside {self.beside()}{likely}"
            )
            return None
        self.free = name
        return self.data_getter(name, annotation)

    def unknown(self, name: str, annotation: Any) -> str:
        shown = "" if annotation is Any else f": {getattr(annotation, '__name__', annotation)}"
        if shown and self.batch > 1:
            shown = f": list[{shown[2:]}]"
        allowed = (*self.after, *RESERVED, *(self.resources or ()))
        return (
            f'"{self.name}" comes after {", ".join(self.after)} and has an unknown parameter `{name}`{nearest(name, allowed)};'
            f" write `{self.after[0]}{shown}` for that function's result or `data{shown}` for the event's data"
        )

    def beside(self) -> str:
        """Return what a root may take beside its data, for people."""
        return ", ".join(RESERVED) + (" and resources" if self.resources else "")

    def annotation(self, parameter: inspect.Parameter) -> Any:
        """Return the parameter's annotation, resolved; Any when there is none."""
        written = parameter.annotation
        if written is parameter.empty:
            return Any
        if not isinstance(written, str):
            return written
        holder = type("_", (), {"__annotations__": {"it": written}})
        call = inspect.unwrap(self.call)
        scope = getattr(getattr(call, "func", call), "__globals__", {})  # that of a partial is its function's
        try:
            return typing.get_type_hints(holder, scope, include_extras=True)["it"]
        except Exception as error:  # noqa: BLE001 - an annotation is code of the user
            if parameter.name in RESERVED[2:]:
                return Any
            self.faults.append(
                f'"{self.name}": the annotation `{parameter.name}: {written}` cannot be resolved ({error}); import the type at run time'
            )
            return Any

    def data_getter(self, name: str, annotation: Any) -> Getter:
        decode = self.decoder(name, annotation)
        if decode is None:
            return _own_data
        if not self.data:
            self.payload = annotation
        self.data.append(decode)
        if annotation in (dict, list):
            return lambda call: _own(decode(call.event.data))
        return lambda call: decode(call.event.data)

    def decoder(self, name: str, annotation: Any) -> Decoder | None:
        """Return what turns data or a result into the annotated type; None when it stays as it is."""
        if annotation is Any or annotation is object:
            return None
        problem = _undecodable(annotation)
        if problem:
            self.faults.append(
                f'"{self.name}": data cannot be decoded to the annotation of `{name}`: {problem}; use a msgspec Struct, a dataclass,'
                " a TypedDict, an attrs class, a pydantic model or a builtin type"
            )
            return None
        return make_decoder(f'parameter "{name}" of "{self.name}"', annotation)


def payload_of(after: tuple[str, ...]) -> Getter:
    """Return the getter of what an external function is given: the data, the result of what it comes after, or those by name."""
    if not after:
        return lambda call: call.event.data
    if len(after) == 1:
        return lambda call: call.results[after[0]]
    return lambda call: {name: call.results[name] for name in after}


def _own(data: Any) -> Any:
    """Return data that a function may change without changing the event."""
    return msgspec.to_builtins(data) if type(data) in MUTABLE else data


def _own_data(call: Call) -> Any:
    return _own(call.event.data)


def _own_event(call: Call) -> Event:
    event = call.event
    return msgspec.structs.replace(event, data=_own(event.data)) if type(event.data) in MUTABLE else event


def make_decoder(what: str, annotation: Any) -> Decoder:
    """Return a function that converts a value to `annotation`, or raises DataError naming `what`.

    A value that is an instance already is handed on as it is. The keys of a dict may be texts, as in JSON.
    """
    msgspec.json.Decoder(annotation, dec_hook=_decode_custom)  # has the names in its annotations looked up now, while they are right
    plain = isinstance(annotation, type) and typing.get_origin(annotation) is None and not typing.is_typeddict(annotation)
    exact = plain and annotation.__module__ == "builtins"

    def decode(value: Any) -> Any:
        if plain and (type(value) is annotation if exact else isinstance(value, annotation)):
            return value
        try:
            return msgspec.convert(to_builtins(value), annotation, dec_hook=_decode_custom, str_keys=True)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise DataError(f"{what} does not fit: {_misfit(error)}") from None

    return decode


def _misfit(error: Exception) -> str:
    """Return what an error of decoding says, on one line and without the value; a pydantic one is known by its `errors`."""
    if not callable(told := getattr(error, "errors", None)):
        return " ".join(str(error).split())
    places = [(one["msg"], "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in one["loc"])) for one in told()]
    return "; ".join(f"{message} - at `$…{place}`" for message, place in places)


def _decode_custom(kind: type, value: Any) -> Any:
    """Make a pydantic model, which is recognised by its method and never imported."""
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    raise NotImplementedError


def _undecodable(annotation: Any) -> str | None:
    """Return why data cannot be decoded to an annotation, or None when it can."""
    try:
        info = msgspec.inspect.type_info(annotation)
    except (TypeError, NameError, AttributeError) as error:
        return str(error)
    custom = _custom_types(info)
    return f"`{custom.__name__}` is not a type of data" if custom else None


def _custom_types(info: Any) -> type | None:
    """Return the first class within a type that neither msgspec nor the decoding hook can make."""
    pending, seen = [info], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            if not hasattr(node.cls, "model_validate"):
                return node.cls
        elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
            pending += [getattr(node, field) for field in node.__struct_fields__]
        elif isinstance(node, tuple | list):
            pending += node
    return None
