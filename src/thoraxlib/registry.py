"""One small registry for every room: ``build``, ``register``, ``names``, ``describe``.

A :class:`Registry` maps names to factories. It looks a name up in this order:

1. functions and classes decorated with :meth:`Registry.register`;
2. :class:`Source` objects, such as the one that makes every timm model a backbone;
3. plug-ins: entry points of installed packages in the group ``thoraxlib.<room>``, listed without importing them and
   loaded on first use.

So a package that is installed adds names and changes none.

Several threads may use a registry from its first use on: modules are imported under Python's own import locks, and no
lock of the registry is held meanwhile, so that a module that is being imported may use it too. What a module registered
counts as long as its import did not fail: then it is gone, and the next use imports the module again.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from thoraxlib.input_spec import InputSpec

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: How a part is named wherever a model takes one: a name, or ``{"name": ..., **options}``.
Spec = str | Mapping[str, Any]


class UnknownNameError(KeyError):
    """A name that no registry entry, plug-in or source knows."""

    def __init__(self, room: str, name: object, known: Iterable[str]) -> None:
        known = list(known)
        close = difflib.get_close_matches(str(name).lower()[:100], known, n=3, cutoff=0.5)
        hint = f"did you mean {_quote(close)}?" if close else f"known: {_quote(known[:20])}"
        if not close and len(known) > 20:
            hint += f" and {len(known) - 20} more"
        self.message = f"{room}: unknown name {name!r}; {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show the repr, with escaped quotes
        return self.message


class DuplicateNameError(ValueError):
    """A name that is already taken in its room."""


class OptionError(TypeError):
    """An option that the named factory does not accept, or one that it needs and did not get."""


@dataclass(frozen=True)
class Card:
    """What :meth:`Registry.describe` tells about one entry.

    Attributes
    ----------
    name, room : str
        Where the entry lives: ``thoraxlib.<room>.build("<name>")``.
    summary : str
        First line of the factory's docstring.
    options : Mapping[str, Any]
        Accepted options and their defaults; :data:`inspect.Parameter.empty` marks a required one.
    origin : str
        The module (and with it the package) that registered the entry.
    doc : str
        The factory's whole docstring.
    extra : str
        The extra of thoraxlib that the entry needs, if its network or weights are those of another library.
    """

    name: str = ""
    room: str = ""
    summary: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    doc: str = field(default="", repr=False)
    extra: str = ""

    def __str__(self) -> str:
        lines = [f"{self.room}: {self.name}", f"  {self.summary}", f"  from {self.origin}"]
        lines += [f'  needs: pip install "thoraxlib[{self.extra}]"'] if self.extra else []
        for option, default in self.options.items():
            lines.append(f"  {option} = {'(required)' if default is inspect.Parameter.empty else repr(default)}")
        return "\n".join(lines)


class Source(Protocol):
    """Names beyond the registered ones, resolved on demand."""

    def names(self) -> Iterable[str]:
        """Every name that this source can resolve."""
        ...

    def find(self, name: str) -> Callable[..., Any] | None:
        """The factory called `name`, or None."""
        ...


@cache
def _plugins(room: str) -> Mapping[str, list[metadata.EntryPoint]]:
    """The entry points of the group ``thoraxlib.<room>`` by name, read once in a process."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=f"thoraxlib.{room}"):
        found.setdefault(point.name, []).append(point)
    return found


def _loaded_plugin(points: list[metadata.EntryPoint]) -> Callable[..., Any]:
    """The factory that the entry points of one name declare."""
    told = " and ".join(f"{p.value} from {p.dist.name if p.dist else 'an unknown package'}" for p in points)
    plugin = f"{points[0].group}: the plug-in {points[0].name!r} ({told})"
    if len(points) > 1:
        raise ImportError(f"{plugin} is declared by several packages; uninstall all but one")
    try:
        factory = points[0].load()
        inspect.signature(factory)  # what cannot be called has none
    except Exception as error:  # whatever a plug-in raises must not take the room down with it
        raise ImportError(f"{plugin} could not be loaded: {type(error).__name__}: {error}") from error
    return cast("Callable[..., Any]", factory)


class Registry(Generic[T]):
    """Named factories of one kind of part.

    Parameters
    ----------
    room : str
        The module that offers the verbs, below ``thoraxlib``, e.g. ``"pooling"`` or ``"graphs.adjacency"``: used in
        messages and for the entry-point group.
    sources : Iterable[Source]
        Where to look for names that are not registered, before plug-ins.
    modules : Iterable[str]
        Modules whose import registers the room's own entries; imported on the first use of a verb.

    Examples
    --------
    >>> shapes = Registry[str]("shapes")
    >>> @shapes.register("square")
    ... def square(*, side: int = 1) -> str:
    ...     "A square."
    ...     return "#" * side
    >>> shapes.build("square", side=3)
    '###'
    >>> shapes.names()
    ['square']
    >>> shapes.build("sqare")
    Traceback (most recent call last):
    thoraxlib.registry.UnknownNameError: shapes: unknown name 'sqare'; did you mean 'square'?
    """

    card_type: ClassVar[type[Card]] = Card  #: Of entries that bring no card.

    def __init__(self, room: str, sources: Iterable[Source] = (), modules: Iterable[str] = ()) -> None:
        self.room = room
        self._factories: dict[str, Callable[..., T]] = {}
        self._cards: dict[str, Card] = {}
        self._owners: dict[str, ModuleType | None] = {}
        self._lock = threading.Lock()  # of these three; never held while something is imported
        self._sources = tuple(sources)
        self._modules = tuple(modules)

    # -- the four verbs ---------------------------------------------------------------------------

    def register(self, name: str, *, card: Card | None = None, override: bool = False) -> Callable[[F], F]:
        """Register the decorated factory (a function or class) as `name`.

        Parameters
        ----------
        name : str
            Lower-case letters, digits and any of ``_ . + -``, starting with a letter or digit.
        card : Card, optional
            What is known beyond docstring and signature; its common fields are filled in.
        override : bool
            Replace an existing entry instead of raising.

        Raises
        ------
        DuplicateNameError
            `name` is taken and `override` is False.
        ValueError
            `name` is not a valid name.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.+\-]*", name):
            raise ValueError(f"{self.room}: {name!r} is no valid name; allowed: [a-z0-9][a-z0-9_.+-]*")

        def decorate(factory: F) -> F:
            owner = next(_in_execution(), None)
            with self._lock:
                taken = self._registered(name)
                if taken is not None and not override:
                    raise DuplicateNameError(
                        f"{self.room}: {name!r} is already registered by {taken.__module__}.{taken.__qualname__}; "
                        "pass override=True to replace it"
                    )
                self._cards[name], self._owners[name] = card or self.card_type(), owner
                self._factories[name] = factory
            return factory

        return decorate

    def build(self, name: str, **options: Any) -> T:
        """Build the part called `name`.

        Raises
        ------
        UnknownNameError
            No such name; the message has the closest ones.
        OptionError
            An option that the factory does not accept or lacks; the message lists the accepted ones.
        ImportError
            The name belongs to a plug-in that fails to import, or to several.
        """
        factory = self.factory(name)
        self.check_options(name, options)
        return self.recorded(factory(**options), name, options)

    def recorded(self, part: T, name: str, options: Mapping[str, Any]) -> T:
        """Leave ``registry_spec`` on a part, so that a model given it can record how to build it again."""
        if hasattr(part, "__dict__"):
            part.__dict__["registry_spec"] = {"name": name, **options}
        return part

    def names(self, pattern: str = "*") -> list[str]:
        """All names that match a shell-style `pattern`, in natural order (``b2`` before ``b10``)."""
        found = {*self._loaded(), *_plugins(self.room)}
        for source in self._sources:
            found.update(source.names())
        return sorted(fnmatch.filter(found, pattern), key=_natural)

    def registered(self, pattern: str = "*") -> list[str]:
        """The names registered by decorator that need no extra; neither plug-ins nor the names of further sources."""
        found = (name for name in self._loaded() if not self._cards[name].extra)
        return sorted(fnmatch.filter(found, pattern), key=_natural)

    def describe(self, name: str) -> Card:
        """The :class:`Card` of `name`: summary, options with defaults, origin."""
        factory = self.factory(name)
        doc = inspect.getdoc(factory) or ""
        return replace(
            self._cards.get(name) or self.card_type(),
            name=name,
            room=self.room,
            summary=doc.strip().partition("\n")[0],
            options=MappingProxyType(dict(self._parameters(factory)[0])),
            origin=getattr(factory, "__module__", type(factory).__module__),
            doc=doc,
        )

    # -- used by the rooms ------------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        try:
            self.factory(cast("str", name))
        except UnknownNameError:
            return False
        return True

    def factory(self, name: str) -> Callable[..., T]:
        """The factory behind `name`.

        Raises
        ------
        UnknownNameError
            No such name.
        ImportError
            The name belongs to a plug-in that fails to import, or to several.

        Warns
        -----
        UserWarning
            A plug-in has the same name as a component of the library or of another package that registered it.
        """
        if isinstance(name, str):
            self._load()
            plugins = _plugins(self.room).get(name, [])
            for find in (self._registered, *(source.find for source in self._sources)):
                found = find(name)
                if found is not None:
                    package = str(getattr(found, "__module__", "")).partition(".")[0]
                    for point in plugins:
                        if point.module.partition(".")[0] != package:
                            warnings.warn(f"{self.room}: {name!r} is taken; the plug-in {point.value} is not used")
                    return found
            if plugins:
                return _loaded_plugin(plugins)
        raise UnknownNameError(self.room, name, self.names())

    def working(self) -> Iterator[tuple[str, T]]:
        """Every name, and what it builds without options; of a plug-in that cannot be loaded, a warning instead."""
        for name in self.names():
            try:
                yield name, self.build(name)
            except ImportError as error:
                warnings.warn(str(error), stacklevel=2)

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise :class:`OptionError` where `options` does not fit the factory called `name`."""
        accepted, takes_any = self._parameters(self.factory(name))
        if not takes_any:
            for option in options:
                if option not in accepted:
                    close = difflib.get_close_matches(option, accepted, n=1)
                    hint = f" (did you mean {close[0]!r}?)" if close else ""
                    raise OptionError(
                        f"{self.room}: {name!r} has no option {option!r}{hint}; accepted: {_quote(accepted) or 'none'}"
                    )
        missing = [key for key, value in accepted.items() if value is inspect.Parameter.empty and key not in options]
        if missing:
            raise OptionError(f"{self.room}: {name!r} needs {_quote(missing)}; accepted: {_quote(accepted)}")

    def accepts(self, spec: Spec, option: str) -> bool:
        """Whether the factory that `spec` names takes `option`."""
        accepted, takes_any = self._parameters(self.factory(self.split_spec(spec)[0]))
        return takes_any or option in accepted

    def resolve(self, spec: Spec | T, **defaults: Any) -> T:
        """A part from its spec: a name, ``{"name": ..., **options}``, or the part itself.

        `defaults` are options that the caller supplies; those that the factory does not accept are
        an error only if the spec names them.
        """
        if not isinstance(spec, (str, Mapping)):
            return spec
        name, options = self.split_spec(spec)
        fitting = {key: value for key, value in defaults.items() if self.accepts(name, key)}
        return self.build(name, **{**fitting, **options})

    def split_spec(self, spec: Spec) -> tuple[str, dict[str, Any]]:
        """``"x"`` or ``{"name": "x", **options}`` as ``("x", options)``.

        Raises
        ------
        OptionError
            A mapping without the key ``name``.
        """
        if isinstance(spec, str):
            return spec, {}
        if "name" not in spec:
            raise OptionError(f"{self.room}: a spec given as a mapping needs the key 'name', got {_quote(spec)}")
        options = dict(spec)
        return options.pop("name"), options

    def _load(self) -> None:
        """Import the room's modules; each is executed once, and another thread waits until it is complete.

        One of them that uses the registry while it is being imported finds what is registered so far.
        """
        if not any(module.__name__ in self._modules for module in _in_execution()):
            for name in self._modules:
                importlib.import_module(name)

    def _loaded(self) -> set[str]:
        """The registered names."""
        self._load()
        return {name for name in list(self._factories) if self._registered(name) is not None}

    def _registered(self, name: str) -> Callable[..., T] | None:
        """The factory registered as `name`, unless the import of the module that did so failed."""
        owner = self._owners.get(name)
        if owner is not None and sys.modules.get(owner.__name__) is not owner:
            return None
        return self._factories.get(name)

    @staticmethod
    def _parameters(factory: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
        """Accepted options with their defaults, and whether any other is accepted too."""
        parameters = inspect.signature(factory).parameters.values()
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        return named, takes_any


def _in_execution() -> Iterator[ModuleType]:
    """Modules whose bodies run in this thread, the innermost first: those that are being imported."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            module = sys.modules.get(frame.f_globals.get("__name__", ""))
            # a script has no spec; code that exec runs may only claim to be a module
            if module is not None and vars(module) is frame.f_globals and module.__spec__ is not None:
                yield module
        frame = frame.f_back


def _quote(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that compares runs of digits as numbers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def as_json(value: Any) -> Any:
    """`value` as plain JSON: parts that a registry built as their spec, input specs as mappings.

    Raises
    ------
    TypeError
        A ready part that no registry built.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, InputSpec):
        return value.to_json()
    if isinstance(value, Mapping):
        # what a part read from a file is among the weights, and the file may be gone
        return {str(key): None if key == "path" else as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    spec = getattr(value, "registry_spec", None)
    if spec is not None:
        return as_json(spec)
    raise TypeError(f"a ready {type(value).__name__} that no registry built")


def without_pretrained(value: Any) -> Any:
    """A recorded spec for building what is to get its own weights next: nothing is downloaded, and no file is read."""
    if isinstance(value, Mapping):
        # of a file that somebody else wrote; as_json records no path either
        return {
            key: None if key == "path" else without_pretrained(item)
            for key, item in value.items()
            if key != "pretrained"
        }
    if isinstance(value, (list, tuple)):
        return [without_pretrained(item) for item in value]
    return value
