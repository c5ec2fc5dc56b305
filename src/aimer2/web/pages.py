"""Pages from templates: everything that is put into them is escaped, every text can be translated."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from aimer2.charts.svg import STYLE
from aimer2.web.assets import Assets
from aimer2.web.pictures import numbers, picture
from aimer2.web.translation import Language, choose, read_languages

HERE = Path(__file__).parent


@final
@dataclass(frozen=True, slots=True)
class Link:
    """A line of the navigation. ``text``: a marked message."""

    text: str
    address: str
    action: str = ""
    """Shown to those only who may do this; empty: to all."""


@final
class Pages:
    """The templates of this room and of the one that shows them, in every language."""

    def __init__(self, room: Path, *, product: str, navigation: Sequence[Link]) -> None:
        """``room``: the folder of the room, with `templates`, and where it has them `assets` and `languages`."""
        rooms = [HERE, room]
        self.assets = Assets(rooms, {"pictures.css": STYLE})
        self.languages = read_languages(rooms)
        named = {"asset": self.assets.address, "product": product, "navigation": tuple(navigation), "languages": self.languages}
        folders = [each / "templates" for each in reversed(rooms)]
        self._environments = {language.tag: _environment(folders, language, named) for language in self.languages}

    def language(self, wanted: str, accepted: str) -> Language:
        return choose(self.languages, wanted, accepted)

    def render(self, template: str, language: Language, **values: Any) -> str:
        return self._environments[language.tag].get_template(template).render(values, language=language)

    def fragment(self, template: str, macro: str, language: Language, *values: Any) -> str:
        """What one macro of a template makes: a part of a page that is sent anew while the page is open."""
        module = self._environments[language.tag].get_template(template).make_module({"language": language})
        return str(getattr(module, macro)(*values))


def _environment(folders: Sequence[Path], language: Language, named: Mapping[str, Any]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
        auto_reload=False,
        cache_size=-1,
    )
    environment.globals |= {**named, "picture": picture, "numbers": numbers, "told": language.told}
    environment.filters |= {"number": number, "size": size, "moment": moment, "share": share, "duration": duration, "short": short}
    environment.filters["tell"] = partial(tell, language)
    environment.install_gettext_callables(language.text, language.counted, newstyle=True)  # type: ignore[attr-defined]  # of the extension
    return environment


def tell(language: Language, sentence: str) -> Markup:
    """The sentence in this language; as English, where it is in the words of somebody else or of a newer version."""
    text, known = language.told(sentence)
    return Markup.escape(text) if known else Markup('<span lang="en">{}</span>').format(text)


def number(value: float | None) -> str:
    """Three decimals, or three significant digits where that would hide the number; whole numbers whole."""
    if value is None:
        return "–"
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 else f"{value:.3g}"


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def moment(seconds: float | None) -> Markup:
    """A point in time, UTC; ``seconds`` since 1970."""
    if seconds is None:
        return Markup("–")
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return Markup('<time datetime="{}">{}&nbsp;UTC</time>').format(when.isoformat(timespec="seconds"), f"{when:%Y-%m-%d %H:%M:%S}")


def short(digest: str) -> Markup:
    """A digest's first digits; the whole one on pointing at it."""
    return Markup('<code title="{}">{}</code>').format(digest, digest[:12])
