"""Translation by an encoder and decoder of Hugging Face's transformers (Marian, T5, NLLB, mBART, ...)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dalipipe import native, rng

_DRAWS = 0x7472  # the counters' last word: what is drawn here


class HFTranslator:
    """A model and its tokenizer as a `Translator`.

    Texts of similar lengths are translated together, as many as ``tokens`` numbers hold. Where words are drawn, that is
    by the inverse of their distribution, at one number for each place in each text: a function of the text's key and
    the place, whatever else is in the batch. (``generate(do_sample=True)`` draws a batch's from one stream.)

    Args:
        model: a local folder with a model and its tokenizer, loaded when it is first used; or a model that is built.
        tokenizer: of a model that is built; None: the folder's.
        name: what policies and packs call it; None: the folder as given, or the model's class.
        prefix: put before each text, as T5 wants it: "translate English to German: ".
        beams: of beam search, where nothing is drawn; 1: greedy.
        most: tokens of a translation at most; and of a text, which is left as it is where it has more.
        tokens: padded numbers in a batch, rows × longest.
        device: "auto": the current CUDA device where there is one, else the CPU.
        source, target: codes of languages, for tokenizers that want to know (NLLB's "eng_Latn", mBART's "en_XX").
        generate: further settings of transformers' ``generate``.

    On a CUDA device the model runs under autocast in bfloat16.

    Raises:
        FileNotFoundError: there is no such folder. Nothing is ever downloaded.
        ImportError: transformers is missing.
        ValueError: settings out of their range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        prefix: str = "",
        beams: int = 1,
        most: int = 256,
        tokens: int = 8192,
        device: str | torch.device = "auto",
        source: str | None = None,
        target: str | None = None,
        generate: Mapping[str, Any] | None = None,
    ) -> None:
        for setting, value in (("beams", beams), ("most", most), ("tokens", tokens)):
            if type(value) is not int or value < 1:
                raise ValueError(f"HFTranslator: {setting} must be a whole number, at least 1, got {value!r}")
        self._folder: Path | None = None
        if isinstance(model, str | os.PathLike):
            self._folder = Path(model)
            if not self._folder.is_dir():
                raise FileNotFoundError(
                    f"HFTranslator: there is no folder {self._folder}; models are taken from this machine, never "
                    "downloaded: fetch one (`hf download NAME --local-dir DIR`) and name its folder"
                )
        elif tokenizer is None:
            raise ValueError("HFTranslator: a model that is built needs its tokenizer, too: tokenizer=")
        self.name = name or (os.fspath(model) if self._folder else type(model).__name__)
        self.prefix, self.beams, self.most, self.tokens = prefix, beams, most, tokens
        self._given, self._device = (model, tokenizer), device
        self._source, self._target, self._generate = source, target, dict(generate or {})

    def translate(
        self, texts: Sequence[str], *, temperature: float = 0.0, top_p: float = 1.0, keys: Sequence[int] | None = None
    ) -> list[str]:
        """See `Translator`. A text of more tokens than `most`, or without words, comes back as it is."""
        if not (temperature >= 0 and 0 < top_p <= 1):
            raise ValueError(
                f"HFTranslator: temperature must be at least 0 and top_p in (0, 1], got {temperature!r} and {top_p!r}"
            )
        tokenizer = self._loaded[1]
        made = list(texts)
        ids = tokenizer([self.prefix + text for text in texts])["input_ids"] if texts else []
        at_most = min(self.most, self._positions, getattr(tokenizer, "model_max_length", self.most))
        lengths = np.array([len(row) for row in ids], np.int64)
        wanted = np.array([bool(text.strip()) for text in texts], bool) & (lengths <= at_most)
        for rows in self._batches(lengths, np.flatnonzero(wanted)):
            some = None
            if temperature > 0:
                some = [(keys[row] if keys is not None else 0) for row in rows.tolist()]
            for row, text in zip(
                rows.tolist(), self._run([ids[r] for r in rows], temperature, top_p, some), strict=True
            ):
                made[row] = text
        return made

    @cached_property
    def identity(self) -> str:
        """Changes when the model's weights, or what is asked of it, do."""
        model, _ = self._loaded
        h = hashlib.blake2b(digest_size=16)
        for key, value in sorted(model.state_dict().items()):
            h.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
            h.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        asked = (self.prefix, self.beams, self.most, self._source, self._target, sorted(self._generate.items()))
        h.update(repr((*asked, self._cast)).encode())
        return f"{type(model).__name__}-{h.hexdigest()}"

    @cached_property
    def device(self) -> torch.device:
        if self._device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self._device)

    def __repr__(self) -> str:
        return f"HFTranslator({self.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_loaded", "device")}

    @property
    def _cast(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model, tokenizer = self._given
        if self._folder is not None:
            try:
                import transformers
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "translation needs transformers; install it with: pip install transformers", name=error.name
                ) from error
            model = transformers.AutoModelForSeq2SeqLM.from_pretrained(self._folder, local_files_only=True)
            tokenizer = tokenizer or transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        if self._source is not None:
            tokenizer.src_lang = self._source
        if self._target is not None:
            self._generate["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(self._target)
        return model.to(self.device).eval(), tokenizer

    @property
    def _positions(self) -> int:
        """Tokens that the model has places for."""
        return getattr(self._loaded[0].config, "max_position_embeddings", None) or 1 << 30

    def _batches(self, lengths: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The longest first, so that what does not fit in memory shows at once."""
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        while len(rows):
            count = max(1, self.tokens // max(1, int(lengths[rows[0]])))
            yield rows[:count]
            rows = rows[count:]

    def _run(self, ids: list[list[int]], temperature: float, top_p: float, keys: list[int] | None) -> list[str]:
        model, tokenizer = self._loaded
        padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.device)
        settings: dict[str, Any] = {
            "max_new_tokens": min(self.most, self._positions - 1),
            "do_sample": False,
            "num_beams": self.beams,
        }
        settings.update(self._generate)
        if keys is not None:
            settings.update(num_beams=1, logits_processor=[_Drawing(keys, temperature, top_p)])
        cast = torch.autocast("cuda", torch.bfloat16) if self._cast else contextlib.nullcontext()
        with torch.inference_mode(), cast:
            made = model.generate(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], **settings)
        texts: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
        return texts


class _Drawing:
    """A logits processor of transformers that draws a row's token, from its key and the place: it leaves no other."""

    def __init__(self, keys: list[int], temperature: float, top_p: float) -> None:
        self._keys = np.array(keys, np.uint64)
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        u = torch.from_numpy(self._uniforms(input_ids.shape[1])).to(scores.device)[:, None]
        likely = torch.softmax(scores.double() / self._temperature, -1)
        likely, order = torch.sort(likely, dim=-1, descending=True, stable=True)
        before = likely.cumsum(-1) - likely
        likely = likely * (before < self._top_p)  # the most likely ones, until they have so much together
        ends = likely.cumsum(-1)
        place = (ends <= u * ends[:, -1:]).sum(-1, keepdim=True)
        place = torch.minimum(place, (likely > 0).sum(-1, keepdim=True) - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, order.gather(1, place), 0.0)

    def _uniforms(self, place: int) -> np.ndarray:
        """float64 [rows] in [0, 1)."""
        counters = np.empty((len(self._keys), 4), np.uint32)
        counters[:, 0] = (self._keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        counters[:, 1] = (self._keys >> np.uint64(32)).astype(np.uint32)
        counters[:, 2], counters[:, 3] = place, _DRAWS
        words = native.philox(counters, rng.make_key(0, _DRAWS)).astype(np.float64)
        drawn: np.ndarray = (words[:, 0] * 2.0**-32 + words[:, 1] * 2.0**-64) * (1 - 2.0**-53)
        return drawn
