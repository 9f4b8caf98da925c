#include "jpeg/huffman.h"

#include <algorithm>
#include <iterator>

namespace dalipipe {

bool is_sound(const HuffmanCode& code, bool dc) {
  int32_t next = 0;
  for (int32_t length = 1; length <= 16; ++length) {
    next = 2 * next + code.counts[length];
    if (next > 1 << length) return false;
  }
  return std::all_of(code.symbols, code.symbols + code.total,
                     [&](int32_t symbol) { return dc ? symbol <= kMostDcSize : (symbol & 15) <= kMostAcSize; });
}

bool HuffmanReader::make(const HuffmanCode& code, bool for_dc, int32_t for_set) {
  if (!is_sound(code, for_dc)) return false;
  dc = for_dc;
  set = for_set;
  std::fill_n(entry, 1 << kWindow, kMore);
  std::copy_n(code.symbols, code.total, symbols);
  int32_t next = 0, place = 0;  // the next code, and the place of its symbol
  for (int32_t length = 1; length <= 16; ++length) {
    next <<= 1;
    offset[length] = place - next;
    for (int32_t i = 0; i < code.counts[length]; ++i, ++next, ++place) {
      const int32_t symbol = code.symbols[place];
      const int32_t size = dc ? symbol : symbol & 15;
      if (length > kWindow) continue;
      const int32_t advance = advance_of_code(symbol, dc), room = kWindow - length;
      int32_t* const at = entry + (next << room);
      if (size > room) {
        std::fill_n(at, 1 << room, make_token(advance, size, set, 0) << 6 | kMore | length);
        continue;
      }
      for (int32_t bits = 0; bits < 1 << size; ++bits) {
        const int32_t value = size ? extend(static_cast<uint32_t>(bits), size) : value_of_code(symbol, dc);
        const Token token = make_token(advance, size, set, value);
        std::fill_n(at + (bits << (room - size)), 1 << (room - size), token * (1 << 6) | (length + size));
      }
    }
    limit[length] = next << (16 - length);
  }
  if (dc) return true;
  for (int32_t i = 0; i < 1 << kWindow; ++i) {
    // What follows the first token in the window, zeros behind it, tells the second if that is short enough.
    const int32_t first = entry[i], length = first & 31, second = entry[i << length & ((1 << kWindow) - 1)];
    Pair& p = pair[i];
    p.bits = p.first_bits = static_cast<uint8_t>(length);
    p.advance = p.first_advance = static_cast<uint8_t>(first & kMore ? kBeyond : advance_of(first >> 6));
    p.first = p.second = static_cast<int16_t>(value_of(first >> 6));
    if (first & kMore || p.advance == kEndOfBlock || second & kMore || length + (second & 31) > kWindow) continue;
    p.bits = static_cast<uint8_t>(length + (second & 31));
    p.advance = static_cast<uint8_t>(p.advance + advance_of(second >> 6));
    p.second = static_cast<int16_t>(value_of(second >> 6));
  }
  return true;
}

BitReader BitReader::refilled_bytes(BitReader in) {
  while (in.ready_ < 56) {
    uint64_t byte = 0;
    if (in.at_ < in.end_) {
      byte = *in.at_++;
      if (byte == 0xFF && in.at_ < in.end_ && *in.at_ == 0) ++in.at_;
    } else {
      ++in.beyond_;
    }
    // What stands below the ready bits already is this byte's beginning, or zero.
    in.bits_ |= byte << (56 - in.ready_);
    in.ready_ += 8;
  }
  if (in.at_ > in.plain_ && in.at_ < in.end_) {
    const void* ones = std::memchr(in.at_, 0xFF, static_cast<size_t>(in.end_ - in.at_));
    in.plain_ = ones ? static_cast<const uint8_t*>(ones) : in.end_;
  }
  return in;
}

LongToken read_long(uint64_t bits, const HuffmanReader& code, int32_t entry) {
  int32_t length = entry & 31, advance = advance_of(entry >> 6), size = size_of(entry >> 6), value = 0;
  if (length == 0) {
    const int32_t next = static_cast<int32_t>(bits >> 48);
    length = HuffmanReader::kWindow + 1;
    for (int32_t l = length; l < 16; ++l) length += next >= code.limit[l];  // limits rise
    if (next >= code.limit[16]) return {kBadToken, 0};
    const int32_t symbol = code.symbols[code.offset[length] + (next >> (16 - length))];
    size = symbol & 15;
    advance = advance_of_code(symbol, code.dc);
    value = value_of_code(symbol, code.dc);
  }
  if (size > 0) value = extend(static_cast<uint32_t>(bits << length >> (64 - size)), size);
  return {make_token(advance, size, code.set, value), length + size};
}

HuffmanCode optimal_code(const uint32_t (&counts)[256]) {
  // The tree is built from leaves in order and the sums of pairs, which come in order by themselves. One more leaf
  // takes the code of all ones, which stands for nothing.
  struct Node {
    uint64_t count;
    int32_t symbol, parent;
  };
  Node nodes[2 * 257];
  int32_t leaves = 0;
  nodes[leaves++] = {0, 256, -1};  // sorts before all that are counted
  for (int32_t s = 0; s < 256; ++s) {
    if (counts[s] > 0) nodes[leaves++] = {counts[s], s, -1};
  }
  HuffmanCode code;
  code.total = leaves - 1;
  if (code.total == 0) return code;
  std::sort(nodes + 1, nodes + leaves,
            [](const Node& a, const Node& b) { return a.count != b.count ? a.count < b.count : a.symbol > b.symbol; });
  int32_t leaf = 0, sum = leaves, end = leaves;
  const auto least = [&] {
    return leaf < leaves && (sum == end || nodes[leaf].count <= nodes[sum].count) ? leaf++ : sum++;
  };
  while (end < 2 * leaves - 1) {
    const int32_t a = least(), b = least();
    nodes[a].parent = nodes[b].parent = end;
    nodes[end] = {nodes[a].count + nodes[b].count, -1, -1};
    ++end;
  }
  // Depths, the root's being 0; counted by length.
  int32_t depth[2 * 257], lengths[258] = {};
  depth[end - 1] = 0;
  for (int32_t i = end - 2; i >= 0; --i) {
    depth[i] = depth[nodes[i].parent] + 1;
    if (i < leaves) ++lengths[depth[i]];
  }
  // No code is longer than 16 bits (T.81, K.3): of two siblings one takes their parent's place, the other goes beside a
  // shorter one.
  for (int32_t i = 257; i > 16; --i) {
    while (lengths[i] > 0) {
      int32_t j = i - 2;
      while (lengths[j] == 0) --j;
      lengths[i] -= 2;
      ++lengths[i - 1];
      lengths[j + 1] += 2;
      --lengths[j];
    }
  }
  int32_t longest = 16;
  while (lengths[longest] == 0) --longest;
  --lengths[longest];  // the code of all ones
  for (int32_t l = 1; l <= 16; ++l) code.counts[l] = static_cast<uint8_t>(lengths[l]);
  for (int32_t i = 0; i < code.total; ++i) code.symbols[i] = static_cast<uint8_t>(nodes[leaves - 1 - i].symbol);
  return code;
}

void write_symbols(const HuffmanCode& code, bool dc, int32_t set, Bits* written) {
  uint64_t next = 0;
  int32_t place = 0;
  for (int32_t length = 1; length <= 16; ++length, next <<= 1) {
    for (int32_t i = 0; i < code.counts[length]; ++i, ++next, ++place) {
      const int32_t symbol = code.symbols[place], size = dc ? symbol : symbol & 15;
      const Token token = make_token(advance_of_code(symbol, dc), size, set, 0);
      written[symbol_of(token)] = make_bits(next << size, length + size);
    }
  }
}

uint8_t* copy_stuffed(const uint8_t* from, const uint8_t* end, uint8_t* to) {
  while (end - from >= 8) {
    uint64_t bytes;
    std::memcpy(&bytes, from, 8);
    std::memcpy(to, &bytes, 8);
    // Up to the first byte of ones.
    const uint64_t ones = ((bytes & 0x7F7F7F7F7F7F7F7Full) + 0x0101010101010101ull) & bytes & 0x8080808080808080ull;
    if (ones == 0) {
      from += 8, to += 8;
      continue;
    }
    const int32_t n = __builtin_ctzll(ones) / 8 + 1;
    from += n, to += n;
    *to++ = 0;
  }
  while (from < end) {
    *to++ = *from;
    if (*from++ == 0xFF) *to++ = 0;
  }
  return to;
}

}  // namespace dalipipe
