"""From a path and a method to a route: a tree of segments, made once from the table. No pattern is tried in turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from taskforge.api.route import Route


class Match(NamedTuple):
    """The methods that the path has, and the values of its `{parameters}`."""

    methods: dict[str, Route]
    allow: str
    params: dict[str, str]


class _Node:
    __slots__ = ("allow", "child", "children", "methods", "names")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.child: _Node | None = None
        self.methods: dict[str, Route] = {}
        self.names: tuple[str, ...] = ()
        self.allow = ""


class Dispatcher:
    """Finds routes. A path matches in one spelling only: no doubled, trailing or dot segments, case counts."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        for segment in route.path[1:].split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.child = node.child or _Node()
                node = node.child
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.methods or (node.methods and node.names != tuple(names)):
            raise ValueError(f"{route.method} {route.path} is in the table twice")
        node.methods[route.method] = route
        node.names = tuple(names)
        allowed = {*node.methods, "OPTIONS"} | ({"HEAD"} if "GET" in node.methods else set())
        node.allow = ", ".join(sorted(allowed))

    def find(self, path: str) -> Match | None:
        """The match of a decoded path, or None."""
        if path[:1] != "/":
            return None
        node, values = self._root, []
        for segment in path[1:].split("/"):
            found = node.children.get(segment)
            if found is None:
                found = node.child
                if found is None or not segment or segment in (".", ".."):
                    return None
                values.append(segment)
            node = found
        if not node.methods:
            return None
        return Match(node.methods, node.allow, dict(zip(node.names, values, strict=True)))
