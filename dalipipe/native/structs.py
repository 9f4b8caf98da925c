"""The structs that native code and Python share, as numpy dtypes, and the names of what is in them."""

from __future__ import annotations

import numpy as np


def _int32s(names: str) -> list[tuple[str, type]]:
    return [(name, np.int32) for name in names.split()]


#: One pass over one sample's pixels; mirrors `ImagePass` in csrc/ops.h, where each field is explained.
IMAGE_PASS = np.dtype(
    [
        ("data", np.uint64),
        ("row_bytes", np.int64),
        *_int32s("stored_h stored_w origin_y origin_x crop_h crop_w resized_h resized_w window_y window_x"),
        *_int32s("canvas_h canvas_w out_h out_w resample flip warp"),
        ("matrix", np.float32, 9),
        ("displacement", np.uint64),
        ("fill", np.uint8, 4),
        *_int32s("filter filter_h filter_w"),
        ("filter_weights", np.int64),
        ("filter_values", np.float32, 12),
        ("noise", np.uint32, 5),
        *_int32s("stretch colour"),
        ("colour_matrix", np.float32, (3, 3)),
        ("colour_mean_matrix", np.float32, (3, 3)),
        ("colour_offset", np.float32, 3),
        ("hue", np.float32),
        *_int32s("table first_erase erases from_kept keep blend"),
        ("weight", np.float32),
        ("kept_weight", np.float32),
    ],
    align=True,
)


#: A box set to a colour, or to noise about it; mirrors `EraseBox` in csrc/ops.h.
ERASE_BOX = np.dtype(
    [*_int32s("y x h w"), ("values", np.float32, 3), ("sigma", np.float32, 3), ("noise", np.uint32, 5)], align=True
)


#: The displacement of an elastic warp; mirrors `ElasticField` in csrc/ops.h.
ELASTIC_FIELD = np.dtype(
    [
        ("out", np.uint64),
        ("weights", np.uint64),
        *_int32s("h w"),
        ("taps", np.int32, 2),
        ("scale", np.float32, 2),
        ("noise", np.uint32, 5),
        ("unused", np.int32),
    ],
    align=True,
)


#: An operator to fold, and what was drawn of it; mirrors `FoldOp` in csrc/fold.h.
FOLD_OP = np.dtype(
    [
        *_int32s("family detail"),
        ("fill", np.int32, 3),
        *_int32s("normalised"),
        ("count", np.int64),
        ("width", np.int64),
        ("rows", np.uint64),
        ("params", np.uint64, 4),
        ("depths", np.uint64),
        ("value", np.float32, 3),
        ("sigma", np.float32),
    ],
    align=True,
)


#: A label map; mirrors `LabelMap` in csrc/labels.h.
LABEL_MAP = np.dtype([("data", np.uint64), ("row_bytes", np.int64), *_int32s("h w bytes unused")], align=True)


#: Two samples that take something of each other; mirrors `MixPair` in csrc/mix.h.
MIX_PAIR = np.dtype([("rows", np.int32, 2), ("weights", np.float32, 2), ("boxes", np.int32, (2, 4))])


#: One pass over one signal; mirrors `SignalPass` in csrc/signal.h, where each field is explained.
SIGNAL_PASS = np.dtype(
    [
        ("data", np.uint64),
        ("frame_step", np.int64),
        ("channel_step", np.int64),
        *_int32s("in_frames out_frames map edge interpolation direction"),
        ("start", np.int64),
        ("line_start", np.float64),
        ("line_rate", np.float64),
        *_int32s("position channel_gains"),
        ("gain", np.float32),
        *_int32s("first_biquad biquads gain_curve gain_curves added_curve added_curves noise noise_level"),
        ("level", np.float32),
        ("key", np.uint32, 5),
        ("noise_data", np.uint64),
        ("noise_frames", np.int64),
        ("noise_start", np.int64),
        *_int32s("first_window windows"),
    ],
    align=True,
)


#: Of a curve, from frame ``begin`` on: a polynomial of degree 3; mirrors `CurveSegment` in csrc/signal.h.
CURVE_SEGMENT = np.dtype([("begin", np.float64), ("c", np.float64, 4)])


#: Which segments a curve has; mirrors `Curve` in csrc/signal.h.
CURVE = np.dtype(_int32s("first count"))


#: What a channel is made from; mirrors `ChannelGain` in csrc/signal.h.
CHANNEL_GAIN = np.dtype([("from", np.int32), ("gain", np.float32)])


#: A second-order section; mirrors `Biquad` in csrc/signal.h.
BIQUAD = np.dtype([("b", np.float64, 3), ("a", np.float64, 2)])


#: Frames and channels that are filled; mirrors `SignalWindow` in csrc/signal.h.
SIGNAL_WINDOW = np.dtype([*_int32s("begin end fade_out fade_in first_channel end_channel fill"), ("value", np.float32)])


#: Where a sample's last pass writes; mirrors `SignalOut` in csrc/signal.h.
SIGNAL_OUT = np.dtype([("data", np.uint64), ("frame_step", np.int64), ("channel_step", np.int64), ("frames", np.int64)])


#: What an image file's header says; mirrors `ImageHeader` in csrc/io.h. Sizes in px, before orientation; 0: not found.
IMAGE_HEADER = np.dtype(
    [(name, np.int32) for name in ("kind", "height", "width", "channels", "bits", "orientation")]
    + [("flags", np.uint32)]
)


#: `IMAGE_HEADER["kind"]` → name.
IMAGE_KINDS = ("unknown", "jpeg", "png", "webp", "bmp", "gif", "tiff", "pnm")


#: Name → bit of `IMAGE_HEADER["flags"]`; csrc/io.h says what each means.
IMAGE_FLAGS = {
    name: 1 << bit
    for bit, name in enumerate(
        "progressive truncated animated alpha palette cmyk adobe ycck rgb lossless arithmetic hierarchical "
        "damaged restarts unusual".split()
    )
}


#: What a cut left of a JPEG file of tiles; mirrors `Cut` in csrc/jpeg/tiles.h. Sizes in px; `of_tiles` 0: no tiles.
CUT = np.dtype([("bytes", np.int64), *_int32s("y x height width tiles of_tiles")])


#: What is known of a stripped JPEG without looking into it; mirrors `JpegShape` in csrc/jpeg/stripped.h. ``across``,
#: ``down``: blocks of luma in an MCU; ``tile``: MCUs of a tile; ``row`` to ``columns``: which of the picture's tiles
#: there are.
JPEG_SHAPE = np.dtype(_int32s("height width components across down tile row column rows columns"))


#: Where a feature of a tf.train.Example lies; mirrors `Feature` in csrc/shards.h. Places and sizes in bytes.
FEATURE = np.dtype([(name, np.int64) for name in ("kind", "count", "list", "list_bytes", "first", "first_bytes")])


#: `FEATURE["kind"]` → name.
FEATURE_KINDS = ("absent", "bytes", "floats", "ints")


#: What the header of an audio file says; mirrors `AudioHeader` in csrc/audio.h, where each field is explained.
AUDIO_HEADER = np.dtype(
    [
        *_int32s("kind problem rate_hz channels sample codec"),
        ("frames", np.int64),
        ("promised", np.int64),
        ("data", np.int64),
    ],
    align=True,
)
AUDIO_KINDS = ("other", "wav", "flac", "ogg", "mp3")
AUDIO_PROBLEMS = ("", "no_format", "damaged", "codec", "no_data", "truncated")


#: A part of a WAV file to be read; mirrors `WavSegment` in csrc/audio.h.
WAV_SEGMENT = np.dtype(
    [
        *((name, np.int64) for name in "file first frames out bad".split()),
        *_int32s("mix unused"),
    ],
    align=True,
)
#: A channel of a signal on its way through spectra; mirrors `SpectralRow` in csrc/spectral.h.
SPECTRAL_ROW = np.dtype(
    [
        ("in", np.uint64),
        ("out", np.uint64),
        *[(name, np.int64) for name in "in_step analysed_at made_at stretched_at table".split()],
        ("rate", np.float64),
        ("step", np.float64),
        *_int32s("in_frames stretched_frames out_frames hop analysed made taps"),
        ("exponent", np.float32),
        ("key", np.uint32, 5),
        ("unused", np.int32),
    ],
    align=True,
)


#: A filter of the mel scale; mirrors `MelBand` in csrc/spectral.h.
MEL_BAND = np.dtype([*_int32s("first count"), ("weights", np.int64)], align=True)


#: The steps between signals and features, in the order of csrc/spectral.h's `SpectralStep`.
SPECTRAL_STEPS = ("cut", "vocode", "overlap", "resample", "mel", "clamp", "mix", "white", "colour", "level")


#: One edit to one text; mirrors `TokenPass` in csrc/token.h, where each field is explained.
TOKEN_PASS = np.dtype(
    [
        *_int32s("edit choices bag weights least token"),
        ("share", np.float64),
        ("key", np.uint32, 5),
        ("unused", np.int32),
    ],
    align=True,
)


#: `TOKEN_PASS["edit"]` → name, in the order of csrc/token.h's `TokenEdit`.
TOKEN_EDITS = tuple(
    "replace insert swap swap_neighbours remove draw draw_by_weight reverse mask cut shuffle resample punctuate".split()
)


#: Tokens that may stand for others, by address: ``starts`` of int32 [words + 1], ``tokens`` of int32 [count]; mirrors
#: `TokenChoices` in csrc/token.h.
TOKEN_CHOICES = np.dtype([("starts", np.uint64), ("tokens", np.uint64), *_int32s("words count")])


#: Tokens to draw from, by address, each of ``count``: ``tokens`` of int32, or 0: ``first`` and on; ``keep`` of uint32
#: and ``other`` of int32 entries, both or, for tokens that are all alike, neither; mirrors `TokenBag` in csrc/token.h.
TOKEN_BAG = np.dtype([("tokens", np.uint64), ("keep", np.uint64), ("other", np.uint64), *_int32s("count first")])


#: What tokens weigh, by address: ``weights`` of float32 [words]; mirrors `TokenWeights` in csrc/token.h.
TOKEN_WEIGHTS = np.dtype([("weights", np.uint64), *_int32s("words unused")])


#: A container of a policy; mirrors `GateBox` in csrc/gates.h.
GATE_BOX = np.dtype([*_int32s("kind column count first_edge low high"), ("p", np.float64)], align=True)


#: An operator of a policy; mirrors `GateLeaf` in csrc/gates.h.
GATE_LEAF = np.dtype([("p", np.float64), *_int32s("column first_gate gates unused")], align=True)


#: A gate that an operator stands behind; mirrors `Gate` in csrc/gates.h.
GATE = np.dtype(_int32s("box gate"))


#: Kinds of containers; their places are the numbers of `GateKind` in csrc/gates.h.
GATE_KINDS = ("all", "one_of", "some_of", "order")


#: An operator on texts, and what was drawn of it; mirrors `TokenFoldOp` in csrc/gates.h.
TOKEN_FOLD_OP = np.dtype(
    [
        ("rows", np.uint64),
        ("count", np.int64),
        ("share", np.uint64),
        ("noise", np.uint64),
        ("at", np.uint64),
        ("pattern", TOKEN_PASS),
    ],
    align=True,
)
