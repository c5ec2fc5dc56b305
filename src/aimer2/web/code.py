"""Source text with its syntax marked, as HTML whose colours are classes of the style sheet."""

from __future__ import annotations

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

LONGEST = 400_000
"""Characters that are coloured; longer texts are shown plain."""


def coloured(text: str, filename: str) -> Markup:
    """With line numbers; what the file's name does not tell is shown plain."""
    try:
        lexer = TextLexer() if len(text) > LONGEST else get_lexer_for_filename(filename, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer()
    # The formatter escapes all that it is given.
    return Markup(highlight(text, lexer, HtmlFormatter(linenos="inline", cssclass="code", nobackground=True)))
