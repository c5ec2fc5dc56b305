"""Source text with its syntax marked, as HTML whose colours are classes of the style sheet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

MOST_OF_A_FILE = 50_000
"""Characters that are coloured; the lines after them are shown plain."""
MOST_OF_A_PAGE = 200_000

# A second and more for long files: one after the other, beside the loop that answers everybody.
_THREAD = ThreadPoolExecutor(1, "code")


def coloured(text: str, filename: str, most: int = MOST_OF_A_FILE) -> Markup:
    """With line numbers; what the file's name does not tell is shown plain, and so is what is over ``most`` characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    end = len(text) if len(text) <= most else text.rfind("\n", 0, most) + 1
    try:
        lexer = get_lexer_for_filename(filename, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    pieces = [(text[:end], lexer, 1)] if end else []
    if end < len(text) or not text:
        pieces.append((text[end:], TextLexer(stripnl=False), 1 + text.count("\n", 0, end)))
    # The formatter escapes all that it is given.
    return Markup("").join(
        Markup(highlight(piece, lexer, HtmlFormatter(linenos="inline", linenostart=first, cssclass="code", nobackground=True)))
        for piece, lexer, first in pieces
    )


async def coloured_page(files: Sequence[tuple[str, str]]) -> list[Markup]:
    """Each of (name, text), for one page, made in a thread."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, coloured_files, files)


def coloured_files(files: Sequence[tuple[str, str]]) -> list[Markup]:
    """Each of (name, text), for one page: no more than a page's worth is coloured, whatever the number of files."""
    shown, left = [], MOST_OF_A_PAGE
    for name, text in files:
        most = min(MOST_OF_A_FILE, left)
        shown.append(coloured(text, name, most))
        left -= min(len(text), most)
    return shown
