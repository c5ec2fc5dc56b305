"""The sentences by which `site/description.py` says what a study does, so that they can be told in the reader's language.

What a method, a study or its researcher says of itself stays in the language in which it was written.
"""

from __future__ import annotations

import re
from typing import Final

from aimer2.web.translation import Language, mark

_SENTENCES: Final = (
    mark("data set '{name}', at least {count} patients, only these columns:"),
    mark("{name} (number)"),
    mark("{name} (images: {size})"),
    mark("{name} (one of {categories}; groups that are looked at apart)"),
    mark("{name} (one of {categories})"),
    mark("{name} (what the model is to tell)"),
    mark("{method}, version {version}, {count} rounds: {summary}"),
    mark("only these statistical questions:"),
    mark("{method}, version {version}, at most {count} rounds: {summary}"),
    mark("updates are combined by '{name}', which this installation does not have and cannot tell about"),
    mark("updates are combined by {name}: {summary}"),
    mark("for that the coordinator compares the sums of groups of sites, see below with whom this one is added up"),
    mark("for that the coordinator compares the sites' updates one by one, so it must see this site's alone"),
    mark("model {name} ({framework})"),
    mark("only these sums over all patients of the cohort, never a record:"),
    mark("before the first round: whether the data meet the study's contract, as sentences with rounded counts"),
    mark("and whether this site's limits (`[disclosure]` in site.toml), or what was answered here before, speak against answering, with the reason"),
    mark("before the first round: of each column how many values and their sum"),
    mark("and then, about the mean that came of it: the sums of the distances and of the squared distances"),
    mark("each round: weight = n, the number of training rows"),
    mark("each round: difference = n · (w_local − w_received), one array per parameter"),
    mark("each round: counts and sums of the model's evaluation on held-out patients for {metrics}"),
    mark("each round: counts and sums of the model's evaluation on held-out patients"),
    mark("once, at the end: this site's own figures, under its name"),
    mark("of that, a mean change of the model longer than {length} is shortened here to this length"),
    mark("of that, the difference compressed by '{name}', which this installation does not have and would refuse"),
    mark("of that, the difference compressed here by {name}: {summary}"),
    mark("what is left out stays here, in the site's memory of the study, and goes along later"),
    mark("in the clear: the coordinator sees this site's sums. The researcher says why:"),
    mark("masked: the coordinator gets the sum of at least {least} of the {sites} sites, and nobody sees this site's alone"),
    mark("masked: the coordinator gets the sum of each group of {size} sites or more, and nobody sees this site's alone;"),
    mark("a group's sum hides a site among fewer others than the sum of all would. The groups, the same in every round:"),
    mark("(secure aggregation; it rests on the keys that people here have verified: `aimer2 site roster show`)"),
    mark("without differential privacy: what is learnt from the sum of all is not limited by noise"),
    mark("with differential privacy: {much} for each patient over the whole study, taken from the data set's budget (`aimer2 site budget show`)"),
    mark("each patient's part in a sum is shortened to a public length, and the sum gets Gaussian noise here, before it leaves"),
    mark("on the researcher's word: code of the study computes the gradients, so AIMER2 does not vouch for it"),
    mark("for each of this site's patients that is ε = {epsilon} at δ = {delta},"),
    mark("taken from the data set's budget (`aimer2 site budget show`)"),
    mark("with differential privacy of whole sites: {much} for each site over the whole study. What the worker hands over, whatever"),
    mark("code made it, is shortened to the clip norm and gets this site's share of the noise before it is masked; no number of"),
    mark("patients leaves"),
    mark("and, under the same noise, whether it had to shorten: by that the next round's clip norm is chosen"),
)
_PLACE = re.compile(r"\{(\w+)\}")


def _pattern(sentence: str) -> re.Pattern[str]:
    """What the sentence looks like with its places filled."""
    parts = _PLACE.split(sentence)
    return re.compile("".join(f"(?P<{part}>.+?)" if number % 2 else re.escape(part) for number, part in enumerate(parts)), re.DOTALL)


_PATTERNS: Final = tuple((sentence, _pattern(sentence)) for sentence in _SENTENCES)


def told(language: Language, sentence: str) -> tuple[str, bool]:
    """The sentence in this language, and whether it is in it; else as it was."""
    for known, pattern in _PATTERNS:
        if (found := pattern.fullmatch(sentence)) is not None:
            return language.text(known).format(**found.groupdict()), True
    return sentence, language.tag == "en"
