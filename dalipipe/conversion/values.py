"""torchvision's transforms of types and values, those that pictures alone do not say, and its presets: what each
becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dalipipe.conversion.forms import Form, Made, Refusal, Table, colour, made, numbers, pair, scaled
from dalipipe.conversion.torchvision import resampling
from dalipipe.ops import image as ops

converts = Table()

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
    return Made(form=cast(form, transform.dtype, scale=True))


@converts("ToDtype")
def _to_dtype(transform: Any, form: Form) -> Made:
    dtype, note = transform.dtype, ""
    if isinstance(dtype, Mapping):
        by_name = {key if isinstance(key, str) else key.__name__: one for key, one in dtype.items()}
        dtype = next((by_name[name] for name in ("Image", "Tensor", "others") if name in by_name), None)
        if by_name.get("Mask") not in (None, torch.int64):
            note = f"masks come as int64, not {by_name['Mask']}"
    return Made(form=form if dtype is None else cast(form, dtype, scale=transform.scale), note=note)


def cast(form: Form, dtype: torch.dtype, *, scale: bool) -> Form:
    if form.backend == "pil":
        raise Refusal("it leaves PIL pictures as they are; put ToImage or PILToTensor before it")
    return scaled(form, dtype, scale=scale)


@converts("Normalize")
def _normalize(transform: Any, form: Form) -> Made:
    if not form.is_float:
        raise Refusal("torchvision normalises float tensors only; put ToDtype(torch.float32, scale=True) before it")
    form = form.normalised(numbers(transform.mean), numbers(transform.std))
    ops.Normalize(form.mean, form.std)  # which checks them
    return Made(form=form)


@converts("Identity", "ToPureTensor")
def _nothing(transform: Any, form: Form) -> Made:
    return made()


@converts("ClampBoundingBoxes", "ClampKeyPoints", "SetClampingMode")
def _clamp(transform: Any, form: Form) -> Made:
    return made(note="boxes and points are clipped to their picture in any case")


@converts("SanitizeBoundingBoxes", "SanitizeKeyPoints")
def _sanitize(transform: Any, form: Form) -> Made:
    raise Refusal("which boxes are dropped is said in the data set's fields: Field(..., sanitize_px=...)")


@converts("ConvertBoundingBoxFormat")
def _box_format(transform: Any, form: Form) -> Made:
    raise Refusal("how boxes are written is said in the data set's fields: Field(..., format=...)")


@converts("RandomIoUCrop")
def _iou_crop(transform: Any, form: Form) -> Made:
    raise Refusal("it crops by where the bounding boxes are, which is not known when crops are drawn")


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
