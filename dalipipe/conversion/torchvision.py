"""torchvision's transforms, v1 and v2, but for those of types and values: what each becomes."""

from __future__ import annotations

from typing import Any

from dalipipe.conversion.forms import (
    Form,
    Made,
    Refusal,
    Table,
    colour,
    interpolation,
    is_v2,
    made,
    numbers,
    pair,
)
from dalipipe.ops import image as ops
from dalipipe.ops import mix

converts = Table()

# Sizes and crops ----------------------------------------------------------------------------------------------------


def resampling(transform: Any, form: Form) -> Any:
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
    ranges: dict[str, Any] = {"scale": tuple(transform.scale), "ratio": tuple(transform.ratio)}
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
    if around is not None and is_v2(transform):  # it keeps them as left, right, top, bottom
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
    ranges: dict[str, Any] = {name: tuple(value) for name, value in given.items() if value is not None}
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
