"""Operators on signals: sounds and other series, by what they change.

`families`: what folds into passes; `time`, `level`, `gaps`, `spectra`; `curves`: what some of them follow.
"""

from dalipipe.ops.signal.families import (
    BiquadOp,
    ChannelsOp,
    CurveOp,
    Edge,
    GainOp,
    LineOp,
    NoiseOp,
    PassOp,
    PlusOp,
    ShiftOp,
    SignalOp,
    SoundOp,
    SpectralOp,
    TimesOp,
    WindowOp,
)
from dalipipe.ops.signal.gaps import (
    Dropout,
    FrequencyMask,
    SpecAugment,
    SpecTimeMask,
    SpecTimeWarp,
    TimeCutout,
    TimeMask,
)
from dalipipe.ops.signal.level import (
    AddBackgroundNoise,
    AddColorNoise,
    AddGaussianNoise,
    AddGaussianSNR,
    BandPassFilter,
    Drift,
    Gain,
    HighPassFilter,
    Jitter,
    LowPassFilter,
    MagnitudeWarp,
    PolarityInversion,
    Rotation,
    Scaling,
)
from dalipipe.ops.signal.spectra import MFCC, FeatureOp, MelSpectrogram, PitchShift, Resample, TimeStretch, VocoderOp
from dalipipe.ops.signal.time import (
    AdjustDuration,
    Permutation,
    RandomTimeCrop,
    Reverse,
    TimeFlip,
    TimeResize,
    TimeShift,
    TimeWarp,
    WindowSlice,
    WindowWarp,
)

__all__ = ["BiquadOp", "ChannelsOp", "CurveOp", "Edge", "FeatureOp", "GainOp", "LineOp", "NoiseOp", "PassOp", "PlusOp"]
__all__ += ["ShiftOp", "SignalOp", "SoundOp", "SpectralOp", "TimesOp", "VocoderOp", "WindowOp"]
__all__ += ["Dropout", "FrequencyMask", "SpecAugment", "SpecTimeMask", "SpecTimeWarp", "TimeCutout", "TimeMask"]
__all__ += ["AddBackgroundNoise", "AddColorNoise", "AddGaussianNoise", "AddGaussianSNR", "BandPassFilter", "Drift"]
__all__ += ["Gain", "HighPassFilter", "Jitter", "LowPassFilter", "MagnitudeWarp", "PolarityInversion", "Rotation"]
__all__ += ["Scaling"]
__all__ += ["MFCC", "MelSpectrogram", "PitchShift", "Resample", "TimeStretch"]
__all__ += ["AdjustDuration", "Permutation", "RandomTimeCrop", "Reverse", "TimeFlip", "TimeResize", "TimeShift"]
__all__ += ["TimeWarp", "WindowSlice", "WindowWarp"]
