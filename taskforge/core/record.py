"""`dataclass`, made in a quarter of the time: every process makes a hundred of them before it does anything.

For mypy it is the one of `dataclasses`, so that what is frozen is checked there. At run time only `__init__` is
compiled for each class, by us: it makes empty lists and dicts without a call. Comparing, hashing and showing are shared
code, and an assignment is not stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses
    from operator import attrgetter
    from reprlib import recursive_repr

    def dataclass(cls=None, *, frozen=False, slots=False, eq=True):
        """The decorator, with the settings of it that are used here."""
        if cls is None:
            return lambda given: dataclass(given, frozen=frozen, slots=slots, eq=eq)
        if cls.__doc__ is None:
            cls.__doc__ = cls.__name__  # else `dataclasses` works out a signature
        own = cls.__dict__
        made = dataclasses.dataclass(cls, slots=slots, eq=False, repr=False, init=False)
        if "__init__" not in own:
            made.__init__ = _make_init(made)
        if "__repr__" not in own:
            made.__repr__ = _show
        if eq and "__eq__" not in own:
            names = [field.name for field in dataclasses.fields(made) if field.compare]
            made._compared = staticmethod(attrgetter(*names) if names else _nothing)
            made.__eq__ = _equal
            made.__hash__ = _hash if frozen else None
        return made

    _EMPTY = {list: "[]", dict: "{}"}

    def _make_init(cls):
        names, parameters, lines = {"_missing": dataclasses.MISSING}, ["self"], ["pass"]
        for field in dataclasses.fields(cls):
            name, value = field.name, field.name
            if field.default_factory is not dataclasses.MISSING:
                names[f"_make_{name}"] = field.default_factory
                value = _EMPTY.get(field.default_factory, f"_make_{name}()")
                if field.init:
                    parameters.append(f"{name}=_missing")
                    value = f"{value} if {name} is _missing else {name}"
            elif field.default is not dataclasses.MISSING:
                names[f"_default_{name}"] = field.default
                if field.init:
                    parameters.append(f"{name}=_default_{name}")
                else:
                    value = f"_default_{name}"
            elif field.init:
                parameters.append(name)
            else:
                continue  # `__post_init__` sets it
            lines.append(f"self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            lines.append("self.__post_init__()")
        body = "\n ".join(lines)
        exec(f"def __init__({', '.join(parameters)}):\n {body}", names)
        made = names["__init__"]
        made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
        return made

    def _nothing(record):
        return ()

    def _equal(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self is other or self._compared(self) == self._compared(other)

    def _hash(self):
        return hash(self._compared(self))

    @recursive_repr()
    def _show(self):
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
        return f"{self.__class__.__qualname__}({', '.join(shown)})"
