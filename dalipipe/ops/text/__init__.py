"""Operators on texts, word by word, by what they change.

`words`: words for others; `order`: words in another order or left out; `spans`: words in a row; `bags`: what is drawn
from bags; `translation`: by way of another language; `families`: what they share.
"""

from dalipipe.ops.text.bags import AEDA, BagOfWords, PunctuationInsertion
from dalipipe.ops.text.families import Table, TextOp
from dalipipe.ops.text.order import RandomDeletion, RandomSwap
from dalipipe.ops.text.spans import SpanMask, SpanShuffle
from dalipipe.ops.text.translation import BackTranslation
from dalipipe.ops.text.words import RandomInsertion, RandomReplacement, SynonymReplacement, SynonymsOp, WordReversal

__all__ = [
    "AEDA",
    "BackTranslation",
    "BagOfWords",
    "PunctuationInsertion",
    "RandomDeletion",
    "RandomInsertion",
    "RandomReplacement",
]
__all__ += ["RandomSwap", "SpanMask", "SpanShuffle", "SynonymReplacement", "SynonymsOp", "Table", "TextOp"]
__all__ += ["WordReversal"]
