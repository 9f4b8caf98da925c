"""What commands make of names: sources, policies, devices, and what is taken where nothing is said."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalipipe.policy import Policy
    from dalipipe.sources import Source


@dataclasses.dataclass(frozen=True)
class Task:
    """What the commands take where nothing else is said; ``noun``: what they call samples."""

    model: str
    policy: str
    noun: str


TASKS = {
    "image": Task("resnet18", "imagenet_train", "pictures"),
    "segmentation": Task("small-unet", "segmentation_train", "pictures"),
    "audio": Task("logmel-cnn", "speech", "sounds"),
    "series": Task("inceptiontime", "series", "series"),
    "text": Task("word-cnn", "eda", "texts"),
}
RATE_HZ, CHANNELS = 16000, 1


def task_of(name: str, **options: Any) -> Task:
    """What is taken for this kind of data where nothing is said. ``options``: as given, or ``None``."""
    if name not in TASKS:
        raise ValueError(f"--task must be one of {', '.join(TASKS)}, got {name}")
    for option, value in options.items():
        if value is not None and name not in _TASKS_OF_OPTION[option]:
            tasks = " or ".join(_TASKS_OF_OPTION[option])
            raise ValueError(f"--{option.replace('_', '-')} is for --task {tasks}, not for {name}")
    return TASKS[name]


_TASKS_OF_OPTION = {
    "size": ("image", "segmentation"),
    "masks": ("image",),
    "rate_hz": ("audio",),
    "channels": ("audio",),
    "max_length": ("text",),
}


def default_policy(task: str, data: Path | None) -> str:
    """The recipe for what is trained on, where none is named."""
    if task == "segmentation" and data is not None and (data / "leftImg8bit").is_dir():
        return "cityscapes_train"
    return TASKS[task].policy


def open_one(data: Path, task: str = "image", *, rate_hz: int = RATE_HZ, channels: int = CHANNELS) -> Source:
    """The pictures, sounds, series or texts in ``data``, or in what is for training where there is such a part."""
    from dalipipe.finetune.classifier import open_audio, series_file, text_files
    from dalipipe.sources import ImageFolder, open_source

    if task == "text":
        from dalipipe.sources import Text

        return Text.open(text_files(data)[0])
    if task == "series":
        from dalipipe.sources import Series

        return Series.open(data if data.is_file() else series_file(data))
    if task == "segmentation":
        from dalipipe.finetune.segmentation import open_label_maps

        return open_label_maps(data)[0]
    part = data / "train" if (data / "train").is_dir() else data
    if task == "audio":
        return open_audio(part, rate_hz=rate_hz, channels=channels)
    with hint_at_texts(data):
        source = open_source(part)
        if isinstance(source, ImageFolder) and data.is_file() and not Path(source.paths[0]).exists():
            raise FileNotFoundError(f"{data} lists {source.paths[0]}, which is not there")
    for other in ("audio", "series"):
        if source.schema.of_kind(other):
            raise ValueError(f"{part} holds {TASKS[other].noun}: say --task {other}")
    return source


@contextlib.contextmanager
def hint_at_texts(data: Path) -> Iterator[None]:
    """What goes wrong with a file that may be one of texts is told so."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        from dalipipe.sources.text_files import ENDINGS

        if data.suffix.lower() not in ENDINGS:
            raise
        raise type(error)(f"{error}. If {data} holds texts, say --task text") from error


def policy_of(wanted: str, *, size: int | None = None, rate_hz: int = RATE_HZ) -> Policy:
    """A recipe by its name, at ``size`` px or ``rate_hz``; or what a file says, which sets its own sizes.

    Raises ``ValueError`` for a name that there is not, or a ``size`` that nothing becomes of.
    """
    from dalipipe.policy import Policy

    makers = _recipes()
    if size is not None and not _takes_size(wanted):
        raise ValueError(f"--size is for recipes that take one; {wanted} says itself what size it makes: leave it out")
    if wanted in makers:
        takes = inspect.signature(makers[wanted]).parameters
        settings = {"rate_hz": rate_hz, **({} if size is None else {"size": size})}
        made = makers[wanted](**{name: value for name, value in settings.items() if name in takes})
        assert isinstance(made, Policy)
        return made
    if not is_policy_file(wanted):
        raise ValueError(
            f"no recipe is called {wanted!r}; there are {', '.join(sorted(makers))}, and files, policy.yaml or .json"
        )
    if not Path(wanted).is_file():
        raise FileNotFoundError(f"there is no policy at {wanted}: name a recipe, or a file that is there")
    from dalipipe.policy_files import load_policy

    return load_policy(Path(wanted))


def policies_of(
    wanted: str, wanted_eval: str | None, *, size: int | None = None, rate_hz: int = RATE_HZ
) -> tuple[Policy, Policy]:
    """For training and, ``wanted_eval`` or the twin of ``wanted``, for validation; ``size`` is for those that take it.

    Raises:
        ValueError: as `policy_of`; a ``size`` that neither takes; or one for validation that leaves something to
            chance.
    """
    from dalipipe.finetune.chance import left_to_chance

    train = policy_of(wanted, size=size if _takes_size(wanted) else None, rate_hz=rate_hz)
    name = wanted_eval or eval_twin(wanted)
    if not _takes_size(wanted) and not _takes_size(name):
        policy_of(wanted, size=size)  # which says what is wrong with it
    evaluating = policy_of(name, size=size if _takes_size(name) else None, rate_hz=rate_hz)
    if (node := left_to_chance(evaluating)) is not None:
        raise ValueError(
            f"validation needs a policy without chance, and {name} draws what {type(node).__name__} does: leave it "
            "out there, or name another policy by --eval-policy"
        )
    return train, evaluating


def _recipes() -> dict[str, Any]:
    from dalipipe import recipes

    return {
        key: value
        for key, value in vars(recipes).items()
        if inspect.isfunction(value) and value.__module__ == recipes.__name__ and not key.startswith("_")
    }


def _takes_size(wanted: str) -> bool:
    """Whether it is something whose size can be said: what there is not is for `policy_of` to say."""
    maker = _recipes().get(wanted)
    if maker is None:
        return not is_policy_file(wanted)
    return "size" in inspect.signature(maker).parameters


def is_policy_file(name: str) -> bool:
    return Path(name).suffix.lower() in (".yaml", ".yml", ".json")


def eval_twin(name: str) -> str:
    """``imagenet_train`` → ``imagenet_eval``, ``cifar10`` → ``cifar10_eval``, ``deit.yaml`` → ``deit_eval.yaml``."""
    if not is_policy_file(name):
        return f"{name.removesuffix('_train')}_eval"
    path = Path(name)
    twin = path.with_stem(f"{path.stem.removesuffix('_train')}_eval")
    if not twin.is_file():
        raise FileNotFoundError(
            f"validation needs a policy without chance: write {twin}, or name one, a recipe or a file, by --eval-policy"
        )
    return str(twin)


def device_of(wanted: str) -> Any:
    from dalipipe.finetune import local_device

    try:
        return local_device(wanted)
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def with_more(train: Source, drawn: Source, add: Path, task: str, *, rate_hz: int, channels: int) -> Source:
    """``drawn``, all of ``train`` or a part of it, and behind it the data in ``add``, which may be a folder that
    `dalipipe generate` wrote.

    Raises ``ValueError`` where the two do not fit, or those were made of other data than ``train``.
    """
    from dalipipe.finetune.generation import check_learnt_from
    from dalipipe.finetune.parts import joined

    check_learnt_from(add, train)
    if (add / "manifest.json").is_file():
        add = next((part for part in (add / "data", add / "data.ts") if part.exists()), add)
    return joined(drawn, open_one(add, task, rate_hz=rate_hz, channels=channels))
