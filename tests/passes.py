"""Batches for the fused image operator at random, and what it makes of them in plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dalipipe import native
from dalipipe.ops import filtering, pixels

DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)

BILINEAR, BICUBIC, NEAREST = range(3)


def cubic_filter(x):
    """Keys' cubic with a = -0.5, at distances x."""
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def taps(size_in, size_out, resample=BILINEAR):
    """The filter of torch's uint8 resize: (first input px, int weights) of each output, and the precision."""
    if size_in == size_out:
        return [(i, np.int64([1 << 14])) for i in range(size_in)], 14
    scale = size_in / size_out
    if resample == NEAREST:
        at = (np.arange(size_out, dtype=np.float32) * (np.float32(size_in) / np.float32(size_out))).astype(int)
        return [(min(i, size_in - 1), np.int64([1 << 14])) for i in at.tolist()], 14
    support = max(scale, 1.0) * (2 if resample == BICUBIC else 1)
    exact = []
    for i in range(size_out):
        centre = scale * (i + 0.5)
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), size_in)
        j = np.arange(low, high, dtype=np.float64)
        distance = np.abs((j - centre + 0.5) * (1 / scale if scale >= 1 else 1.0))
        weights = cubic_filter(distance) if resample == BICUBIC else np.maximum(1 - distance, 0)
        exact.append((low, weights / np.cumsum(weights)[-1]))  # cumsum adds one by one, as a loop does; sum does not
    greatest = max(weights.max() for _, weights in exact)
    precision = next((p for p in range(22) if int(0.5 + greatest * (1 << (p + 1))) >= 1 << 15), 22)
    return [(low, np.trunc(w * (1 << precision) + np.copysign(0.5, w)).astype(np.int64)) for low, w in exact], precision


def resize_axis(image, size_out, resample=BILINEAR):
    """[in, ...] uint8 → [out, ...]."""
    out = np.empty((size_out, *image.shape[1:]), np.uint8)
    rows, precision = taps(image.shape[0], size_out, resample)
    for i, (low, weights) in enumerate(rows):
        total = np.tensordot(weights, image[low : low + len(weights)].astype(np.int64), 1)
        out[i] = np.clip((total + (1 << (precision - 1))) >> precision, 0, 255)
    return out


def warp(canvas, s, field):
    f, fill = np.float32, s["fill"][: canvas.shape[2]]
    y, x = np.mgrid[: s["out_h"], : s["out_w"]].astype(f)
    if field is not None:
        x, y = x + field[0], y + field[1]
    m = s["matrix"].astype(f)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        at = [(m[0] * x + m[1] * y) + m[2], (m[3] * x + m[4] * y) + m[5]]
        if tuple(m[6:]) != (0, 0, 1):
            w = (m[6] * x + m[7] * y) + m[8]
            at = [v / w for v in at]
    height, width = canvas.shape[:2]
    reach = 2 if s["warp"] == 3 else 1
    ends = [f(-reach), f(width - 1 + reach), f(-reach), f(height - 1 + reach)]
    at_x = np.clip(np.where(np.isnan(at[0]), ends[0], at[0]), ends[0], ends[1])
    at_y = np.clip(np.where(np.isnan(at[1]), ends[2], at[1]), ends[2], ends[3])

    def pick(iy, ix):
        inside = (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
        return np.where(inside[..., None], canvas[iy.clip(0, height - 1), ix.clip(0, width - 1)], fill).astype(f)

    if s["warp"] == 2:
        ix, iy = (np.rint(v).astype(int) for v in (at_x, at_y))
        return pick(iy, ix).astype(np.uint8)
    ix, iy = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    tx, ty = ((v - np.floor(v))[..., None] for v in (at_x, at_y))
    if s["warp"] == 3:

        def cubic(a, b, c, d, t):
            return b + t * ((c - a) + t * ((f(2) * (a - b) + (c - d)) + t * ((b - a) + (d - c))))

        rows = [cubic(*(pick(iy + r, ix + c) for c in (-1, 0, 1, 2)), tx) for r in (-1, 0, 1, 2)]
        return np.floor(np.clip(cubic(*rows, ty), f(0), f(255)) + f(0.5)).astype(np.uint8)
    a, b, c, d = pick(iy, ix), pick(iy, ix + 1), pick(iy + 1, ix), pick(iy + 1, ix + 1)
    upper, lower = a + (b - a) * tx, c + (d - c) * tx
    return np.floor(upper + (lower - upper) * ty + f(0.5)).astype(np.uint8)


def recolour(v, s):
    f, channels = np.float32, v.shape[2]
    mean = (v.reshape(-1, channels).astype(np.int64).sum(0) / (v.shape[0] * v.shape[1])).astype(f)
    m, k = s["colour_matrix"], s["colour_mean_matrix"]
    r, g, b = (v[..., c if channels == 3 else 0].astype(f) for c in range(3))
    mr, mg, mb = (mean[c if channels == 3 else 0] for c in range(3))
    out = []
    for c in range(channels):
        constant = ((k[c, 0] * mr + k[c, 1] * mg) + k[c, 2] * mb) + s["colour_offset"][c]
        out.append(np.clip(((m[c, 0] * r + m[c, 1] * g) + m[c, 2] * b) + constant, f(0), f(255)))
    return np.stack(out, -1).astype(np.uint8)


def run_pass(image, s, field, options):
    """One pass: what it takes up, uint8 [h,w,C], and its `IMAGE_PASS` → uint8 [out_h,out_w,C], not erased."""
    channels, kind = image.shape[2], s["resample"]
    crop = image[-s["origin_y"] :, -s["origin_x"] :][: s["crop_h"], : s["crop_w"]]
    columns = resize_axis(crop.transpose(1, 0, 2), s["resized_w"], kind).transpose(1, 0, 2)
    resized = resize_axis(columns, s["resized_h"], kind)
    canvas = np.empty((s["canvas_h"], s["canvas_w"], channels), np.uint8)
    canvas[:] = s["fill"][:channels]
    y, x = int(s["window_y"]) + np.arange(s["canvas_h"]), int(s["window_x"]) + np.arange(s["canvas_w"])
    in_y, in_x = (y >= 0) & (y < s["resized_h"]), (x >= 0) & (x < s["resized_w"])
    canvas[np.ix_(in_y, in_x)] = resized[np.ix_(y[in_y], x[in_x])]
    canvas = canvas[:: -1 if s["flip"] & 2 else 1, :: -1 if s["flip"] & 1 else 1]
    v = warp(canvas, s, field) if s["warp"] else canvas
    if s["filter"]:
        taps_h, taps_w, first = int(s["filter_h"]), int(s["filter_w"]), int(s["filter_weights"])
        params = {"values": s["filter_values"], "noise": s["noise"], "taps": np.array([taps_h, taps_w])}
        if taps_h:
            params["weights"] = options["weights"][first:]
        v = filtering.apply(int(s["filter"]), v, params)
    if s["stretch"]:
        v = pixels.stretch(v, int(s["stretch"]))
    if s["colour"]:
        v = recolour(v, s)
    if s["hue"]:
        v = pixels.hue(v, s["hue"])
    if s["table"] >= 0:
        table = options["tables"][s["table"]]
        v = np.stack([table[c][v[..., c]] for c in range(channels)], -1)
    return v


def erase(v, s, options):
    """The boxes of a pass, on float32 [h,w,C]."""
    for box in options["erases"][s["first_erase"] :][: s["erases"]] if s["erases"] else ():
        channels = v.shape[2]
        value = np.broadcast_to(box["values"][:channels], v.shape)
        normals = filtering.normals(box["noise"], v.shape)
        value = np.where(box["sigma"][:channels] != 0, value + box["sigma"][:channels] * normals, value)
        part = tuple(slice(max(at, 0), max(at + side, 0)) for at, side in ((box["y"], box["h"]), (box["x"], box["w"])))
        v[part] = value[part]
    return v


def to_byte(v):
    return np.floor(v.clip(0, 255) + np.float32(0.5)).astype(np.uint8)


def run_chain(stored, passes, fields, options):
    """All passes of a sample: uint8 [out_h,out_w,C], the last not erased."""
    v, kept, total = stored, None, None
    for j, s in enumerate(passes):
        last = j + 1 == len(passes)
        v = run_pass(kept if s["from_kept"] else v, s, fields[j], options)
        if not last:
            v = to_byte(erase(v.astype(np.float32), s, options))
        if s["blend"]:
            total = total + s["weight"] * v.astype(np.float32)
            if s["blend"] == 2:
                v = np.clip(total + s["kept_weight"] * kept.astype(np.float32), 0, 255).astype(np.uint8)
        if s["keep"]:
            kept, total = v, np.zeros(v.shape, np.float32)
    return v


# --- batches at random ---------------------------------------------------------------------------------------------


@dataclass
class Batch:
    passes: np.ndarray  # IMAGE_PASS [P]
    starts: np.ndarray
    fields: list  # displacement of each pass, float32 [2, out_h, out_w], or None
    stored: list  # what passes["data"] points into: uint8 [stored_h, row_bytes], one a sample
    channels: int
    out_hw: tuple
    dtype: torch.dtype
    layout: str
    options: dict

    def __len__(self):
        return len(self.starts) - 1

    def empty(self, device="cpu"):
        h, w = self.out_hw
        shape = (h, w, self.channels) if self.layout == "nhwc" else (self.channels, h, w)
        return torch.full((len(self), *shape), 77, dtype=torch.uint8, device=device).to(self.dtype)

    def run(self, threads=1, out=None):
        out = self.empty() if out is None else out
        self.start(out, threads).wait()
        return out

    def start(self, out, threads=1):
        return native.start_fused_image(
            self.passes, self.starts, out, channels=self.channels, layout=self.layout, threads=threads, **self.options
        )

    def reference(self):
        out = self.empty()
        for i in range(len(self)):
            chain = slice(self.starts[i], self.starts[i + 1])
            passes = self.passes[chain].copy()
            first = passes[0]
            part = self.stored[i][:, : first["stored_w"] * self.channels]
            image = np.zeros((first["crop_h"], first["crop_w"], self.channels), np.uint8)
            put_part(image, part.reshape(len(part), -1, self.channels), first["origin_y"], first["origin_x"])
            first["origin_y"] = first["origin_x"] = 0
            v = run_chain(image, passes, self.fields[chain], self.options).astype(np.float32)
            v = v * np.float32(self.options["scale"]) + np.float32(self.options["bias"])
            v = erase(v, passes[-1], self.options)
            v = torch.from_numpy(to_byte(v) if self.dtype == torch.uint8 else v)
            out[i] = (v if self.layout == "nhwc" else v.permute(2, 0, 1)).to(self.dtype)
        return out


def put_part(whole, part, y, x):
    """Pastes `part` at (y, x) of `whole`, as far as it lies in it."""
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + part.shape[0], whole.shape[0]), min(x + part.shape[1], whole.shape[1])
    if top < bottom and left < right:
        whole[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def new_pass(crop, resized, canvas, window=(0, 0), resample=BILINEAR):
    """An `IMAGE_PASS` that crops (y, x, h, w) out of what it gets and does nothing else to it but resizing."""
    s = np.zeros((), native.IMAGE_PASS)
    s["origin_y"], s["origin_x"], s["crop_h"], s["crop_w"] = -crop[0], -crop[1], *crop[2:]
    s["resized_h"], s["resized_w"] = resized
    s["window_y"], s["window_x"] = window
    s["canvas_h"], s["canvas_w"] = s["out_h"], s["out_w"] = canvas
    s["resample"], s["table"] = resample, -1
    s["matrix"] = np.eye(3).reshape(-1)
    return s


def make_sample(world, crop, resized, canvas, window=(0, 0), keep=(0, 0, 0, 0), pad_bytes=0, resample=BILINEAR):
    """A first pass whose crop (y, x, h, w) lies in `world`; `keep`: px of the world stored beyond what the window
    needs, on its left, top, right and bottom. Returns the pass and the stored pixels."""
    y, x, h, w = crop
    channels = world.shape[2]
    lows, highs = [], []
    for size, out, shown, offset in zip((h, w), resized, canvas, window, strict=True):
        first, end = max(offset, 0), min(offset + shown, out)
        spans = taps(size, out, resample)[0][first:end]
        lows.append(spans[0][0] if spans else 0)
        highs.append(max((low + len(weights) for low, weights in spans), default=1))
    top, left = max(y + lows[0] - keep[1], 0), max(x + lows[1] - keep[0], 0)
    bottom, right = y + highs[0] + keep[3], x + highs[1] + keep[2]
    part = world[top:bottom, left:right]
    stored = np.random.default_rng(0).integers(0, 256, (part.shape[0], part.shape[1] * channels + pad_bytes), np.uint8)
    stored[:, : part.shape[1] * channels] = part.reshape(part.shape[0], -1)
    s = new_pass(crop, resized, canvas, window, resample)
    s["data"], s["row_bytes"] = stored.ctypes.data, stored.strides[0]
    s["stored_h"], s["stored_w"] = part.shape[:2]
    s["origin_y"], s["origin_x"] = top - y, left - x
    return s, stored


class Random:
    """Draws batches: any that the operator takes, sides up to about `largest` px."""

    def __init__(self, seed, largest):
        self.rng, self.largest = np.random.default_rng(seed), largest
        self.tables, self.weights, self.erases, self.fields = [], [], [], []

    def side(self):
        rng, most = self.rng, self.largest + 1
        return int(rng.choice([1, 2, rng.integers(1, 9), rng.integers(1, most), rng.integers(1, most)]))

    def noise(self):
        return self.rng.integers(0, 2**32, 5, dtype=np.uint32)

    def geometry(self, out_hw, crop_hw):
        """(warp, resized, canvas, window) of a pass with this output."""
        rng = self.rng
        warped = int(rng.choice([0, 0, 1, 2, 3]))
        canvas = (self.side(), self.side()) if warped else out_hw
        resized = crop_hw if rng.random() < 0.25 else (self.side(), self.side())
        if rng.random() < 0.5:
            resized, canvas, window = (resized, resized, (0, 0)) if warped else (canvas, canvas, (0, 0))
        else:
            window = tuple(int(rng.integers(-c - 2, r + 3)) for c, r in zip(canvas, resized, strict=True))
        return warped, resized, canvas, window

    def fill_in(self, s, warped, out_hw, channels):
        """All but sizes, at random; s["out"] too."""
        rng = self.rng
        s["out_h"], s["out_w"] = out_hw
        s["flip"], s["warp"], s["fill"] = rng.integers(4), warped, rng.integers(0, 256, 4)
        field = None
        if warped:
            spread = 10.0 ** rng.integers(-2, 3)
            s["matrix"][:6] = np.float32([1, 0, 0, 0, 1, 0] + rng.normal(0, spread, 6) * rng.choice([0, 0.3, 1, 1], 6))
            if rng.random() < 0.05:
                s["matrix"][:6] = np.clip(s["matrix"][:6].astype(np.float64) * 1e37, -3e38, 3e38)
            if rng.random() < 0.3:
                s["matrix"][6:] = [*rng.normal(0, 0.01, 2), rng.choice([1, 0, 2, -1])]
            if rng.random() < 0.3:
                field = rng.normal(0, rng.choice([0.5, 30]), (2, *out_hw)).astype(np.float32)
                s["displacement"] = field.ctypes.data
        self.fields.append(field)
        if rng.random() < 0.4:
            self.filter(s)
        s["stretch"] = rng.choice([0, 0, 1, 2])
        s["colour"] = rng.integers(2)
        s["colour_matrix"] = np.eye(3) + rng.normal(0, 0.5, (3, 3))
        s["colour_mean_matrix"] = rng.normal(0, 0.3, (3, 3)) * rng.choice([0, 1])
        s["colour_offset"] = rng.normal(0, 40, 3)
        s["hue"] = rng.choice([0, 0, rng.uniform(-0.5, 0.5)])
        if rng.random() < 0.5:
            s["table"] = len(self.tables)
            self.tables.append(rng.integers(0, 256, (channels, 256), np.uint8))

    def filter(self, s):
        rng = self.rng
        kind = s["filter"] = rng.integers(1, 8)
        values = s["filter_values"]
        s["noise"] = self.noise()
        if kind == 1:
            values[0] = rng.choice([0, 0.5, 1, 1.7, 3])
        elif kind in (2, 3):
            s["filter_h"], s["filter_w"] = h, w = (2 * rng.integers(0, 5, 2) + 1).tolist()
            s["filter_weights"] = sum(map(len, self.weights))
            self.weights.append(rng.uniform(0, 2 / max(h, w), h + w if kind == 2 else h * w).astype(np.float32))
        elif kind == 4:
            values[:2] = rng.normal(0, 20), rng.choice([0, 5, 60])
        elif kind == 5:
            values[:2] = rng.choice([0, 0.1, 1]), rng.uniform()
        elif kind == 6:
            angle, unit = rng.uniform(0, 7), rng.uniform(2, 30)
            values[:6] = [unit, rng.uniform(0, unit), *rng.uniform(0, unit, 2), np.cos(angle), np.sin(angle)]
            values[6:9] = rng.uniform(0, 255, 3)
        else:
            values[0] = rng.integers(1, 101)

    def erase(self, s, normalised):
        """Boxes for a pass; of the last, in output units."""
        rng = self.rng
        n = int(rng.integers(0, 4))
        s["first_erase"], s["erases"] = len(self.erases), n
        for _ in range(n):
            box = np.zeros((), native.ERASE_BOX)
            box["y"], box["x"] = rng.integers(-5, self.largest, 2)
            box["h"], box["w"] = rng.integers(0, self.largest // 2 + 1, 2)
            box["values"] = rng.normal(0, 100 if normalised else 200, 3)
            box["sigma"] = rng.uniform(0, 50, 3) if rng.random() < 0.4 else 0
            box["noise"] = self.noise()
            self.erases.append(box)

    def chain(self, world, crop, out_hw, channels):
        """A sample's passes, the last giving out_hw, and its stored pixels."""
        rng = self.rng
        plan = [str(rng.choice(["one", "one", "several", "blend"]))][0]
        # (keeps, from_kept, blend) of each pass
        steps = {
            "one": [(0, 0, 0)],
            "several": [(0, 0, 0)] * int(rng.integers(2, 4)),
            "blend": [(1, 0, 0), (0, int(rng.integers(2)), 1), (0, 1, 0), (0, 0, 2)]
            + [(0, 0, 0)] * int(rng.integers(2)),
        }[plan]
        sizes = [out_hw if j + 1 == len(steps) else (self.side(), self.side()) for j in range(len(steps))]
        if plan == "blend":
            kept = sizes[3]
            sizes[0] = sizes[1] = kept
        passes, stored = [], None
        for j, (keep, from_kept, blend) in enumerate(steps):
            before = crop[2:] if j == 0 else sizes[0] if from_kept else sizes[j - 1]
            kind = int(rng.integers(3))
            if j == 0:
                warped, resized, canvas, window = self.geometry(sizes[0], before)
                s, stored = make_sample(
                    world, crop, resized, canvas, window, rng.integers(0, 4, 4).tolist(), int(rng.integers(0, 9)), kind
                )
            else:
                corner = [int(rng.integers(0, side)) for side in before]
                part = [int(rng.integers(1, side - at + 1)) for side, at in zip(before, corner, strict=True)]
                box = (0, 0, *before) if rng.random() < 0.5 else (*corner, *part)
                warped, resized, canvas, window = self.geometry(sizes[j], box[2:])
                s = new_pass(box, resized, canvas, window, kind)
            self.fill_in(s, warped, sizes[j], channels)
            s["keep"], s["from_kept"], s["blend"] = keep, from_kept, blend
            s["weight"], s["kept_weight"] = rng.uniform(0, 1, 2)
            if j + 1 < len(steps) and rng.random() < 0.5:
                self.erase(s, normalised=False)
            passes.append(s)
        return passes, stored


def random_batch(seed, largest=40, n=None):
    """Any batch the operator takes, sides up to about `largest` px."""
    random = Random(seed, largest)
    rng = random.rng
    n = int(rng.integers(1, 4)) if n is None else n
    channels, out_hw = int(rng.choice([1, 3])), (random.side(), random.side())
    dtype, layout = DTYPES[rng.integers(4)], ("nchw", "nhwc")[rng.integers(2)]
    normalised = dtype != torch.uint8
    chains, stored = [], []
    erased = rng.random() < 0.5
    for _ in range(n):
        crop_h, crop_w = random.side(), random.side()
        world = rng.integers(0, 256, (crop_h + 4, crop_w + 4, channels), np.uint8)
        if rng.random() < 0.3:
            world = (world > 127).astype(np.uint8) * 255
        passes, kept = random.chain(world, (2, 2, crop_h, crop_w), out_hw, channels)
        if erased:
            random.erase(passes[-1], normalised)
        chains.append(passes)
        stored.append(kept)
    options = {
        "scale": np.float32(rng.uniform(1e-4, 0.1, channels) if normalised else np.ones(channels)),
        "bias": np.float32(rng.normal(0, 2, channels) if normalised else np.zeros(channels)),
        "tables": np.array(random.tables, np.uint8).reshape(-1, channels, 256),
        "weights": np.concatenate([*random.weights, np.zeros(0, np.float32)]),
        "erases": np.array(random.erases, native.ERASE_BOX),
    }
    starts = np.cumsum([0, *map(len, chains)]).astype(np.int32)
    passes = np.array([s for chain in chains for s in chain], native.IMAGE_PASS)
    return Batch(passes, starts, random.fields, stored, channels, out_hw, dtype, layout, options)


def batch_of(samples, stored, out_hw, dtype=torch.uint8, layout="nhwc", channels=3, **options):
    """A batch of samples with a pass each and the same pixels."""
    passes = np.stack(samples)
    starts = np.arange(len(passes) + 1, dtype=np.int32)
    options = {"scale": [1] * channels, "bias": [0] * channels, **options}
    return Batch(passes, starts, [None] * len(passes), [stored] * len(passes), channels, out_hw, dtype, layout, options)
