"""Back-translation: texts to another language and back, by models that run on this machine, once and kept."""

from dalipipe.translation.cache import TranslationCache
from dalipipe.translation.hugging_face import HFTranslator
from dalipipe.translation.round_trip import RoundTrip, Translator, as_translator

__all__ = ["HFTranslator", "RoundTrip", "TranslationCache", "Translator", "as_translator"]
