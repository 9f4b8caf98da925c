"""What text is made of here: words, the numbers that stand for them, and what models take instead.

`words`: text → words; `vocabulary`: words ↔ ids; `encoding`, `subwords`: how edited words become the numbers in
batches; `synonyms`, `stop_words`, `bags`: what operators write instead of words, and how much words say.
"""

from dalipipe.text.encoding import Encoding
from dalipipe.text.synonyms import SynonymSource, SynonymTable, WordNet, nearest_words
from dalipipe.text.vocabulary import MASK, PAD, SPECIAL, UNKNOWN, Vocabulary

__all__ = ["MASK", "PAD", "SPECIAL", "UNKNOWN", "Encoding", "SynonymSource", "SynonymTable", "Vocabulary", "WordNet"]
__all__ += ["nearest_words"]
