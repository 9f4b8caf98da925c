"""Image operators by name.

By what they do: `geometry` and `fitting` (sizes that other libraries choose), `colour`, `filters`, `occlusion`; the
automatic policies of the field in `auto` and `timm_auto`. `families` says what an operator may be, and what folds.

What fields of one name have in common: ``p``: probability that a sample is touched, 0..1. ``size``: px, a whole number
or (height, width). ``fill``: what stands outside the picture, one value or (R, G, B), 0..255. ``interpolation``:
"bilinear", "bicubic", "nearest", or "random", bilinear or bicubic for each sample. A range: (low, high), uniform, or a
`policy.Range`.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from dalipipe.ops.image.auto import AugMix, AutoAugment, Mixture, RandAugment, TrivialAugmentWide
from dalipipe.ops.image.colour import (
    AutoContrast,
    Brightness,
    ChannelShuffle,
    ColorJitter,
    Contrast,
    Equalize,
    Gamma,
    Grayscale,
    Hue,
    Invert,
    PhotometricDistort,
    Posterize,
    Saturation,
    Solarize,
    SolarizeAdd,
)
from dalipipe.ops.image.families import (
    BlendOp,
    Colour,
    ColourOp,
    CropOp,
    ElasticOp,
    EraseOp,
    FilterOp,
    FlipOp,
    HueOp,
    ImageOp,
    Interpolation,
    ResizeOp,
    Size,
    StretchOp,
    TableOp,
    WarpOp,
    fill_rgb,
)
from dalipipe.ops.image.filters import (
    GaussianBlur,
    GaussianNoise,
    JpegCompression,
    MotionBlur,
    SaltAndPepper,
    Sharpness,
)
from dalipipe.ops.image.fitting import PadTo, RandomShortestSize, ResizeKeepRatio, ScaleJitter, ShrinkTo, ZoomOut
from dalipipe.ops.image.geometry import (
    Affine,
    CenterCrop,
    Elastic,
    HorizontalFlip,
    Pad,
    Perspective,
    RandomCrop,
    RandomResize,
    RandomResizedCrop,
    Resize,
    Rotate,
    Scale,
    Shear,
    Translate,
    TranslatePx,
    VerticalFlip,
)
from dalipipe.ops.image.occlusion import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Cutout,
    GridMask,
    Normalize,
    RandomErasing,
)
from dalipipe.ops.image.timm_auto import timm_rand_augment

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD"]
__all__ += ["BlendOp", "Colour", "ColourOp", "CropOp", "ElasticOp", "EraseOp", "FilterOp", "FlipOp", "HueOp", "ImageOp"]
__all__ += ["Interpolation", "ResizeOp", "Size", "StretchOp", "TableOp", "WarpOp", "fill_rgb"]
__all__ += ["Affine", "CenterCrop", "Elastic", "HorizontalFlip", "Pad", "Perspective", "RandomCrop", "RandomResize"]
__all__ += ["RandomResizedCrop", "Resize", "Rotate", "Scale", "Shear", "Translate", "TranslatePx", "VerticalFlip"]
__all__ += ["PadTo", "RandomShortestSize", "ResizeKeepRatio", "ScaleJitter", "ShrinkTo", "ZoomOut"]
__all__ += ["AutoContrast", "Brightness", "ChannelShuffle", "ColorJitter", "Contrast", "Equalize", "Gamma", "Grayscale"]
__all__ += ["Hue", "Invert", "PhotometricDistort", "Posterize", "Saturation", "Solarize", "SolarizeAdd"]
__all__ += ["GaussianBlur", "GaussianNoise", "JpegCompression", "MotionBlur", "SaltAndPepper", "Sharpness"]
__all__ += ["Cutout", "GridMask", "Normalize", "RandomErasing"]
__all__ += ["AugMix", "AutoAugment", "Mixture", "RandAugment", "TrivialAugmentWide", "timm_rand_augment"]
