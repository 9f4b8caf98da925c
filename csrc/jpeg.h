// The arithmetic of baseline JPEG (ITU-T T.81) as libjpeg and libjpeg-turbo have it, to the bit: colour, sampling, the
// "islow" transforms and the IJG quantisers; everything but the entropy code (jpeg/huffman.h), which loses nothing.
// Integers (and one float product that gives an integer), written once for host and device.
//
// Encoding: RGB → Y, Cb, Cr → chroma halved both ways → blocks of 8x8, less 128 → fdct rows, fdct columns → level.
// Decoding: level * quantiser → idct columns, idct rows → sample → chroma doubled → RGB. A picture of one channel is Y
// alone.
//
// Encoding, a plane reaches beyond the picture up to whole blocks: Y repeats the last column and row; chroma halves the
// repeated columns and repeats the last halved row. Decoding, a doubled plane sees only its own ⌈h/2⌉ x ⌈w/2⌉.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace dalipipe {

constexpr int32_t kJpegBlock = 8;  // px of a block's side

// --- Colour (JFIF: ITU-R BT.601, full range), 16 bits of fraction

DP_HD int32_t jpeg_y(int32_t r, int32_t g, int32_t b) { return (19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16; }
DP_HD int32_t jpeg_cb(int32_t r, int32_t g, int32_t b) {
  return (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + (1 << 15) - 1) >> 16;
}
DP_HD int32_t jpeg_cr(int32_t r, int32_t g, int32_t b) {
  return (32768 * r - 27439 * g - 5329 * b + (128 << 16) + (1 << 15) - 1) >> 16;
}

DP_HD uint8_t jpeg_clamp(int32_t v) { return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v); }
DP_HD uint8_t jpeg_r(int32_t y, int32_t cr) { return jpeg_clamp(y + ((91881 * (cr - 128) + (1 << 15)) >> 16)); }
DP_HD uint8_t jpeg_g(int32_t y, int32_t cb, int32_t cr) {
  return jpeg_clamp(y + ((-22554 * (cb - 128) - 46802 * (cr - 128) + (1 << 15)) >> 16));
}
DP_HD uint8_t jpeg_b(int32_t y, int32_t cb) { return jpeg_clamp(y + ((116130 * (cb - 128) + (1 << 15)) >> 16)); }

// --- Sampling: chroma halved both ways (4:2:0), as it is written; read, also across (4:2:2) or down (4:4:0) alone

// The sum of the two by two pixels under a chroma sample → the sample, whose column x is; rounds down and up by turns.
DP_HD int32_t jpeg_halve(int32_t sum, int32_t x) { return (sum + 1 + (x & 1)) >> 2; }

// "Fancy" doubling: a sample counts three times as much as its neighbour, down and then across. A sample beyond the
// plane is the plane's last. Where chroma is at most kJpegPlainWidth wide, samples are just repeated.
constexpr int32_t kJpegPlainWidth = 2;
DP_HD int32_t jpeg_double_down(int32_t near, int32_t far) { return 3 * near + far; }
DP_HD int32_t jpeg_double_across(int32_t near, int32_t far, int32_t x) {  // x: the column of the picture
  return (3 * near + far + 8 - (x & 1)) >> 4;
}

// Doubled one way only; i: the column or row of the picture.
DP_HD int32_t jpeg_double(int32_t near, int32_t far, int32_t i) { return (3 * near + far + 1 + (i & 1)) >> 2; }

// Pixel (x, y) out of a chroma plane [h, w] (rows `stride` bytes apart).
DP_HD int32_t jpeg_chroma(const uint8_t* plane, int32_t stride, int32_t h, int32_t w, int32_t y, int32_t x) {
  const int32_t near_y = y / 2, near_x = x / 2;
  const uint8_t* near = plane + static_cast<int64_t>(near_y) * stride;
  if (w <= kJpegPlainWidth) return near[near_x];
  int32_t far_y = y & 1 ? near_y + 1 : near_y - 1, far_x = x & 1 ? near_x + 1 : near_x - 1;
  far_y = far_y < 0 ? 0 : far_y < h ? far_y : h - 1;
  far_x = far_x < 0 ? 0 : far_x < w ? far_x : w - 1;
  const uint8_t* far = plane + static_cast<int64_t>(far_y) * stride;
  return jpeg_double_across(jpeg_double_down(near[near_x], far[near_x]), jpeg_double_down(near[far_x], far[far_x]), x);
}

// The place, 8 * row + column, of coefficient k of the zigzag (T.81, figure A.6).
DP_HD constexpr int32_t jpeg_zigzag(int32_t k) {
  const bool lower = k > 35;  // the block's lower right half is its upper left one, turned
  int32_t along = lower ? 63 - k : k, diagonal = 0;
  while (along > diagonal) along -= ++diagonal;
  const int32_t row = diagonal & 1 ? along : diagonal - along, place = 7 * row + diagonal;
  return lower ? 63 - place : place;
}

// --- Quantisers: the examples of T.81's annex K, scaled by quality as the IJG do

// The quantiser, 1 ... 255, of coefficient k = 8 * row + column at quality 1 ... 100.
DP_HD int32_t jpeg_quantiser(int32_t quality, int32_t k, bool chroma) {
  const uint8_t luma_base[64] = {16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
                                 14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
                                 18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
                                 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99};
  const uint8_t chroma_base[16] = {17, 18, 24, 47, 18, 21, 26, 66, 24, 26, 56, 99, 47, 66, 99, 99};  // elsewhere 99
  const int32_t row = k / 8, column = k % 8;
  const int32_t base = !chroma ? luma_base[k] : row < 4 && column < 4 ? chroma_base[4 * row + column] : 99;
  const int32_t scale = quality < 50 ? 5000 / quality : 200 - 2 * quality;
  const int32_t scaled = (base * scale + 50) / 100;
  return scaled < 1 ? 1 : scaled > 255 ? 255 : scaled;
}

// What fdct leaves is eight times a coefficient; → the coefficient over its quantiser, to nearest, halves away from 0.
// Half is added to the whole number n that is divided: then the quotient is half a step or more away from an integer,
// and the product's error, 2^-22 of it at most, cannot carry it there, as n < 2^17.
DP_HD float jpeg_inverse(int32_t quantiser) { return 1.0f / static_cast<float>(8 * quantiser); }
DP_HD int32_t jpeg_level(int32_t v, int32_t quantiser, float inverse) {
  const int32_t magnitude = (v < 0 ? -v : v) + 4 * quantiser;
  const int32_t level = static_cast<int32_t>((static_cast<float>(magnitude) + 0.5f) * inverse);
  return v < 0 ? -level : level;
}

// --- Transforms of eight numbers: libjpeg's "islow" (after Loeffler, Ligtenberg, Moschytz, ICASSP 1989), 13 bits of
// fraction, 2 bits kept between the passes. Rows, then columns; inverse: columns, then rows.

DP_HD int32_t jpeg_descale(int32_t v, int32_t bits) { return (v + (1 << (bits - 1))) >> bits; }

// The part that both transforms' odd halves share, its own inverse but for the order of the inputs.
DP_HD void jpeg_odd(int32_t& a, int32_t& b, int32_t& c, int32_t& d) {
  const int32_t z5 = (a + b + c + d) * 9633;
  const int32_t z1 = (a + d) * -7373, z2 = (b + c) * -20995;
  const int32_t z3 = (a + c) * -16069 + z5, z4 = (b + d) * -3196 + z5;
  a = a * 2446 + z1 + z3;
  b = b * 16819 + z2 + z4;
  c = c * 25172 + z2 + z3;
  d = d * 12299 + z1 + z4;
}

// `plain`: bits that the sums lose (negative: gain); `scaled`: that the products lose.
DP_HD void jpeg_fdct(int32_t (&v)[8], int32_t plain, int32_t scaled) {
  const int32_t s0 = v[0] + v[7], s1 = v[1] + v[6], s2 = v[2] + v[5], s3 = v[3] + v[4];
  int32_t d0 = v[0] - v[7], d1 = v[1] - v[6], d2 = v[2] - v[5], d3 = v[3] - v[4];
  const int32_t even = s0 + s3, odd = s1 + s2, e = s0 - s3, f = s1 - s2;
  v[0] = plain < 0 ? (even + odd) * (1 << -plain) : jpeg_descale(even + odd, plain);
  v[4] = plain < 0 ? (even - odd) * (1 << -plain) : jpeg_descale(even - odd, plain);
  const int32_t z = (e + f) * 4433;
  v[2] = jpeg_descale(z + e * 6270, scaled);
  v[6] = jpeg_descale(z - f * 15137, scaled);
  jpeg_odd(d3, d2, d1, d0);
  v[1] = jpeg_descale(d0, scaled);
  v[3] = jpeg_descale(d1, scaled);
  v[5] = jpeg_descale(d2, scaled);
  v[7] = jpeg_descale(d3, scaled);
}
DP_HD void jpeg_fdct_row(int32_t (&v)[8]) { jpeg_fdct(v, -2, 11); }
DP_HD void jpeg_fdct_column(int32_t (&v)[8]) { jpeg_fdct(v, 2, 15); }

// What goes in has 16 bits, and what comes out of the columns is cut to them (no picture has more, but forged files
// have): then nothing overflows, and pairs of products can be summed in registers of 16 bits.
DP_HD int32_t jpeg_16_bits(int32_t v) { return v < -32768 ? -32768 : v > 32767 ? 32767 : v; }
DP_HD int32_t jpeg_dequantised(int32_t level, int32_t quantiser) { return static_cast<int16_t>(level * quantiser); }

DP_HD void jpeg_idct(int32_t (&v)[8], int32_t bits) {
  const int32_t e = v[2] * 4433 + v[6] * -10704, f = v[2] * 10703 + v[6] * 4433;
  const int32_t sum = v[0] * 8192 + v[4] * 8192, difference = v[0] * 8192 + v[4] * -8192;
  const int32_t s0 = sum + f, s1 = difference + e, s2 = difference - e, s3 = sum - f;
  const int32_t d0 = (v[7] * 2260 + v[1] * 11363) + (v[5] * 6437 + v[3] * 9633);
  const int32_t d1 = (v[7] * -6436 + v[1] * 9633) + (v[5] * -11362 + v[3] * -2259);
  const int32_t d2 = (v[7] * 9633 + v[1] * 6437) + (v[5] * 2261 + v[3] * -11362);
  const int32_t d3 = (v[7] * -11363 + v[1] * 2260) + (v[5] * 9633 + v[3] * -6436);
  v[0] = jpeg_descale(s0 + d0, bits);
  v[7] = jpeg_descale(s0 - d0, bits);
  v[1] = jpeg_descale(s1 + d1, bits);
  v[6] = jpeg_descale(s1 - d1, bits);
  v[2] = jpeg_descale(s2 + d2, bits);
  v[5] = jpeg_descale(s2 - d2, bits);
  v[3] = jpeg_descale(s3 + d3, bits);
  v[4] = jpeg_descale(s3 - d3, bits);
}
DP_HD void jpeg_idct_column(int32_t (&v)[8]) { jpeg_idct(v, 11); }
DP_HD void jpeg_idct_row(int32_t (&v)[8]) { jpeg_idct(v, 18); }

// Of a block that is coefficient 0 alone, every sample less 128; what the transforms would give.
DP_HD int32_t jpeg_flat(int32_t v) { return jpeg_descale(jpeg_16_bits(v * 4), 5); }

DP_HD uint8_t jpeg_sample(int32_t v) { return jpeg_clamp(v + 128); }

}  // namespace dalipipe
