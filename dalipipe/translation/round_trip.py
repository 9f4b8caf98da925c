"""There and back: what a translator is, and two of them that rewrite texts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dalipipe import rng
from dalipipe.translation.cache import TranslationCache
from dalipipe.translation.hugging_face import HFTranslator

_CHUNK = 512  # texts whose translations are kept together
_THERE, _BACK = range(2)


@runtime_checkable
class Translator(Protocol):
    """Translates texts from one language into another."""

    name: str
    """What policies and packs call it."""

    def translate(
        self, texts: Sequence[str], *, temperature: float = 0.0, top_p: float = 1.0, keys: Sequence[int] | None = None
    ) -> list[str]:
        """As many translations, in that order.

        ``temperature`` 0: the best ones. Above: drawn from what the model thinks likely (where 1 is as likely as it
        thinks), of each word among the most likely that have ``top_p`` of the probability together; text i from its
        ``keys[i]`` alone, 64 bits, whatever it is translated together with. One that draws nothing may ignore them.
        """
        ...


def as_translator(given: Any) -> Translator:
    """A `Translator` as it is; a local folder of a Hugging Face model as an `HFTranslator`.

    Raises:
        FileNotFoundError: there is no such folder. Nothing is ever downloaded.
        TypeError: something else.
    """
    if isinstance(given, str | os.PathLike):
        return HFTranslator(given)
    if not isinstance(given, Translator):
        raise TypeError(
            "expected a translator, with a name and translate(texts, temperature=, top_p=, keys=), or a model's "
            f"folder, got {type(given).__name__}"
        )
    return given


@dataclass(frozen=True)
class RoundTrip:
    """Rewrites texts: ``forward`` into another language, and ``backward`` into their own.

    Sennrich, Haddow, Birch: "Improving neural machine translation models with monolingual data" (ACL 2016) for the
    idea; as augmentation Yu et al., "QANet" (ICLR 2018), and Xie et al., "Unsupervised data augmentation for
    consistency training" (NeurIPS 2020), who draw with temperatures about 0.9.

    What comes back depends on the text, the translators, the settings, and where it is drawn on (seed, copy). Not on
    the other texts: but a model's last digits may, as matrices of other sizes round otherwise, so that once in a long
    while another word is the best. ``cache`` keeps what came first.

    Args:
        forward, backward: `Translator`s, or folders of models.
        temperature, top_p: see `Translator.translate`; for both ways.
        cache: a folder, or a `TranslationCache`, where translations are looked up and kept; None: none are.
    """

    forward: Any
    backward: Any
    temperature: float = 0.0
    top_p: float = 1.0
    cache: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "forward", as_translator(self.forward))
        object.__setattr__(self, "backward", as_translator(self.backward))
        if self.cache is not None and not isinstance(self.cache, TranslationCache):
            object.__setattr__(self, "cache", TranslationCache(self.cache))

    def __call__(
        self,
        texts: Sequence[str],
        *,
        seed: int = 0,
        copy: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str | None]:
        """What each text has come back as; None: as itself, but for case and white space, or as nothing. Blank texts
        are not translated.

        ``seed``, ``copy``: what is drawn from, besides the text. ``progress``: called with how many are done, and of
        how many, each time that some are.

        Raises ``ValueError`` where a translator gives not as many texts as it was given.
        """
        identity = self.identity.encode()
        drawn = f"{seed} {copy}".encode() if self.temperature else b""
        keys = {text: _digest(b"\0".join([identity, drawn, text.encode()])) for text in texts if text.strip()}
        found = {} if self.cache is None else self.cache.get(list(keys.values()))
        missing = [text for text, key in keys.items() if key not in found]
        done = len(keys) - len(missing)
        for first in range(0, len(missing), _CHUNK):
            if progress is not None:
                progress(done + first, len(keys))
            some = missing[first : first + _CHUNK]
            there = self._one_way(_THERE, some, some, seed, copy)
            made = dict(zip((keys[text] for text in some), self._one_way(_BACK, there, some, seed, copy), strict=True))
            found.update(made)
            if self.cache is not None:
                self.cache.put(made)
        if progress is not None:
            progress(len(keys), len(keys))
        back = [found[keys[text]] if text in keys else text for text in texts]
        return [None if _same(*pair) else pair[1] for pair in zip(texts, back, strict=True)]

    @property
    def identity(self) -> str:
        """A short text that changes when what comes back may: by the translators' ``identity``, else their names."""
        parts = [getattr(one, "identity", one.name) for one in (self.forward, self.backward)]
        if self.temperature:
            parts += [repr(float(self.temperature)), repr(float(self.top_p))]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def _one_way(self, way: int, texts: Sequence[str], origins: Sequence[str], seed: int, copy: int) -> list[str]:
        translator = self.backward if way else self.forward
        numbers = [_digest(text.encode()) for text in origins]
        keys = [rng.mix64(seed, copy, way, int.from_bytes(number[:8], "little")) for number in numbers]
        made = list(translator.translate(texts, temperature=self.temperature, top_p=self.top_p, keys=keys))
        if len(made) != len(texts) or not all(isinstance(text, str) for text in made):
            raise ValueError(f"{translator.name}: expected {len(texts)} translations, got {len(made)}: {made[:2]!r}")
        return made


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _same(text: str, back: str) -> bool:
    """Whether nothing is won by it."""
    return not back.strip() or " ".join(text.split()).casefold() == " ".join(back.split()).casefold()
