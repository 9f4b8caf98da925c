"""What text is made of here: words, the numbers that stand for them, and what models take instead.

`vocabulary`: words ↔ ids; `encoding`: how edited words become the numbers in batches.
"""

from dalipipe.text.encoding import Encoding
from dalipipe.text.vocabulary import MASK, PAD, SPECIAL, UNKNOWN, Vocabulary

__all__ = ["MASK", "PAD", "SPECIAL", "UNKNOWN", "Encoding", "Vocabulary"]
