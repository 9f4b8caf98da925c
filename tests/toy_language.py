"""A language that is English word for word, and backwards; and a small model that learns to translate it, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = "the a cat dog bird sees hears finds small big red old".split()
THERE = "la un gato can ave ve oye halla nimio vasto rojo viejo".split()
_TO = {**dict(zip(HERE, THERE, strict=True)), **dict(zip(THERE, HERE, strict=True))}
LONGEST = 6


def translated(text: str) -> str:
    return " ".join(_TO[word] for word in reversed(text.split()))


def sentences(count: int, seed: int, words: list[str] = HERE) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, random.integers(1, LONGEST + 1))) for _ in range(count)]


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *HERE, *THERE]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def untrained(seed: int = 0) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=4 + len(HERE) + len(THERE),
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=32,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    return BartForConditionalGeneration(config)


def trained(steps: int = 900) -> Any:
    """A model that translates either way, since the two languages have no word in common."""
    model, numbers = untrained(), tokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other longer than they work
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    model.train()
    for step in range(steps):
        texts = [*sentences(32, 2 * step + 1), *sentences(32, 2 * step + 2, THERE)]
        read = numbers(texts, padding=True, return_tensors="pt")
        labels = numbers([translated(text) for text in texts], padding=True, return_tensors="pt")["input_ids"]
        labels = labels.masked_fill(labels == 0, -100)
        loss = model(read["input_ids"], attention_mask=read["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    torch.set_num_threads(threads)
    return model.eval()


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)
