// Mixing the samples of a finished batch with each other, in pairs: MixUp and CutMix. Written once for host and device;
// its specification in numpy is `dalipipe.ops.mix.mix`.
#pragma once

#include <cstdint>

#include "ops.h"
#include "pixel.h"
#include "tensor.h"

namespace dalipipe {

// Two samples, each of which takes something of the other. Both are read before either is written, so what a sample
// takes is what its partner was. Mirrored by `dalipipe.native.MIX_PAIR`.
struct MixPair {
  int32_t rows[2];      // which samples of the batch
  float weights[2];     // of each one's own pixels, 0 ... 1, the rest being its partner's; 1: they stay to the bit
  int32_t boxes[2][4];  // y, x, h, w, px inside the picture: where each shows its partner alone; h or w 0: nowhere
};
static_assert(sizeof(MixPair) == 48, "keep dalipipe.native.MIX_PAIR in step");

struct MixParams {
  const MixPair* pairs;  // [pair_count]; host; no sample stands in two of them
  int32_t pair_count;
  int32_t n, channels, h, w;
  DType dtype;
  Layout layout;
  void* batch;  // [N, C, H, W] or [N, H, W, C], dense, finite; in place; host for _cpu, device for _cuda
};

// Throws std::invalid_argument naming the pair, what was expected and what came.
void check_mix(const MixParams& p);
void mix_cpu(const MixParams& p, int32_t threads);
// Asynchronous on `stream` (a cudaStream_t); the pairs need not outlive the call.
void mix_cuda(const MixParams& p, void* stream);

// What becomes of a pixel: it stays to the bit, is blended, or becomes its partner's to the bit.
enum class Mixing : int32_t { keep = 0, blend = 1, take = 2 };

DP_HD bool in_box(const int32_t* box, int32_t y, int32_t x) {
  return y >= box[0] && y < box[0] + box[2] && x >= box[1] && x < box[1] + box[3];
}

DP_HD Mixing mixing(const MixPair& pair, int32_t side, int32_t y, int32_t x) {
  if (in_box(pair.boxes[side], y, x)) return Mixing::take;
  return pair.weights[side] == 1.0f ? Mixing::keep : Mixing::blend;
}

DP_HD float blend(float weight, float own, float other) { return weight * own + (1.0f - weight) * other; }

// From IEEE half precision: exact. Below 2^-14 the fraction counts units of 2^-24, as a float's does at 0.5.
DP_HD float from_float16(uint16_t v) {
  const uint32_t sign = static_cast<uint32_t>(v & 0x8000u) << 16, magnitude = v & 0x7fffu;
  const uint32_t small = float_bits(bits_float(float_bits(0.5f) + magnitude) - 0.5f);
  const uint32_t normal = (magnitude << 13) + (magnitude < 0x7c00u ? 112u << 23 : 224u << 23);
  return bits_float(sign | (magnitude < 0x400u ? small : normal));
}

// A stored value as the float it stands for, and back.
DP_HD float value_of(Cast<DType::uint8>, uint8_t v) { return static_cast<float>(v); }
DP_HD float value_of(Cast<DType::float16>, uint16_t v) { return from_float16(v); }
DP_HD float value_of(Cast<DType::bfloat16>, uint16_t v) { return bits_float(static_cast<uint32_t>(v) << 16); }
DP_HD float value_of(Cast<DType::float32>, float v) { return v; }

template <typename C>
DP_HD typename C::type stored(C, float v) {
  return C::from(v);
}
DP_HD uint8_t stored(Cast<DType::uint8>, float v) { return round_byte(v); }  // between two bytes: nothing to clamp

// `own` after mixing with `other`, in floats and rounded once: uint8 with halves up, halves and bfloat16 to even.
template <typename C>
DP_HD typename C::type mixed(C cast, Mixing how, float weight, typename C::type own, typename C::type other) {
  if (how == Mixing::keep) return own;
  if (how == Mixing::take) return other;
  return stored(cast, blend(weight, value_of(cast, own), value_of(cast, other)));
}

}  // namespace dalipipe
