"""Where synonyms come from, and the table that the kernels choose from."""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dalipipe.text.stop_words import is_stop_word
from dalipipe.text.stop_words import stop_words as _stop_words
from dalipipe.text.vocabulary import SPECIAL, Vocabulary

_BUILT_IN = Path(__file__).with_name("synonyms.txt")
_BLOCK = 1 << 22  # similarities at a time


@runtime_checkable
class SynonymSource(Protocol):
    """Gives synonyms. ``identity``: a short text that changes when what it gives does."""

    @property
    def identity(self) -> str: ...

    def synonyms(self, word: str) -> Sequence[str]:
        """Those of ``word`` as it is written, the best first; none for a word that it does not know."""
        ...


class SynonymTable:
    """Synonyms by word, from a mapping.

    Raises ``ValueError`` for synonyms that are one text, not several.
    """

    def __init__(self, synonyms: Mapping[str, Sequence[str]]) -> None:
        self._synonyms: dict[str, tuple[str, ...]] = {}
        for word, others in synonyms.items():
            if isinstance(others, str):
                raise ValueError(f"SynonymTable: expected a list of synonyms of {word!r}, got the text {others!r}")
            self._synonyms[word] = tuple(others)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SynonymTable:
        """From a ``.tsv`` or ``.tsv.gz``, UTF-8: a word a line, a tab, its synonyms with commas between them. Lines
        that are empty or begin with ``#`` are passed over; synonyms of a word on several lines are put together.

        Raises ``FileNotFoundError``, or ``ValueError`` by file and line.
        """
        path = os.fspath(path)
        opened: Any = gzip.open if path.endswith(".gz") else open
        found: dict[str, list[str]] = {}
        with opened(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}, line {number}: no valid UTF-8 ({error.reason})") from None
                if not line.strip() or line.startswith("#"):
                    continue
                word, tab, others = line.partition("\t")
                if not tab or "\t" in others or not word.strip():
                    raise ValueError(
                        f"{path}, line {number}: expected a word, a tab, and synonyms with commas between them, got "
                        f"{line[:60]!r}"
                    )
                found.setdefault(word.strip(), []).extend(part.strip() for part in others.split(",") if part.strip())
        return cls({word: list(dict.fromkeys(others)) for word, others in found.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """As a ``.tsv`` or ``.tsv.gz`` that `open` reads. Raises ``ValueError`` for a word with a tab or a comma."""
        path = os.fspath(path)
        lines = []
        for word, others in self._synonyms.items():
            for text in (word, *others):
                if any(mark in text for mark in "\t\n\r,"):
                    raise ValueError(f"SynonymTable.save: {text!r} cannot stand in a table: it has a tab or a comma")
            lines.append(f"{word}\t{','.join(others)}\n")
        raw = "".join(lines).encode()
        Path(path).write_bytes(gzip.compress(raw, mtime=0) if path.endswith(".gz") else raw)

    @cached_property
    def identity(self) -> str:
        """Of all of it."""
        whole = "\n".join("\t".join((word, *others)) for word, others in sorted(self._synonyms.items()))
        return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def synonyms(self, word: str) -> Sequence[str]:
        return self._synonyms.get(word, ())

    def __len__(self) -> int:
        return len(self._synonyms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SynonymTable) and self._synonyms == other._synonyms

    def __hash__(self) -> int:
        return hash(self.identity)

    def __repr__(self) -> str:
        return f"SynonymTable({len(self):,} words)"


class WordNet:
    """Synonyms from WordNet, where it is installed: the other words of a word's synsets, the most frequent sense first.

    Args:
        library: "nltk" (with its data: ``nltk.download("wordnet")``) or "wn" (``wn.download("oewn:2024")``).
        lexicon: of wn: which one; None: all that are installed.

    What it gives depends on the data that is installed; `SynonymTable.save` what was found to have it the same
    everywhere. Words put together from several are left out.

    Raises ``ImportError`` where the library is missing, ``LookupError`` where its data is, both with the remedy.
    """

    def __init__(self, library: str = "nltk", lexicon: str | None = None) -> None:
        if library not in ("nltk", "wn"):
            raise ValueError(f'WordNet: library must be "nltk" or "wn", got {library!r}')
        self.library, self.lexicon = library, lexicon
        self.synonyms("good")  # so that what is missing is told of now

    @property
    def identity(self) -> str:
        return f"wordnet-{self.library}-{self.lexicon or 'all'}"

    def synonyms(self, word: str) -> Sequence[str]:
        found: dict[str, None] = {}
        for lemma in self._nltk(word) if self.library == "nltk" else self._wn(word):
            if "_" not in lemma and " " not in lemma and lemma != word:
                found[lemma] = None
        return tuple(found)

    def _nltk(self, word: str) -> Iterable[str]:
        corpus = _imported("nltk.corpus", "nltk")
        try:
            synsets = corpus.wordnet.synsets(word)
        except LookupError as error:
            raise LookupError('WordNet: nltk has no WordNet data: run nltk.download("wordnet") once') from error
        return (name for synset in synsets for name in synset.lemma_names())

    def _wn(self, word: str) -> Iterable[str]:
        wn = _imported("wn", "wn")
        try:
            synsets = wn.synsets(word, **({} if self.lexicon is None else {"lexicon": self.lexicon}))
        except Exception as error:  # wn's own errors
            raise LookupError(f"WordNet: wn cannot look words up ({error}): run wn.download(...) once") from error
        return (name for synset in synsets for name in synset.lemmas())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordNet) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __repr__(self) -> str:
        return f"WordNet({self.library!r})"


def nearest_words(words: Sequence[str], matrix: Any, k: int = 5, *, at_least: float = 0.5) -> SynonymTable:
    """For each word those whose vectors point most nearly the same way: neighbours in GloVe, word2vec, or a model's own
    embedding. They are often of the same kind rather than of the same meaning (*good*, *bad*), so look at them first.

    Args:
        words: V of them.
        matrix: numbers [V, D], numpy or a tensor on the host.
        k: neighbours of a word at most.
        at_least: their cosine similarity, -1..1.

    Takes V² · D steps, in blocks: 2 s of a core for 10,000 words of 300 numbers. Save what comes (`SynonymTable.save`):
    another machine's matrix products round differently, and may order neighbours otherwise.

    Raises ``ValueError`` for a matrix of another shape, or with values that are not finite.
    """
    if hasattr(matrix, "detach"):
        matrix = matrix.detach().cpu().numpy()
    vectors: Any = np.asarray(matrix, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(words):
        raise ValueError(f"nearest_words: expected a matrix [{len(words)}, D], a row a word, got shape {vectors.shape}")
    if k < 1 or not -1 <= at_least <= 1:
        raise ValueError(f"nearest_words: expected k >= 1 and at_least in -1..1, got {k} and {at_least}")
    if not np.isfinite(vectors).all():
        row = int(np.argwhere(~np.isfinite(vectors))[0, 0])
        raise ValueError(f"nearest_words: the vector of {words[row]!r} (row {row}) has a value that is not finite")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(lengths == 0, 1, lengths)
    found: dict[str, list[str]] = {}
    rows = max(1, _BLOCK // max(1, len(words)))
    for begin in range(0, len(words), rows):
        alike = vectors[begin : begin + rows] @ vectors.T
        own = np.arange(len(alike))
        alike[own, begin + own] = -np.inf
        count = min(k, len(words))
        best = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        for row, places in enumerate(best):
            near = [place for place in places.tolist() if alike[row, place] >= at_least]
            near.sort(key=lambda place, of=alike[row]: (-of[place], place))  # type: ignore[misc]
            if near:
                found[words[begin + row]] = [words[place] for place in near]
    return SynonymTable(found)


def open_synonyms(given: Any) -> SynonymSource:
    """What operators are given, as a source: "builtin" (a small table of common English words, of our own), "wordnet"
    (`WordNet` by nltk), the path of a ``.tsv`` or ``.tsv.gz`` (`SynonymTable.open`), a mapping, or a source as it is.

    Raises ``ValueError`` for anything else; ``FileNotFoundError`` where there is no such file.
    """
    if isinstance(given, Mapping):
        return SynonymTable(given)
    if isinstance(given, SynonymSource):
        return given
    if not isinstance(given, str | os.PathLike):
        raise ValueError(
            'synonyms must be "builtin", "wordnet", the path of a .tsv or .tsv.gz, a mapping or a SynonymSource, got '
            f"{type(given).__name__}"
        )
    name = os.fspath(given)
    if name == "builtin":
        return built_in()
    if name == "wordnet":
        return WordNet()
    if not name.endswith((".tsv", ".tsv.gz")):
        raise ValueError(f'synonyms must be "builtin", "wordnet", or a file called .tsv or .tsv.gz, got {name!r}')
    return _opened(os.path.abspath(name), os.stat(name).st_mtime_ns)


@cache
def built_in() -> SynonymTable:
    """Groups of common English words, each of which may stand for the others of its group in most sentences."""
    found: dict[str, dict[str, None]] = {}
    for line in _BUILT_IN.read_text("utf-8").splitlines():
        group = [] if line.startswith("#") else line.split()
        for word in group:
            found.setdefault(word, {}).update(dict.fromkeys(other for other in group if other != word))
    return SynonymTable({word: list(others) for word, others in found.items()})


def words(source: SynonymSource, vocabulary: Vocabulary, stop_words: str | Iterable[str] | None = None) -> list[str]:
    """What ``source`` has for the words of ``vocabulary`` and ``vocabulary`` lacks, each once, in the order of the
    words that it is for. Of a vocabulary that was built from texts only the words in them are asked for, so that
    what was added once adds nothing of its own.
    """
    new: dict[str, None] = {}
    counted = bool(vocabulary.counts[len(SPECIAL) :].any())
    for place, others in _looked_up(source, vocabulary, _stop_words(stop_words)):
        if not counted or vocabulary.counts[place]:
            new.update(dict.fromkeys(word for word in others if word not in vocabulary))
    return list(new)


def choices(
    source: SynonymSource, vocabulary: Vocabulary, stop_words: str | Iterable[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The synonyms of every word that are words of ``vocabulary`` too: ``starts`` int32 [V + 1] and ``tokens`` int32;
    those of t are tokens[starts[t]:starts[t + 1]]. None for `SPECIAL`, for stop words (whatever their case), and never
    a word itself. A word that the source does not know is looked up in lower case, and its case carried over.
    """
    counts = np.zeros(len(vocabulary) + 1, np.int64)
    tokens: list[np.ndarray] = []
    for place, others in _looked_up(source, vocabulary, _stop_words(stop_words)):
        ids = vocabulary.ids(word for word in others if word in vocabulary)
        counts[place + 1] = len(ids)
        tokens.append(ids)
    return np.cumsum(counts).astype(np.int32), np.concatenate(tokens) if tokens else np.zeros(0, np.int32)


def _looked_up(
    source: SynonymSource, vocabulary: Vocabulary, leave: frozenset[str]
) -> Iterable[tuple[int, dict[str, None]]]:
    """(id, synonyms in order) of the words that have some."""
    for place in range(len(SPECIAL), len(vocabulary)):
        word = vocabulary.words[place]
        if is_stop_word(word, leave):
            continue
        others: Iterable[str] = source.synonyms(word)
        if not others and word != (lower := word.lower()):
            others = (_in_case_of(word, other) for other in source.synonyms(lower))
        found = dict.fromkeys(other for other in others if other.lower() != word.lower() and other not in SPECIAL)
        if found:
            yield place, found


def _in_case_of(word: str, other: str) -> str:
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


@cache
def _opened(path: str, changed_ns: int) -> SynonymTable:
    return SynonymTable.open(path)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"WordNet needs {package}: pip install {package}") from error
