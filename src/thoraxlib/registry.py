"""The registry of components of each subpackage: ``build``, ``register``, ``names``, ``describe``.

A :class:`Registry` maps names to factories. It searches for a name in this order:

1. functions and classes decorated with :meth:`Registry.register`;
2. :class:`Source` objects, such as the one that makes every timm model a backbone;
3. plug-ins: entry points of installed packages in the group ``thoraxlib.<subpackage>``, listed without an import and
   loaded on first use.

An installed package therefore adds names and changes none.

A registry may be used from several threads. Modules are imported under Python's own import locks, and the registry
holds no lock of its own meanwhile, so that a module may use the registry while it is imported. If the import of a
module fails, the entries that it registered are dropped, and the next use imports it again.
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

#: Description of a component that a model takes: a name, or ``{"name": ..., **options}``.
Spec = str | Mapping[str, Any]


class UnknownNameError(KeyError):
    """Unknown name: no registry entry, plug-in or source has it."""

    def __init__(self, subpackage: str, name: object, known: Iterable[str]) -> None:
        known = list(known)
        close = difflib.get_close_matches(str(name).lower()[:100], known, n=3, cutoff=0.5)
        hint = f"did you mean {_quote(close)}?" if close else f"known: {_quote(known[:20])}"
        if not close and len(known) > 20:
            hint += f" and {len(known) - 20} more"
        self.message = f"{subpackage}: unknown name {name!r}; {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show the repr, with escaped quotes
        return self.message


class DuplicateNameError(ValueError):
    """Name that is already registered in its subpackage."""


class OptionError(TypeError):
    """Unknown option of a factory, or missing required one."""


@dataclass(frozen=True)
class Card:
    """Description of one entry, from :meth:`Registry.describe`.

    Attributes
    ----------
    name, subpackage : str
        The entry is built by ``thoraxlib.<subpackage>.build("<name>")``.
    summary : str
        First line of the factory's docstring.
    options : Mapping[str, Any]
        Accepted options and their defaults; :data:`inspect.Parameter.empty` marks a required one.
    origin : str
        The module (and with it the package) that registered the entry.
    doc : str
        The factory's whole docstring.
    extra : str
        Extra of thoraxlib that the entry needs, if its network or weights are from another library.
    """

    name: str = ""
    subpackage: str = ""
    summary: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    doc: str = field(default="", repr=False)
    extra: str = ""

    def __str__(self) -> str:
        lines = [f"{self.subpackage}: {self.name}", f"  {self.summary}", f"  from {self.origin}"]
        lines += [f'  needs: pip install "thoraxlib[{self.extra}]"'] if self.extra else []
        for option, default in self.options.items():
            lines.append(f"  {option} = {'(required)' if default is inspect.Parameter.empty else repr(default)}")
        return "\n".join(lines)


class Source(Protocol):
    """Protocol of objects that resolve further names on demand."""

    def names(self) -> Iterable[str]:
        """List every name that this source can resolve."""
        ...

    def find(self, name: str) -> Callable[..., Any] | None:
        """Return the factory called `name`, or None."""
        ...


@cache
def _plugins(subpackage: str) -> Mapping[str, list[metadata.EntryPoint]]:
    """Entry points of the group ``thoraxlib.<subpackage>`` by name, read once in a process."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=f"thoraxlib.{subpackage}"):
        found.setdefault(point.name, []).append(point)
    return found


def _loaded_plugin(points: list[metadata.EntryPoint]) -> Callable[..., Any]:
    """Load the factory from the entry points of one name."""
    origins = " and ".join(f"{p.value} from {p.dist.name if p.dist else 'an unknown package'}" for p in points)
    plugin = f"{points[0].group}: the plug-in {points[0].name!r} ({origins})"
    if len(points) > 1:
        raise ImportError(f"{plugin} is declared by several packages; uninstall all but one")
    try:
        factory = points[0].load()
        inspect.signature(factory)  # an object that is not callable has none
    except Exception as error:  # a plug-in may raise anything; other names still work
        raise ImportError(f"{plugin} could not be loaded: {type(error).__name__}: {error}") from error
    return cast("Callable[..., Any]", factory)


class Registry(Generic[T]):
    """Named factories of one kind of component.

    Parameters
    ----------
    subpackage : str
        Module that offers the four functions, without ``thoraxlib.``, e.g. ``"losses"`` or ``"graphs.adjacency"``; used
        in messages and for the entry-point group.
    sources : Iterable[Source]
        Further names, which are searched after the registered ones and before plug-ins.
    modules : Iterable[str]
        Modules whose import registers the library's own entries; imported on first use.

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

    card_type: ClassVar[type[Card]] = Card  #: Card of entries that are registered without one.

    def __init__(self, subpackage: str, sources: Iterable[Source] = (), modules: Iterable[str] = ()) -> None:
        self.subpackage = subpackage
        self._factories: dict[str, Callable[..., T]] = {}
        self._cards: dict[str, Card] = {}
        self._owners: dict[str, ModuleType | None] = {}
        self._lock = threading.Lock()  # for the three dictionaries; never held during an import
        self._sources = tuple(sources)
        self._modules = tuple(modules)

    # -- the four functions -----------------------------------------------------------------------

    def register(self, name: str, *, card: Card | None = None, override: bool = False) -> Callable[[F], F]:
        """Register the decorated factory (a function or class) as `name`.

        Parameters
        ----------
        name : str
            Lower-case letters, digits and any of ``_ . + -``, starting with a letter or digit.
        card : Card, optional
            Description beyond docstring and signature; its common fields are filled in.
        override : bool
            Replace an existing entry instead of raising.

        Raises
        ------
        DuplicateNameError
            `name` is taken and `override` is False.
        ValueError
            `name` has other characters.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.+\-]*", name):
            raise ValueError(f"{self.subpackage}: {name!r} is not a valid name; allowed: [a-z0-9][a-z0-9_.+-]*")

        def decorate(factory: F) -> F:
            owner = next(_modules_in_import(), None)
            with self._lock:
                taken = self._registered(name)
                if taken is not None and not override:
                    raise DuplicateNameError(
                        f"{self.subpackage}: {name!r} is already registered by "
                        f"{taken.__module__}.{taken.__qualname__}; pass override=True to replace it"
                    )
                self._cards[name], self._owners[name] = card or self.card_type(), owner
                self._factories[name] = factory
            return factory

        return decorate

    def build(self, name: str, **options: Any) -> T:
        """Build the component called `name`.

        Raises
        ------
        UnknownNameError
            No such name; the message lists the closest ones.
        OptionError
            Unknown or missing option; the message lists the accepted ones.
        ImportError
            The plug-in fails to import, or several packages declare the name.
        """
        factory = self.factory(name)
        self._check_options(name, factory, options)
        return self.recorded(factory(**options), name, options)

    def recorded(self, component: T, name: str, options: Mapping[str, Any]) -> T:
        """Store the spec of a component as its ``registry_spec``, from which a saved model rebuilds it."""
        if hasattr(component, "__dict__"):
            component.__dict__["registry_spec"] = {"name": name, **options}
        return component

    def names(self, pattern: str = "*") -> list[str]:
        """List all names that match a shell-style `pattern`, in natural order (``b2`` before ``b10``)."""
        found = {*self._loaded(), *_plugins(self.subpackage)}
        for source in self._sources:
            found.update(source.names())
        return sorted(fnmatch.filter(found, pattern), key=_natural)

    def registered(self, pattern: str = "*") -> list[str]:
        """List the names that are registered by decorator and need no extra: no plug-ins, no names of a source."""
        found = (name for name in self._loaded() if not self._cards[name].extra)
        return sorted(fnmatch.filter(found, pattern), key=_natural)

    def describe(self, name: str) -> Card:
        """Return the :class:`Card` of `name`: summary, options with defaults, origin."""
        factory = self.factory(name)
        doc = inspect.getdoc(factory) or ""
        return replace(
            self._cards.get(name) or self.card_type(),
            name=name,
            subpackage=self.subpackage,
            summary=doc.strip().partition("\n")[0],
            options=MappingProxyType(dict(self._parameters(factory)[0])),
            origin=getattr(factory, "__module__", type(factory).__module__),
            doc=doc,
        )

    # -- used by the library ----------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        try:
            self.factory(cast("str", name))
        except UnknownNameError:
            return False
        return True

    def factory(self, name: str) -> Callable[..., T]:
        """Return the factory called `name`.

        Raises
        ------
        UnknownNameError
            No such name.
        ImportError
            The plug-in fails to import, or several packages declare the name.

        Warns
        -----
        UserWarning
            A plug-in is not used, since the library or another package has registered its name.
        """
        if isinstance(name, str):
            self._load()
            plugins = _plugins(self.subpackage).get(name, [])
            for find in (self._registered, *(source.find for source in self._sources)):
                found = find(name)
                if found is not None:
                    package = str(getattr(found, "__module__", "")).partition(".")[0]
                    for point in plugins:
                        if point.module.partition(".")[0] != package:
                            message = f"{self.subpackage}: {name!r} is taken; the plug-in {point.value} is not used"
                            warnings.warn(message)
                    return found
            if plugins:
                return _loaded_plugin(plugins)
        raise UnknownNameError(self.subpackage, name, self.names())

    def working(self) -> Iterator[tuple[str, T]]:
        """Build every name without options; a plug-in that cannot be loaded gives a warning and is left out."""
        for name in self.names():
            try:
                yield name, self.build(name)
            except ImportError as error:
                warnings.warn(str(error), stacklevel=2)

    def _check_options(self, name: str, factory: Callable[..., T], options: Mapping[str, Any]) -> None:
        """Raise :class:`OptionError` if `factory` does not accept `options`, or needs more."""
        accepted, takes_any = self._parameters(factory)
        unknown = [option for option in options if option not in accepted and not takes_any]
        missing = [key for key, value in accepted.items() if value is inspect.Parameter.empty and key not in options]
        if unknown:
            close = difflib.get_close_matches(unknown[0], accepted, n=1)
            problem = f"has no option {unknown[0]!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
        else:
            problem = f"needs {_quote(missing)}"
        if unknown or missing:
            raise OptionError(f"{self.subpackage}: {name!r} {problem}; accepted: {_quote(accepted) or 'none'}")

    def accepts(self, spec: Spec, option: str) -> bool:
        """Return True if the factory that `spec` names takes `option`."""
        accepted, takes_any = self._parameters(self.factory(self.split_spec(spec)[0]))
        return takes_any or option in accepted

    def resolve(self, spec: Spec | T, **defaults: Any) -> T:
        """Build a component from its spec, a name or ``{"name": ..., **options}``; return a ready component unchanged.

        The caller's `defaults` are passed if the factory accepts them; unknown options in the spec are an error.
        """
        if not isinstance(spec, (str, Mapping)):
            return spec
        name, options = self.split_spec(spec)
        fitting = {key: value for key, value in defaults.items() if self.accepts(name, key)}
        return self.build(name, **{**fitting, **options})

    def split_spec(self, spec: Spec) -> tuple[str, dict[str, Any]]:
        """Split ``"x"`` or ``{"name": "x", **options}`` into ``("x", options)``.

        Raises
        ------
        OptionError
            The mapping has no key ``name``.
        """
        if isinstance(spec, str):
            return spec, {}
        if "name" not in spec:
            raise OptionError(f"{self.subpackage}: a spec given as a mapping needs the key 'name', got {_quote(spec)}")
        options = dict(spec)
        return options.pop("name"), options

    def _load(self) -> None:
        """Import the modules that register entries; another thread waits until a module is complete.

        A module that uses the registry during its own import finds the entries that are registered so far.
        """
        if not any(module.__name__ in self._modules for module in _modules_in_import()):
            for name in self._modules:
                importlib.import_module(name)

    def _loaded(self) -> set[str]:
        """Return the registered names."""
        self._load()
        return {name for name in list(self._factories) if self._registered(name) is not None}

    def _registered(self, name: str) -> Callable[..., T] | None:
        """Return the factory registered as `name`; None if the import of the module that registered it failed."""
        owner = self._owners.get(name)
        if owner is not None and sys.modules.get(owner.__name__) is not owner:
            return None
        return self._factories.get(name)

    @staticmethod
    def _parameters(factory: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
        """Return the accepted options with their defaults, and True if any other is accepted too."""
        parameters = inspect.signature(factory).parameters.values()
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        return named, takes_any


def _modules_in_import() -> Iterator[ModuleType]:
    """Yield the modules that this thread is importing, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            module = sys.modules.get(frame.f_globals.get("__name__", ""))
            # a script has no spec; code run by exec may have the name of a module
            if module is not None and vars(module) is frame.f_globals and module.__spec__ is not None:
                yield module
        frame = frame.f_back


def _quote(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that compares runs of digits as numbers."""
    return [(0, int(run)) if run.isdigit() else (1, run) for run in re.split(r"(\d+)", name) if run]


def as_json(value: Any) -> Any:
    """Convert `value` to plain JSON: components to the spec that built them, input specs to mappings.

    Raises
    ------
    TypeError
        A ready component that no registry built.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, InputSpec):
        return value.to_json()
    if isinstance(value, Mapping):
        # the content of a file is among the weights of the saved model, and the file may be gone
        return {str(key): None if key == "path" else as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    spec = getattr(value, "registry_spec", None)
    if spec is not None:
        return as_json(spec)
    raise TypeError(f"a ready {type(value).__name__} that no registry built")


def without_pretrained(value: Any) -> Any:
    """Copy a spec without ``pretrained`` and ``path``, for rebuilding a model whose weights are loaded next."""
    if isinstance(value, Mapping):
        # as_json records no path, but the config may be written by somebody else
        return {
            key: None if key == "path" else without_pretrained(item)
            for key, item in value.items()
            if key != "pretrained"
        }
    if isinstance(value, (list, tuple)):
        return [without_pretrained(item) for item in value]
    return value
