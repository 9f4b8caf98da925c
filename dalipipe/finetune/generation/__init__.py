"""Made data: a generator learns from real training data, and what a classifier agrees with becomes a data set.

Offline only: `generate` writes an ordinary data set, which is then trained on like any other. A generator is whatever
has `Generator`'s two methods; `ImageGAN` and `SeriesGAN` are small ones. `worth` tells whether it was worth it.
"""

from dalipipe.finetune.generation.classifiers import Judge, PictureCNN, fit_classifier, small_classifier
from dalipipe.finetune.generation.gan import ConditionalGAN, GANConfig
from dalipipe.finetune.generation.generator import Generator, pictures
from dalipipe.finetune.generation.images import ImageGAN
from dalipipe.finetune.generation.report import Worth, worth
from dalipipe.finetune.generation.run import generate
from dalipipe.finetune.generation.series import SeriesGAN
from dalipipe.finetune.generation.writing import Generated, check_learnt_from, sample_agreed, write_agreed

__all__ = [
    "ConditionalGAN",
    "GANConfig",
    "Generated",
    "Generator",
    "ImageGAN",
    "Judge",
    "PictureCNN",
    "SeriesGAN",
    "Worth",
    "check_learnt_from",
    "fit_classifier",
    "generate",
    "pictures",
    "sample_agreed",
    "small_classifier",
    "worth",
    "write_agreed",
]
