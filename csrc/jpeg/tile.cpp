// Lossless transcoding. A picture is read into words, which name what is to be written; what is named is counted, gets
// codes, and is then written in one go. A word is a token, or, where the source's codes tell two at once, both.
#include <algorithm>
#include <iterator>
#include <memory>

#include "cpu/image_kernels.h"
#include "cpu/pool.h"
#include "io.h"
#include "jpeg/coefficients.h"
#include "jpeg/tiles.h"

namespace dalipipe {
namespace {

// Bits 0-13: which name; above them the bits of a token's value. Names: symbols, then the pairs of each AC code.
using Word = uint32_t;
constexpr int32_t kNameBits = 14, kPairs = 1 << HuffmanReader::kWindow, kNames = kSymbols + 3 * kPairs;
static_assert(kNames <= 1 << kNameBits, "names fit");
constexpr Word kName = (1 << kNameBits) - 1;
constexpr int32_t kBlockWords = 64;  // at most

Word word_of(Token token) {
  return static_cast<Word>(symbol_of(token)) | bits_of(value_of(token), size_of(token)) << kNameBits;
}

// A picture's words in the order of one scan of all components, whose tiles begin without a DC level before them.
struct Words {
  Buffer<Word> list;
  Buffer<int64_t> starts;  // of the tiles
  int64_t count = 0, tiles = 0;
  uint32_t used[kNames];  // how often each name is

  void clear() {
    count = tiles = 0;
    std::memset(used, 0, sizeof used);
  }
  void begin_tile() { starts.need(tiles + 1)[tiles] = count, ++tiles; }
};

// What a thread keeps between pictures.
struct Workspace {
  Words words;
  HuffmanReader dc[3], ac[3];
  Bits written[kNames];
  JpegCoefficients coefficients;
  std::vector<JpegPart> segments;
  Buffer<uint8_t> bits, data;  // of a tile; of the picture, zeros stuffed in
};

Workspace& workspace() {
  thread_local const std::unique_ptr<Workspace> w = std::make_unique<Workspace>();
  return *w;
}

// The codes that blocks of a component are written with: one set for the first, another for the others.
int32_t set_of_component(int32_t component) { return component > 0; }

// Calls visit(component) for every block of an MCU; false ends it.
template <typename Visit>
bool for_blocks(const JpegFile& file, const Visit& visit) {
  for (int32_t c = 0; c < file.components; ++c) {
    const int32_t blocks = file.component[c].across * file.component[c].down;
    for (int32_t b = 0; b < blocks; ++b) {
      if (!visit(c)) return false;
    }
  }
  return true;
}

int64_t blocks_of(const JpegFile& file) {
  int64_t blocks = 0;
  for_blocks(file, [&](int32_t) { return ++blocks; });
  return blocks;
}

// Words of a block.
struct TakeWords {
  Word* to;
  uint32_t* used;
  Word pairs;  // the name of the code's first

  void pair(const Pair&, uint32_t i, int32_t) {
    *to++ = pairs + i;
    ++used[pairs + i];
  }
  void token(Token t, int32_t = 0) {
    *to++ = word_of(t);
    ++used[symbol_of(t)];
  }
  void last(Token, uint32_t i, int32_t) {
    *to++ = pairs + i;
    ++used[pairs + i];
  }
};

// The two loops that take the time, each by itself, so that what it works on stays in registers; and made twice, since
// half of what they do is to shift by counts that differ, which later x86 processors have quicker instructions for.
inline __attribute__((always_inline)) bool read_words_inline(BitReader& stream, const HuffmanReader& code,
                                                             TakeWords& to) {
  BitReader in = stream;
  TakeWords take = to;
  const bool good = read_block(in, code, take);
  stream = in;
  to.to = take.to;
  return good;
}
inline __attribute__((always_inline)) uint8_t* write_words_inline(const Word* word, const Word* last,
                                                                  const Bits* written, uint8_t* to) {
  BitWriter writer(to);
  for (; word + 1 < last; word += 2) {
    writer.put(written[word[0] & kName], word[0] >> kNameBits, written[word[1] & kName], word[1] >> kNameBits);
  }
  if (word < last) writer.put(written[*word & kName], *word >> kNameBits);
  return writer.finish();
}

struct Loops {
  bool (*read)(BitReader&, const HuffmanReader&, TakeWords&);
  uint8_t* (*write)(const Word*, const Word*, const Bits*, uint8_t*);
};

bool read_words(BitReader& in, const HuffmanReader& code, TakeWords& to) { return read_words_inline(in, code, to); }
uint8_t* write_words(const Word* word, const Word* last, const Bits* written, uint8_t* to) {
  return write_words_inline(word, last, written, to);
}
#if defined(__x86_64__)
#define DP_BMI2 __attribute__((target("bmi2")))
DP_BMI2 bool read_words_bmi2(BitReader& in, const HuffmanReader& code, TakeWords& to) {
  return read_words_inline(in, code, to);
}
DP_BMI2 uint8_t* write_words_bmi2(const Word* word, const Word* last, const Bits* written, uint8_t* to) {
  return write_words_inline(word, last, written, to);
}
const Loops kLoops =
    __builtin_cpu_supports("bmi2") ? Loops{read_words_bmi2, write_words_bmi2} : Loops{read_words, write_words};
#else
const Loops kLoops = {read_words, write_words};
#endif

constexpr const char* kDamaged = "its data are damaged";
constexpr const char* kLevels = "coefficients of more bits than baseline files have";

// From a sequential file of one scan, as it comes.
const char* read_sequential(JpegFile& file, int32_t tile, Workspace& w) {
  Words& words = w.words;
  int32_t code_of[3] = {};  // which of w.ac each component's is: the first that is the same
  for (int32_t c = 0; c < file.components; ++c) {
    const HuffmanCode &dc = file.dc[file.component[c].dc], &ac = file.ac[file.component[c].ac];
    if (dc.total == 0 || ac.total == 0) return "it lacks a Huffman code";
    code_of[c] = c == 2 && file.component[1].ac == file.component[2].ac ? 1 : c;
    if (!w.dc[c].make(dc, true) || (code_of[c] == c && !w.ac[c].make(ac, false, set_of_component(c)))) {
      return "its Huffman codes are malformed";
    }
  }
  if (!file.segments(w.segments)) return file.wrong();
  const int64_t mcus = static_cast<int64_t>(file.mcus_x) * file.mcus_y;
  const int64_t interval = file.scan.restart ? file.scan.restart : mcus;
  const int64_t room = blocks_of(file) * kBlockWords;  // of an MCU
  int32_t after[3] = {}, column = tile;                // DC levels of the tile that is made; MCUs of it so far
  for (size_t s = 0; s < w.segments.size(); ++s) {
    BitReader in(file.data() + w.segments[s].begin, file.data() + w.segments[s].end);
    int32_t before[3] = {};
    const int64_t begin = static_cast<int64_t>(s) * interval, end = std::min(mcus, begin + interval);
    for (int64_t m = begin; m < end; ++m, ++column) {
      if (column == tile) {
        column = 0;
        std::fill(std::begin(after), std::end(after), 0);
        words.begin_tile();
      }
      TakeWords take{words.list.need(words.count + room) + words.count, words.used, 0};
      const char* wrong = nullptr;
      for_blocks(file, [&](int32_t c) {
        in.refill();
        const Token dc = read_token(in, w.dc[c]);
        before[c] += value_of(dc);
        const int32_t difference = before[c] - after[c], size = size_of_value(difference);
        after[c] = before[c];
        if (advance_of(dc) != 0) wrong = kDamaged;
        if (before[c] >= 1 << kMostDcSize || before[c] <= -(1 << kMostDcSize) || size > kMostDcSize) wrong = kLevels;
        if (wrong) return false;
        take.token(make_token(0, size, set_of_component(c), difference));
        take.pairs = static_cast<Word>(kSymbols + code_of[c] * kPairs);
        if (!kLoops.read(in, w.ac[code_of[c]], take) || in.overrun()) wrong = kDamaged;
        return wrong == nullptr;
      });
      if (wrong) return wrong;
      words.count = take.to - words.list.data();
    }
    if (!in.ended()) return kDamaged;
  }
  return nullptr;
}

// From coefficients.
const char* read_coefficients(const JpegFile& file, int32_t tile, const JpegCoefficients& coefficients, Words& words) {
  const int64_t room = blocks_of(file) * kBlockWords;
  for (int32_t y = 0; y < file.mcus_y; ++y) {
    int32_t before[3] = {};
    for (int32_t x = 0; x < file.mcus_x; ++x) {
      if (x % tile == 0) {
        std::fill(std::begin(before), std::end(before), 0);
        words.begin_tile();
      }
      TakeWords take{words.list.need(words.count + room) + words.count, words.used, 0};
      int32_t at = 0, last = -1;
      bool wide = false;
      for_blocks(file, [&](int32_t c) {
        const JpegComponent& component = file.component[c];
        at = c == last ? at + 1 : 0;
        last = c;
        const int16_t* levels = coefficients.block(c, y * component.down + at / component.across,
                                                   x * component.across + at % component.across);
        const auto put = [&](int32_t advance, int32_t level) {
          const int32_t size = size_of_value(level);
          wide |= size > (advance > 0 ? kMostAcSize : kMostDcSize);
          take.token(make_token(advance, size & 15, set_of_component(c), level));
        };
        put(0, levels[0] - before[c]);
        before[c] = levels[0];
        int32_t k = 0;
        for (int32_t next = 1; next < 64; ++next) {
          const int32_t level = levels[kZigzag.place[next]];
          if (level == 0) continue;
          for (; next - k > kZeroRun; k += kZeroRun) put(kZeroRun, 0);
          put(next - k, level);
          k = next;
        }
        if (k < 63) put(kEndOfBlock, 0);
        return true;
      });
      if (wide) return kLevels;
      words.count = take.to - words.list.data();
    }
  }
  return nullptr;
}

// Calls visit(name, first token, second or null) for the pairs that are used.
template <typename Visit>
void for_pairs(const Workspace& w, const Visit& visit) {
  for (int32_t c = 0; c < 3; ++c) {
    for (int32_t i = 0; i < kPairs; ++i) {
      const int32_t name = kSymbols + c * kPairs + i;
      if (w.words.used[name] == 0) continue;
      const HuffmanReader& code = w.ac[c];
      const Pair& pair = code.pair[i];
      const Token first = code.entry[i] >> 6, second = code.entry[i << pair.first_bits & (kPairs - 1)] >> 6;
      visit(name, first, pair.first_bits < pair.bits ? &second : nullptr);
    }
  }
}

// The codes of a set.
struct Codes {
  HuffmanCode dc, ac;
};

Codes make_codes(const uint32_t* used, int32_t set) {
  uint32_t counts[2][256] = {};
  for (int32_t s = 0; s < kSymbols; ++s) {
    if (set_of(s) == set && used[s] > 0) counts[advance_of(s) > 0][code_of_symbol(s)] += used[s];
  }
  return {optimal_code(counts[0]), optimal_code(counts[1])};
}

class HeaderWriter {
 public:
  explicit HeaderWriter(std::vector<uint8_t>& out) : out_(out) {}
  void u8(int32_t v) { out_.push_back(static_cast<uint8_t>(v)); }
  void u16(int32_t v) { u8(v >> 8), u8(v & 255); }
  void segment(int32_t marker, int32_t bytes) { u8(0xFF), u8(marker), u16(2 + bytes); }
  void copy(const uint8_t* from, size_t n) { out_.insert(out_.end(), from, from + n); }
  void code(const HuffmanCode& code, bool dc, int32_t table) {
    segment(0xC4, 17 + code.total);
    u8((dc ? 0 : 0x10) | table);
    copy(code.counts + 1, 16);
    copy(code.symbols, static_cast<size_t>(code.total));
  }

 private:
  std::vector<uint8_t>& out_;
};

// Of the metadata what readers need for the same pixels, or all.
void write_metadata(const JpegFile& file, bool all, HeaderWriter& out) {
  for (const JpegPart& part : file.metadata) {
    const uint8_t* from = file.data() + part.begin;
    const size_t n = part.end - part.begin;
    const bool jfif = from[1] == 0xE0 && n >= 9 && std::memcmp(from + 4, "JFIF", 5) == 0;
    const bool adobe = from[1] == 0xEE && n >= 9 && std::memcmp(from + 4, "Adobe", 5) == 0;
    if (all || jfif || adobe) out.copy(from, n);
  }
  const int32_t orientation = all ? 1 : probe_image(file.data(), file.size()).orientation;
  if (orientation == 1) return;
  static const uint8_t exif[] = {'E', 'x', 'i', 'f', 0, 0,    'M', 'M', 0, 42, 0, 0,
                                 0,   8,   0,   1,   1, 0x12, 0,   3,   0, 0,  0, 1};
  out.segment(0xE1, sizeof exif + 8);
  out.copy(exif, sizeof exif);
  out.u16(orientation), out.u16(0), out.u16(0), out.u16(0);
}

}  // namespace

int32_t tile_mcus(int32_t mcus_x, int32_t mcu_width, int32_t tile_px) {
  int32_t best = 0;
  double nearest = 2.0;  // as a ratio, 1 or more
  for (int32_t mcus = 1; mcus <= mcus_x; ++mcus) {
    if (mcus_x % mcus != 0) continue;
    const double ratio = static_cast<double>(mcus) * mcu_width / tile_px, away = std::max(ratio, 1 / ratio);
    if (away <= nearest) {
      nearest = away;
      best = mcus;
    }
  }
  return best ? best : mcus_x;
}

const char* tile_jpeg(const uint8_t* data, size_t size, int32_t tile_px, bool metadata, std::vector<uint8_t>& out) {
  Workspace& w = workspace();
  Words& words = w.words;
  words.clear();
  JpegFile file(data, size);
  if (!file.next_scan()) return file.wrong() ? file.wrong() : "it has no picture";
  const int32_t tile = tile_mcus(file.mcus_x, file.mcu_width, tile_px);
  if (!file.progressive && file.scan.count == file.components) {
    if (const char* wrong = read_sequential(file, tile, w)) return wrong;
    if (file.next_scan()) return "it has two scans of one component";
    if (file.wrong()) return file.wrong();
  } else {
    JpegFile again(data, size);
    if (const char* wrong = w.coefficients.read(again)) return wrong;
    if (const char* wrong = read_coefficients(file, tile, w.coefficients, words)) return wrong;
    std::copy_n(again.component, 3, file.component);  // which have their quantisers by now
  }

  // Quantisers: each table once.
  int32_t table_of[3] = {}, tables = 0, first[3] = {};
  for (int32_t c = 0; c < file.components; ++c) {
    const uint16_t* quantisers = file.component[c].quantisers;
    if (std::any_of(quantisers, quantisers + 64, [](uint16_t q) { return q > 255; })) {
      return "quantisers of more than 8 bits";
    }
    int32_t t = 0;
    while (t < tables && !std::equal(quantisers, quantisers + 64, file.component[first[t]].quantisers)) ++t;
    if (t == tables) first[tables++] = c;
    table_of[c] = t;
  }

  out.clear();
  HeaderWriter header(out);
  const int32_t sets = file.components > 1 ? 2 : 1;
  header.u8(0xFF), header.u8(0xD8);
  write_metadata(file, metadata, header);
  for (int32_t t = 0; t < tables; ++t) {
    header.segment(0xDB, 65);
    header.u8(t);
    for (int32_t k = 0; k < 64; ++k) header.u8(file.component[first[t]].quantisers[kZigzag.place[k]]);
  }
  header.segment(0xC0, 6 + 3 * file.components);
  header.u8(8), header.u16(file.height), header.u16(file.width), header.u8(file.components);
  for (int32_t c = 0; c < file.components; ++c) {
    const JpegComponent& component = file.component[c];
    header.u8(component.id), header.u8(component.across << 4 | component.down), header.u8(table_of[c]);
  }
  for_pairs(w, [&](int32_t name, Token first, const Token* second) {
    words.used[symbol_of(first)] += words.used[name];
    if (second) words.used[symbol_of(*second)] += words.used[name];
  });
  for (int32_t set = 0; set < sets; ++set) {
    const Codes codes = make_codes(words.used, set);
    for (const bool is_dc : {true, false}) {
      const HuffmanCode& code = is_dc ? codes.dc : codes.ac;
      write_symbols(code, is_dc, set, w.written);
      header.code(code, is_dc, set);
    }
  }
  const auto written = [&](Token t) { return w.written[symbol_of(t)] | bits_of(value_of(t), size_of(t)); };
  for_pairs(w, [&](int32_t name, Token first, const Token* second) {
    w.written[name] = second ? joined(written(first), written(*second)) : written(first);
  });
  header.segment(0xDD, 2), header.u16(tile);
  header.segment(0xDA, 4 + 2 * file.components);
  header.u8(file.components);
  for (int32_t c = 0; c < file.components; ++c) {
    header.u8(file.component[c].id), header.u8(0x11 * set_of_component(c));
  }
  header.u8(0), header.u8(63), header.u8(0);

  // A word takes 48 bits at most, a byte twice its room where zeros are stuffed in.
  words.begin_tile();  // the end of the last
  const int64_t* starts = words.starts.data();
  uint8_t* end = w.data.need(64);
  for (int64_t t = 0; t + 1 < words.tiles; ++t) {
    const Word *const word = words.list.data() + starts[t], *const last = words.list.data() + starts[t + 1];
    const int64_t most = (last - word) * 6 + 16, written = end - w.data.data();
    uint8_t* const bits = w.bits.need(most);
    uint8_t* const bits_end = kLoops.write(word, last, w.written, bits);
    end = w.data.need(written + 2 * most + 16) + written;
    end = copy_stuffed(bits, bits_end, end);
    *end++ = 0xFF;
    *end++ = static_cast<uint8_t>(0xD0 + t % 8);
  }
  end[-1] = 0xD9;  // in the place of a restart behind the last
  header.copy(w.data.data(), static_cast<size_t>(end - w.data.data()));
  // One giant picture must not pin its scratch for good.
  if (words.list.bytes() > 64 << 20) words.list.release(), w.bits.release(), w.data.release();
  return nullptr;
}

void tile_jpegs(const uint8_t* arena, const int64_t* starts, int64_t n, int32_t tile_px, bool metadata, int32_t threads,
                std::vector<uint8_t>* out, const char** why_not) {
  parallel_for(n, threads, [&](int64_t i) {
    const size_t size = static_cast<size_t>(starts[i + 1] - starts[i]);
    why_not[i] = tile_jpeg(arena + starts[i], size, tile_px, metadata, out[i]);
  });
}

}  // namespace dalipipe
