// The Huffman codes of JPEG (ITU-T T.81, annexes C, F.2 and K.2), and its bit streams, read and written by tables.
//
// What both deal in is tokens: a DC difference, or an AC coefficient with the zeros before it. An end of block is an AC
// token that leads past the block, a run of sixteen zeros one without a value, so that neither is a special case:
//
//   bits 0-6: advance, coefficients that the token takes up, zeros included; 0: DC, 64: end of block
//   bits 7-10: size, bits of the value's magnitude
//   bit 11: set, which of two sets of codes it belongs to
//   bits 12-31: the value, signed
//
// The first twelve bits together are the token's symbol: what is counted, and what has a code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor.h"

namespace dalipipe {

using Token = int32_t;
constexpr int32_t kSymbols = 1 << 12;  // that tokens may have
constexpr int32_t kEndOfBlock = 64, kZeroRun = 16;
constexpr int32_t kMostDcSize = 11, kMostAcSize = 10;  // that baseline files of 8 bits have

DP_HD constexpr Token make_token(int32_t advance, int32_t size, int32_t set, int32_t value) {
  return advance | size << 7 | set << 11 | value * (1 << 12);
}
constexpr Token kBadToken = make_token(127, 0, 0, 0);  // leads past the block, and is no end of it
DP_HD int32_t advance_of(Token t) { return t & 127; }
DP_HD int32_t size_of(Token t) { return t >> 7 & 15; }
DP_HD int32_t set_of(Token t) { return t >> 11 & 1; }
DP_HD int32_t value_of(Token t) { return t >> 12; }
DP_HD int32_t symbol_of(Token t) { return t & (kSymbols - 1); }

// The `size` bits that stand for a value, and back (T.81, table F.1).
DP_HD uint32_t bits_of(int32_t value, int32_t size) {
  return static_cast<uint32_t>(value + (value >> 31)) & ((1u << size) - 1);
}
DP_HD int32_t extend(uint32_t bits, int32_t size) {
  const int32_t v = static_cast<int32_t>(bits);
  return size > 0 && v < 1 << (size - 1) ? v - (1 << size) + 1 : v;
}
// Bits of a value's magnitude.
inline int32_t size_of_value(int32_t value) {
  const uint32_t magnitude = static_cast<uint32_t>(value < 0 ? -value : value);
  return magnitude == 0 ? 0 : 32 - __builtin_clz(magnitude);
}

// A symbol as files have it (DC: size; AC: zeros << 4 | size) and as tokens have it. Sequential AC symbols of size 0
// end a block, but for the run of sixteen zeros.
DP_HD int32_t advance_of_code(int32_t code, bool dc) {
  return dc ? 0 : code & 15 ? (code >> 4) + 1 : code == 0xF0 ? kZeroRun : kEndOfBlock;
}
// The value of a token without one: progressive ends of blocks have theirs in the place of the zeros.
DP_HD int32_t value_of_code(int32_t code, bool dc) { return advance_of_code(code, dc) == kEndOfBlock ? code >> 4 : 0; }
DP_HD int32_t code_of_symbol(int32_t symbol) {
  const int32_t advance = symbol & 127, size = symbol >> 7 & 15;
  return advance == 0 ? size : advance == kEndOfBlock ? 0 : (advance - 1) << 4 | size;
}

// A code as a DHT segment states it.
struct HuffmanCode {
  uint8_t counts[17] = {};    // [1..16]: codes of each length, in bits
  uint8_t symbols[256] = {};  // in the order of their codes
  int32_t total = 0;          // of symbols; 0: not stated

  bool operator==(const HuffmanCode& other) const {
    return total == other.total && std::memcmp(counts, other.counts, sizeof counts) == 0 &&
           std::memcmp(symbols, other.symbols, static_cast<size_t>(total)) == 0;
  }
};

// Whether it can be: not too many codes of any length, nor symbols of more bits than baseline files have.
bool is_sound(const HuffmanCode& code, bool dc);

// One or two AC tokens that the next bits tell, as reading goes on from them.
struct Pair {
  uint8_t bits, first_bits;        // that they take, and that the first one takes; the same: there is but one
  uint8_t advance, first_advance;  // likewise; advance kBeyond: the first is longer than the window
  int16_t first, second;           // their values; of one alone twice
};
constexpr int32_t kBeyond = 127;

// Reads codes: from the next kWindow bits tables tell a token or two, where they are no longer, or a token's code.
struct HuffmanReader {
  static constexpr int32_t kWindow = 10;
  static constexpr int32_t kMore = 1 << 5;  // the value, or the code, goes beyond the window

  // Bits 0-4: how many to skip, bit 5: kMore, above them a token. 0 to skip: a longer code, or none.
  int32_t entry[1 << kWindow];
  Pair pair[1 << kWindow];  // of AC tokens
  int32_t limit[17];        // [l]: the first 16 bits that are no code of l or fewer
  int32_t offset[17];       // from a code of l bits to the place of its symbol
  uint8_t symbols[256];
  bool dc;
  int32_t set;

  // False where the code is not sound.
  bool make(const HuffmanCode& code, bool dc, int32_t set = 0);
};

// Bits of a stream without markers: its stuffed zeros are left out. Beyond the end there are zeros.
class BitReader {
 public:
  BitReader(const uint8_t* begin, const uint8_t* end) : at_(begin), plain_(begin), end_(end) {}

  // Makes 56 bits or more ready.
  void refill() {
    if (__builtin_expect(plain_ - at_ >= 8, 1)) {
      uint64_t next;
      std::memcpy(&next, at_, 8);
      bits_ |= __builtin_bswap64(next) >> ready_;
      at_ += (63 - ready_) >> 3;
      ready_ |= 56;
    } else {
      *this = refilled_bytes(*this);
    }
  }
  uint64_t bits() const { return bits_; }                                              // the next ones, from the top
  uint32_t peek(int32_t n) const { return static_cast<uint32_t>(bits_ >> (64 - n)); }  // n: 1 to 32
  void skip(int32_t n) {                                                               // n: 0 to 31
    bits_ <<= n;
    ready_ -= n;
  }
  uint32_t take(int32_t n) {  // n: 0 to 25; refills
    if (ready_ < n) refill();
    if (n == 0) return 0;
    const uint32_t taken = peek(n);
    skip(n);
    return taken;
  }
  // Whether no more was taken than there was, and less than a byte is left.
  bool ended() const {
    const int64_t left = (end_ - at_) * 8 + ready_ - 8 * beyond_;
    return left >= 0 && left < 8;
  }
  bool overrun() const { return ready_ < 8 * beyond_; }  // more was taken than there was

 private:
  // By value, so that a reader may live in registers.
  static BitReader refilled_bytes(BitReader in);

  const uint8_t* at_;
  const uint8_t* plain_;  // up to here there are no bytes of ones, behind which zeros are stuffed
  const uint8_t* end_;
  uint64_t bits_ = 0;
  int32_t ready_ = 0;   // of them
  int64_t beyond_ = 0;  // zero bytes taken up after the end
};

// What begins the next bits, from the top, 31 or more: a code that is longer than the window, or whose value is.
struct LongToken {
  Token token;
  int32_t bits;  // that it takes
};
LongToken read_long(uint64_t bits, const HuffmanReader& code, int32_t entry);

// The next token. At least 31 bits must be ready.
inline Token read_token(BitReader& in, const HuffmanReader& code) {
  const int32_t entry = code.entry[in.peek(HuffmanReader::kWindow)];
  if (__builtin_expect(entry & HuffmanReader::kMore, 0)) {
    const LongToken found = read_long(in.bits(), code, entry);
    in.skip(found.bits);
    return found.token;
  }
  in.skip(entry & 31);
  return entry >> 6;
}

// The AC tokens of a block. `take.pair(p, i, k)` gets one or two of them, code.pair[i]; k is the place in the zigzag
// that they follow. `take.token(t, k)` gets one, at place k; that of an end of block lies beyond 63. `take.last(t, i,
// k)` gets one at place k and the end of block behind it, code.pair[i] together. False: no code, or a run past the
// block.
template <typename Take>
inline __attribute__((always_inline)) bool read_block(BitReader& in, const HuffmanReader& code, Take& take) {
  constexpr int32_t kWindows = 56 / HuffmanReader::kWindow;  // that are ready when refilled
  for (int32_t k = 0;;) {
    in.refill();
    uint32_t next = 0;
    int32_t i = 0;
    for (; i < kWindows; ++i) {
      next = in.peek(HuffmanReader::kWindow);
      const Pair& pair = code.pair[next];
      if (k + pair.advance >= 63) break;
      take.pair(pair, next, k);
      k += pair.advance;
      in.skip(pair.bits);
    }
    if (i == kWindows) continue;
    // The block's end, or a long token.
    const Pair& pair = code.pair[next];
    Token token = code.entry[next] >> 6;
    if (pair.advance == kBeyond) {
      in.refill();
      token = read_token(in, code);
    } else if (pair.first_bits < pair.bits && k + pair.first_advance < 63) {
      if (pair.advance == pair.first_advance + kEndOfBlock) {
        take.last(token, next, k + pair.first_advance);
        in.skip(pair.bits);
        return true;
      }
      take.token(token, k + pair.first_advance);
      k += pair.first_advance;
      in.skip(pair.first_bits);
      token = read_token(in, code);
    } else {
      in.skip(pair.first_bits);
    }
    k += advance_of(token);
    take.token(token, k);
    if (k >= 63) return k == 63 || advance_of(token) == kEndOfBlock;
  }
}

// The code that takes the fewest bits for symbols, as files have them, that are counted so often (T.81, K.2).
HuffmanCode optimal_code(const uint32_t (&counts)[256]);

// Bits to be written: fewer than 48 of them, and above them how many.
using Bits = uint64_t;
constexpr int32_t kCount = 56;
inline Bits make_bits(uint64_t bits, int32_t n) { return bits | static_cast<uint64_t>(n) << kCount; }
inline Bits joined(Bits a, Bits b) {
  const int32_t n = static_cast<int32_t>(b >> kCount);
  return ((a << n) & ((1ull << kCount) - 1)) | (b & ((1ull << kCount) - 1)) | ((a >> kCount) + n) << kCount;
}

// What a code makes of its symbols, `written[symbol]`: their codes, and zeros behind them for their values' bits.
void write_symbols(const HuffmanCode& code, bool dc, int32_t set, Bits* written);

// Writes bits without looking at them: zeros are stuffed later. There must be room for 8 bytes more than are written.
class BitWriter {
 public:
  explicit BitWriter(uint8_t* to) : to_(to) {}

  // `more`: what replaces zeros at the end of `bits`.
  void put(Bits bits, uint32_t more) { append(plain(bits) | more, count(bits)); }
  // Two of them, mostly in one go.
  void put(Bits a, uint32_t more_a, Bits b, uint32_t more_b) {
    if (__builtin_expect(count(a) + count(b) > 56, 0)) {
      put(a, more_a);
      put(b, more_b);
    } else {
      append((plain(a) | more_a) << count(b) | plain(b) | more_b, count(a) + count(b));
    }
  }
  // Fills the last byte up with ones; returns where it ends.
  uint8_t* finish() {
    const int32_t fill = -used_ & 7;
    append((1ull << fill) - 1, fill);
    return to_;
  }

 private:
  static int32_t count(Bits bits) { return static_cast<int32_t>(bits >> kCount); }
  static uint64_t plain(Bits bits) { return bits & ((1ull << kCount) - 1); }
  // n: 0 to 56.
  void append(uint64_t bits, int32_t n) {
    bits_ = bits_ << n | bits;
    used_ += n;
    const uint64_t bytes = __builtin_bswap64(bits_ << (-used_ & 63));
    std::memcpy(to_, &bytes, 8);
    to_ += used_ >> 3;
    used_ &= 7;
  }

  uint8_t* to_;
  uint64_t bits_ = 0;  // the last `used_` of them, 7 at most, are still to be written
  int32_t used_ = 0;
};

// Copies bytes, a zero behind each of ones; returns where the copy ends. There must be room for twice as many and 8.
uint8_t* copy_stuffed(const uint8_t* from, const uint8_t* end, uint8_t* to);

}  // namespace dalipipe
