"""A finished study as one page that checks itself in a browser, for an ethics board or a journal: it needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path

from aimer2.identity import base64url
from aimer2.messages.package import canonical
from aimer2.messages.record import StudyRecord

_SCRIPT = Path(__file__).with_name("record.js")


def as_page(record: StudyRecord) -> str:
    """The study in the very bytes that its digest is of, every signed document as it was signed, and the script that checks them on opening.

    The page allows no other script, and nothing from outside.
    """
    script = _SCRIPT.read_text("utf-8")
    document = {
        "study": record.study,
        "package": base64url.encode(canonical(record.package)),
        "decisions": list(record.decisions),
        "result": record.result,
        "stages": list(record.stages),
        "evaluations": list(record.evaluations),
        "key": record.key,
    }
    return _PAGE.format(
        title=escape(f"Record of the study {record.package.study.name}"),
        policy=f"default-src 'none'; script-src '{_allowed(script)}'; style-src '{_allowed(_STYLE)}'; base-uri 'none'; form-action 'none'",
        style=_STYLE,
        # Inside a script element only "</" and "<!--" could end the data; a "<" is never needed there.
        record=json.dumps(document).replace("<", "\\u003c"),
        script=script,
    )


def _allowed(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .25rem .5rem; border-bottom: 1px solid; }
th { overflow-wrap: normal; }
pre { overflow-x: auto; border: 1px solid; padding: .5rem; white-space: pre-wrap; }
.holds, .fails { font-weight: 700; padding: .5rem .75rem; border: 2px solid; }
.holds { border-color: #1a7f37; } .fails { border-color: #cf222e; }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><main><h1>{title}</h1>
<p>This page holds the whole record of a study and checks it here, in this browser, without any network: signatures, digests, who approved what.</p>
<noscript><p>Scripts are switched off here, so nothing was checked.</p></noscript></main>
<script type="application/json" id="record">{record}</script>
<script>{script}</script></body></html>
"""
