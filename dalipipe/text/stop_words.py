"""Words that say little by themselves, which operators leave alone and draw no synonyms for."""

from __future__ import annotations

from collections.abc import Iterable

_ENGLISH = """
a an the this that these those such
i me my mine myself we us our ours ourselves you your yours yourself yourselves
he him his himself she her hers herself it its itself they them their theirs themselves one oneself
who whom whose which what whoever whatever when where why how
am is are was were be been being do does did doing done have has had having
can could may might must shall should will would ought need cannot
and or but nor so yet if unless because since although though while whereas whether than as
at by for from in into of off on onto out over per to toward towards under until till up upon via with within without
about above across after against along among amid around before behind below beneath beside besides between beyond
despite down during except inside near outside past through throughout
all any both each either every few many more most much neither no none not only other others another own same several
some enough less least
again also already always ever even further here hence just never now once quite rather still then there therefore thus
too very well
n't 's 're 've 'll 'd 'm 't
i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd we're we've we'll we'd
they're they've they'll they'd that's that'll there's here's what's who's where's how's let's
isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't couldn't mayn't mightn't mustn't shan't
shouldn't won't wouldn't needn't ain't
"""

ENGLISH = frozenset(_ENGLISH.split())
"""English function words: articles, pronouns, auxiliaries, conjunctions, prepositions, quantifiers, and the forms that
they run together in. Lower case.
"""


def stop_words(given: str | Iterable[str] | None) -> frozenset[str]:
    """ "english": `ENGLISH`; None: none; or the words given, in lower case. A typographic apostrophe counts as a
    straight one. Raises ``ValueError`` for another name.
    """
    if given is None:
        return frozenset()
    if isinstance(given, str):
        if given != "english":
            raise ValueError(f'stop_words must be "english", None or a list of words, got {given!r}')
        return ENGLISH
    return frozenset(_plain(word) for word in given)


def is_stop_word(word: str, words: frozenset[str]) -> bool:
    """Whether `stop_words` has it, whatever its case."""
    return _plain(word) in words


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")
