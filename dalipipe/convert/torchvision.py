"""torchvision's transforms, v1 and v2, and the classes of its reference recipes: what each becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dalipipe.convert.forms import (
    Form,
    Made,
    Refusal,
    Table,
    colour,
    interpolation,
    made,
    numbers,
    pair,
    scaled,
)
from dalipipe.ops import image as ops
from dalipipe.ops import mix

converts = Table()

# Sizes and crops ----------------------------------------------------------------------------------------------------


def resampling(transform: Any, form: Form) -> str:
    """How it resizes. Pillow always antialiases."""
    name = interpolation(transform.interpolation)
    if form.backend == "tensor" and name != "nearest" and not transform.antialias:
        raise Refusal(
            f"it resizes tensors with antialias={transform.antialias}, four neighbours a pixel: ours antialiases, as "
            "Pillow does; give it antialias=True"
        )
    return name


@converts("Resize")
def _resize(transform: Any, form: Form) -> Made:
    size = transform.size
    if size is not None:
        size = tuple(int(v) for v in size) if isinstance(size, tuple | list) and len(size) == 2 else pair(size)[0]
    return made(ops.Resize(size, interpolation=resampling(transform, form), max_size=transform.max_size))


@converts("RandomResize")
def _random_resize(transform: Any, form: Form) -> Made:
    low, high = transform.min_size, transform.max_size
    return made(ops.RandomResize(low, high, interpolation=resampling(transform, form)))


@converts("RandomShortestSize")
def _random_shortest_size(transform: Any, form: Form) -> Made:
    sizes = tuple(transform.min_size)
    resample = resampling(transform, form)
    return made(ops.RandomShortestSize(sizes, max_size=transform.max_size, interpolation=resample))


@converts("ScaleJitter")
def _scale_jitter(transform: Any, form: Form) -> Made:
    resample = resampling(transform, form)
    return made(ops.ScaleJitter(pair(transform.target_size), tuple(transform.scale_range), interpolation=resample))


@converts("CenterCrop")
def _center_crop(transform: Any, form: Form) -> Made:
    return made(ops.CenterCrop(pair(transform.size), fill=colour(0, form)))


@converts("RandomResizedCrop")
def _random_resized_crop(transform: Any, form: Form) -> Made:
    ranges = {"scale": tuple(transform.scale), "ratio": tuple(transform.ratio)}
    return made(ops.RandomResizedCrop(pair(transform.size), **ranges, interpolation=resampling(transform, form)))


def constant_padding(transform: Any) -> None:
    if transform.padding_mode != "constant":
        raise Refusal(f'it pads by padding_mode="{transform.padding_mode}": a constant fill can be had')


def padding(value: Any) -> Any:
    """torchvision's: a number, a list of one, (x, y) or (left, top, right, bottom)."""
    return tuple(int(v) for v in value) if isinstance(value, tuple | list) else int(value)


@converts("Pad")
def _pad(transform: Any, form: Form) -> Made:
    constant_padding(transform)
    return made(ops.Pad(padding(transform.padding), fill=colour(transform.fill, form)))


@converts("RandomCrop")
def _random_crop(transform: Any, form: Form) -> Made:
    around = transform.padding
    if around is not None or transform.pad_if_needed:
        constant_padding(transform)
    if around is not None and _is_v2(transform):  # it keeps them as left, right, top, bottom
        left, right, top, bottom = around
        around = (left, top, right, bottom)
    around = 0 if around is None else padding(around)
    if isinstance(around, tuple) and len(set(around)) == 1:
        around = around[0]
    fill = colour(transform.fill, form)
    return made(ops.RandomCrop(pair(transform.size), around, pad_if_needed=transform.pad_if_needed, fill=fill))


@converts("RandomZoomOut")
def _random_zoom_out(transform: Any, form: Form) -> Made:
    return made(ops.ZoomOut(tuple(transform.side_range), fill=colour(transform.fill, form), p=transform.p))


@converts("FiveCrop", "TenCrop")
def _several(transform: Any, form: Form) -> Made:
    raise Refusal("it makes several pictures of one: a batch has one of each sample; crop where you evaluate")


# Flips and warps ----------------------------------------------------------------------------------------------------


@converts("RandomHorizontalFlip")
def _horizontal_flip(transform: Any, form: Form) -> Made:
    return made(ops.HorizontalFlip(p=transform.p))


@converts("RandomVerticalFlip")
def _vertical_flip(transform: Any, form: Form) -> Made:
    return made(ops.VerticalFlip(p=transform.p))


def sampling(transform: Any, form: Form) -> dict[str, Any]:
    """How it warps, and what stands outside."""
    name = interpolation(transform.interpolation)
    if name == "bicubic" and form.backend == "tensor":
        raise Refusal("torchvision itself does not warp tensors bicubically; give it InterpolationMode.BILINEAR")
    return {"interpolation": name, "fill": colour(transform.fill, form)}


def about_the_middle(transform: Any) -> None:
    if transform.center is not None:
        raise Refusal(f"its center is {tuple(transform.center)}: pictures are turned about their middle")


@converts("RandomRotation")
def _rotation(transform: Any, form: Form) -> Made:
    about_the_middle(transform)
    if transform.expand:
        raise Refusal("expand=True gives every picture a size of its own: the canvas stays as it is")
    return made(ops.Rotate(tuple(transform.degrees), **sampling(transform, form)))


@converts("RandomAffine")
def _affine(transform: Any, form: Form) -> Made:
    about_the_middle(transform)
    given = {name: getattr(transform, name) for name in ("translate", "scale", "shear")}
    ranges = {name: tuple(value) for name, value in given.items() if value is not None}
    return made(ops.Affine(tuple(transform.degrees), **ranges, **sampling(transform, form)))


@converts("RandomPerspective")
def _perspective(transform: Any, form: Form) -> Made:
    return made(ops.Perspective(transform.distortion_scale, p=transform.p, **sampling(transform, form)))


@converts("ElasticTransform")
def _elastic(transform: Any, form: Form) -> Made:
    alpha, sigma = numbers(transform.alpha), numbers(transform.sigma)
    return made(ops.Elastic(alpha, sigma, **sampling(transform, form)))


# Colour -------------------------------------------------------------------------------------------------------------


@converts("ColorJitter")
def _color_jitter(transform: Any, form: Form) -> Made:
    form.colours("ColorJitter")
    given = {name: getattr(transform, name) for name in ("brightness", "contrast", "saturation", "hue")}
    ranges = {name: tuple(value) for name, value in given.items() if value is not None}
    return made(ops.ColorJitter(**ranges)) if ranges else made(note="it changes nothing")


@converts("RandomPhotometricDistort")
def _photometric_distort(transform: Any, form: Form) -> Made:
    form.colours("RandomPhotometricDistort")
    ranges = {name: tuple(getattr(transform, name)) for name in ("brightness", "contrast", "saturation", "hue")}
    return made(ops.PhotometricDistort(**ranges, p=transform.p))


@converts("RandomChannelPermutation")
def _permutation(transform: Any, form: Form) -> Made:
    return made(ops.ChannelShuffle())


@converts("Grayscale")
def _grayscale(transform: Any, form: Form) -> Made:
    if transform.num_output_channels != form.channels:
        raise Refusal(
            f"it makes pictures of {form.channels} channels into such of {transform.num_output_channels}: their number "
            f"stays; give it num_output_channels={form.channels}"
        )
    form.colours("Grayscale")
    return made(ops.Grayscale(p=1.0)) if form.channels == 3 else made()


@converts("RandomGrayscale")
def _random_grayscale(transform: Any, form: Form) -> Made:
    form.colours("RandomGrayscale")
    return made(ops.Grayscale(p=transform.p))


@converts("RGB")
def _rgb(transform: Any, form: Form) -> Made:
    if form.channels != 3:
        raise Refusal("it makes grey pictures into such of three channels: their number stays")
    return made(note="pictures are decoded as RGB")


@converts("RandomInvert")
def _invert(transform: Any, form: Form) -> Made:
    form.colours("RandomInvert")
    return made(ops.Invert(p=transform.p))


@converts("RandomPosterize")
def _posterize(transform: Any, form: Form) -> Made:
    form.colours("RandomPosterize")
    return made(ops.Posterize((transform.bits, transform.bits), p=transform.p))


@converts("RandomSolarize")
def _solarize(transform: Any, form: Form) -> Made:
    form.colours("RandomSolarize")
    threshold = float(form.pixel(float(transform.threshold)))
    return made(ops.Solarize((threshold, threshold), p=transform.p))


@converts("RandomAdjustSharpness")
def _sharpness(transform: Any, form: Form) -> Made:
    form.colours("RandomAdjustSharpness")
    factor = float(transform.sharpness_factor)
    return made(ops.Sharpness((factor, factor), p=transform.p))


@converts("RandomAutocontrast")
def _autocontrast(transform: Any, form: Form) -> Made:
    form.colours("RandomAutocontrast")
    return made(ops.AutoContrast(p=transform.p))


@converts("RandomEqualize")
def _equalize(transform: Any, form: Form) -> Made:
    form.colours("RandomEqualize")
    return made(ops.Equalize(p=transform.p))


# Blur, noise, erasing -----------------------------------------------------------------------------------------------


@converts("GaussianBlur")
def _blur(transform: Any, form: Form) -> Made:
    sigma = numbers(transform.sigma)
    return made(ops.GaussianBlur(pair(transform.kernel_size), (sigma[0], sigma[-1])))


@converts("GaussianNoise")
def _noise(transform: Any, form: Form) -> Made:
    form.colours("GaussianNoise")
    if not transform.clip:
        raise Refusal("clip=False leaves values outside 0..1: ours are clipped; give it clip=True")
    sigma = 255.0 * transform.sigma
    return made(ops.GaussianNoise(255.0 * transform.mean, (sigma, sigma)))


@converts("JPEG")
def _jpeg(transform: Any, form: Form) -> Made:
    if form.is_float:
        raise Refusal("torchvision compresses uint8 pictures only: put it before the conversion to float")
    return made(ops.JpegCompression(tuple(transform.quality)))


@converts("RandomErasing")
def _erasing(transform: Any, form: Form) -> Made:
    value = transform.value
    if value is None or isinstance(value, str):
        value = "random"
    else:
        values = numbers(value)
        value = values if len(values) > 1 else values[0]
    return made(erasing(form, value, scale=tuple(transform.scale), ratio=tuple(transform.ratio), p=transform.p))


def erasing(form: Form, value: Any, **fields: Any) -> ops.RandomErasing:
    """``value``: of the form. Until it is known what comes after, it stays so."""
    if value == "random" and not form.is_float:
        raise Refusal("it erases uint8 pictures by normal noise, of which 0, 1 and 255 are left: put it after ToDtype")
    return ops.RandomErasing(value=value, **fields)


# Policies and mixing ------------------------------------------------------------------------------------------------


def _sampled(transform: Any, form: Form) -> dict[str, Any]:
    form.colours(type(transform).__name__)
    return sampling(transform, form)


@converts("AutoAugment")
def _auto_augment(transform: Any, form: Form) -> Made:
    return made(ops.AutoAugment(transform.policy.value, **_sampled(transform, form)))


@converts("RandAugment")
def _rand_augment(transform: Any, form: Form) -> Made:
    bins = transform.num_magnitude_bins
    return made(ops.RandAugment(transform.num_ops, transform.magnitude, bins, **_sampled(transform, form)))


@converts("TrivialAugmentWide")
def _trivial_augment(transform: Any, form: Form) -> Made:
    return made(ops.TrivialAugmentWide(transform.num_magnitude_bins, **_sampled(transform, form)))


@converts("AugMix")
def _augmix(transform: Any, form: Form) -> Made:
    fields = {"width": transform.mixture_width, "depth": transform.chain_depth, "alpha": float(transform.alpha)}
    fields |= {"severity": transform.severity, "all_ops": transform.all_ops}
    return made(ops.AugMix(**fields, **_sampled(transform, form)))


PARTNERS = "drawn for each sample and its partner in a group of the batch, not once for the whole batch"


@converts("MixUp", "RandomMixUp", "RandomMixup")
def _mixup(transform: Any, form: Form) -> Made:
    fields = {"num_classes": transform.num_classes, "p": float(getattr(transform, "p", 1.0))}
    return made(mix.MixUp(float(transform.alpha), **fields), note=PARTNERS)


@converts("CutMix", "RandomCutMix", "RandomCutmix")
def _cutmix(transform: Any, form: Form) -> Made:
    fields = {"num_classes": transform.num_classes, "p": float(getattr(transform, "p", 1.0))}
    return made(mix.CutMix(float(transform.alpha), **fields), note=PARTNERS)


# Types and values ---------------------------------------------------------------------------------------------------


@converts("ToTensor")
def _to_tensor(transform: Any, form: Form) -> Made:
    if form.backend == "tensor":
        raise Refusal("ToTensor takes PIL pictures and arrays, but here comes a tensor: leave it out")
    return Made(form=replace(scaled(form, torch.float32, scale=True), backend="tensor"))


@converts("PILToTensor", "ToImage")
def _to_image(transform: Any, form: Form) -> Made:
    return Made(form=replace(form, backend="tensor"))


@converts("ToPILImage")
def _to_pil(transform: Any, form: Form) -> Made:
    if transform.mode not in (None, "RGB" if form.channels == 3 else "L"):
        raise Refusal(f"it makes pictures of mode {transform.mode}: they stay {'RGB' if form.channels == 3 else 'L'}")
    return Made(form=replace(scaled(form, torch.uint8, scale=form.is_float), backend="pil"))


@converts("ConvertImageDtype")
def _convert_dtype(transform: Any, form: Form) -> Made:
    return Made(form=_cast(form, transform.dtype, scale=True))


@converts("ToDtype")
def _to_dtype(transform: Any, form: Form) -> Made:
    dtype, note = transform.dtype, ""
    if isinstance(dtype, Mapping):
        by_name = {key if isinstance(key, str) else key.__name__: one for key, one in dtype.items()}
        dtype = next((by_name[name] for name in ("Image", "Tensor", "others") if name in by_name), None)
        if by_name.get("Mask") not in (None, torch.int64):
            note = f"masks come as int64, not {by_name['Mask']}"
    return Made(form=form if dtype is None else _cast(form, dtype, scale=transform.scale), note=note)


def _cast(form: Form, dtype: torch.dtype, *, scale: bool) -> Form:
    if form.backend == "pil":
        raise Refusal("it leaves PIL pictures as they are; put ToImage or PILToTensor before it")
    return scaled(form, dtype, scale=scale)


@converts("Normalize")
def _normalize(transform: Any, form: Form) -> Made:
    if not form.is_float:
        raise Refusal("torchvision normalises float tensors only; put ToDtype(torch.float32, scale=True) before it")
    return Made(form=form.normalised(numbers(transform.mean), numbers(transform.std)))


@converts("Identity", "ToPureTensor")
def _nothing(transform: Any, form: Form) -> Made:
    return made()


@converts("ClampBoundingBoxes", "ClampKeyPoints", "SetClampingMode", "SanitizeBoundingBoxes", "SanitizeKeyPoints")
@converts("ConvertBoundingBoxFormat", "RandomIoUCrop")
def _boxes(transform: Any, form: Form) -> Made:
    raise Refusal("it looks at bounding boxes or key points, which a policy for pictures does not see")


@converts("UniformTemporalSubsample")
def _video(transform: Any, form: Form) -> Made:
    raise Refusal("it is for videos")


@converts("LinearTransformation")
def _linear(transform: Any, form: Form) -> Made:
    raise Refusal("it multiplies each picture by a matrix over all of its pixels: do so on the batch that comes out")


@converts("Lambda")
def _lambda(transform: Any, form: Form) -> Made:
    name = getattr(transform.lambd, "__qualname__", type(transform.lambd).__name__)
    raise Refusal(f"it calls {name}, which nobody but Python can look into")


# What weights bring along -------------------------------------------------------------------------------------------


@converts("ImageClassification", "SemanticSegmentation")
def _preset(transform: Any, form: Form) -> Made:
    nodes: list[Any] = []
    if transform.resize_size is not None:
        size = pair(transform.resize_size) if len(transform.resize_size) == 2 else int(transform.resize_size[0])
        nodes.append(ops.Resize(size, interpolation=resampling(transform, form)))
    if hasattr(transform, "crop_size"):
        nodes.append(ops.CenterCrop(pair(transform.crop_size), fill=colour(0, form)))
    form = replace(scaled(form, torch.float32, scale=True), backend="tensor")
    return Made(tuple(nodes), form.normalised(numbers(transform.mean), numbers(transform.std)))


@converts("ObjectDetection")
def _detection_preset(transform: Any, form: Form) -> Made:
    return Made(form=replace(scaled(form, torch.float32, scale=True), backend="tensor"))


@converts("VideoClassification", "OpticalFlow", "StereoMatching")
def _other_preset(transform: Any, form: Form) -> Made:
    raise Refusal("it is for videos and pairs of pictures")


def _is_v2(transform: Any) -> bool:
    return ".v2." in type(transform).__module__


# The scripts of torchvision's references/ have transforms of their own -----------------------------------------------

in_references = Table()


@in_references("PadIfSmaller")
def _pad_if_smaller(transform: Any, form: Form) -> Made:
    return made(ops.PadTo(pair(transform.size), fill=colour(transform.fill, form)))


@in_references("RandomCrop")
def _reference_crop(transform: Any, form: Form) -> Made:
    """It pads what is smaller, below and to the right."""
    size = pair(transform.size)
    return made(ops.PadTo(size, fill=colour(0, form)), ops.RandomCrop(size))


@in_references("RandomHorizontalFlip")
def _reference_flip(transform: Any, form: Form) -> Made:
    return made(ops.HorizontalFlip(p=transform.flip_prob))


@in_references("RandomResize")
def _reference_resize(transform: Any, form: Form) -> Made:
    return made(ops.RandomResize(transform.min_size, transform.max_size + 1))


@in_references("ToDtype")
def _reference_dtype(transform: Any, form: Form) -> Made:
    return Made(form=_cast(form, transform.dtype, scale=transform.scale))


in_references.converters |= {
    name: converts.converters[name]
    for name in ("CenterCrop", "PILToTensor", "Normalize", "RandomMixUp", "RandomMixup", "RandomCutMix", "RandomCutmix")
}

HELD_IN_REFERENCES = {
    "PadIfSmaller": {"size", "fill"},
    "RandomCrop": {"size"},
    "CenterCrop": {"size"},
    "RandomHorizontalFlip": {"flip_prob"},
    "RandomResize": {"min_size", "max_size"},
    "PILToTensor": set(),
    "ToDtype": {"dtype", "scale"},
    "Normalize": {"mean", "std"},
    **dict.fromkeys(("RandomMixUp", "RandomMixup"), {"num_classes", "p", "alpha", "inplace"}),
    **dict.fromkeys(("RandomCutMix", "RandomCutmix"), {"num_classes", "p", "alpha", "inplace"}),
}
"""By class, the attributes that an object of it has."""
