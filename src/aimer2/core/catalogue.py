"""What a room offers by name: each of its modules that ends with an ``EXAMPLE``, and what other packages offer under an entry point."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, final

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.said import say

_SUM = re.compile(r"``([a-z_]+)``")
_LEAVES = "Leaves the site:"


@final
@dataclass(frozen=True, slots=True)
class Catalogue:
    """Of the room ``package``, and of the entry points ``group``; ``word``: what an entry is called; ``without``: modules that are none."""

    package: str
    group: str
    word: str
    without: frozenset[str]

    @cache  # noqa: B019 - there are as many of them as rooms
    def names(self) -> tuple[str, ...]:
        room = importlib.import_module(self.package)
        ours = {module.name for module in pkgutil.iter_modules(room.__path__)} - self.without - {"catalogue"}
        return tuple(sorted(ours | self._offered().keys()))

    def example(self, name: str, place: str) -> Any:
        """The instance with all defaults. Raises BadStudy for a name that is none; ``place``: where the study states it."""
        return self._module(name, place).EXAMPLE

    def summary(self, name: str, place: str) -> str:
        """First line of the module's page."""
        return self._page(name, place).splitlines()[0]

    def leaves(self, name: str, place: str) -> tuple[str, ...]:
        """What a site sends under it, one line per sum; taken from the paragraph "Leaves the site" of its page."""
        paragraphs = self._page(name, place).split("\n\n")
        text = next((paragraph for paragraph in paragraphs if paragraph.startswith(_LEAVES)), f"{_LEAVES} everything the method computes")
        return tuple(part.strip().rstrip(".") for part in " ".join(text.split()).removeprefix(_LEAVES).split(";"))

    def sums(self, name: str, place: str) -> frozenset[str]:
        """The names of the sums that a site sends, as the page tells them; none where it does not."""
        return frozenset(found for line in self.leaves(name, place) for found in _SUM.findall(line)[:1])

    def _page(self, name: str, place: str) -> str:
        return inspect.getdoc(self._module(name, place)) or name

    @cache  # noqa: B019 - there are as many of them as rooms
    def _module(self, name: str, place: str) -> Any:
        if name not in self.names():
            raise BadStudy(
                [
                    Fault(
                        place,
                        say("there is no {word} {name}", word=self.word, name=f"{name!r}"),
                        say("use one of: {names}", names=", ".join(self.names())),
                    )
                ]
            )
        if (offered := self._offered().get(name)) is not None:
            return offered.load()
        return importlib.import_module(f"{self.package}.{name}")

    @cache  # noqa: B019 - there are as many of them as rooms
    def _offered(self) -> Mapping[str, EntryPoint]:
        """Of other packages. To look through what is installed takes 10 ms."""
        return {entry.name: entry for entry in entry_points(group=self.group)}
