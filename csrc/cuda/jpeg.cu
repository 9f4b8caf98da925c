// Stripped JPEGs → RGB on CUDA. Three launches: tiles to levels, a thread for each tile; levels to planes, eight
// threads for each block; planes to pixels. The host plans them (below); pictures of a batch whose scratch would be too
// large go in groups.
#include <algorithm>
#include <vector>

#include "cuda/check.h"
#include "jpeg.h"
#include "jpeg/stripped.h"

namespace dalipipe {
namespace {

constexpr int32_t kTileThreads = 128;  // tiles that a block reads, of one picture
constexpr int32_t kThreads = 256;
constexpr int32_t kBlocks = kThreads / 8;       // 8x8 blocks that a block transforms at a time,
constexpr int32_t kMostBlocks = 8 * kBlocks;    // and in all
constexpr int32_t kQuads = 4 * kThreads;        // of four pixels that a block colours
constexpr int64_t kScratch = int64_t{1} << 30;  // bytes that a batch may have without another thought

struct Job {
  uint64_t jpeg, out;  // out 0: only damage is looked for
  Region region;
  McuBox mcus;
  int64_t levels, planes;  // where they begin in scratch, in bytes
};

enum Kernel { kRead, kTransform, kColour, kKernels };

// What every kernel gets: jobs [first, first + count), whose work is cut into chunks, one after the other.
struct Batch {
  const Job* jobs;
  const int64_t* chunks;  // [jobs of the whole batch + 1]: where each job's begin
  int32_t first, count;
  int32_t* damaged;  // [jobs]
  uint8_t* scratch;
};

// A plane of one component, of whole MCUs.
struct Plane {
  int64_t at;  // bytes from the first plane on
  int32_t blocks_y, blocks_x;
  DP_HD int64_t stride() const { return 8 * static_cast<int64_t>(blocks_x); }
};

DP_HD Plane plane_of(const JpegShape& s, const McuBox& mcus, int32_t component) {
  const int64_t area = static_cast<int64_t>(mcus.y1 - mcus.y0) * (mcus.x1 - mcus.x0) * 64;
  const bool luma = component == 0;
  return {luma ? 0 : area * (luma_blocks(s) + component - 1), (mcus.y1 - mcus.y0) * (luma ? s.down : 1),
          (mcus.x1 - mcus.x0) * (luma ? s.across : 1)};
}

DP_HD int64_t blocks_of(const JpegShape& s, const McuBox& mcus) {
  return static_cast<int64_t>(mcus.y1 - mcus.y0) * (mcus.x1 - mcus.x0) * mcu_blocks(s);
}

// The picture's tiles [y0, y1) x [x0, x1).
DP_HD McuBox tiles_under(const JpegShape& s, const McuBox& mcus) {
  return {mcus.y0, mcus.y1, mcus.x0 / s.tile, (mcus.x1 + s.tile - 1) / s.tile};
}
DP_HD int64_t area_of(const McuBox& box) { return static_cast<int64_t>(box.y1 - box.y0) * (box.x1 - box.x0); }
DP_HD int64_t quads_of(const Region& r) { return static_cast<int64_t>(r.h) * ((r.w + 3) / 4); }

__device__ __forceinline__ const StrippedJpeg& jpeg_of(const Job& job) {
  return *reinterpret_cast<const StrippedJpeg*>(job.jpeg);
}

// Calls work(job, its number, chunk of the job) for this block's share.
template <typename Work>
__device__ __forceinline__ void each_chunk(const Batch& b, const Work& work) {
  const int64_t begin = b.chunks[b.first], end = b.chunks[b.first + b.count];
  for (int64_t chunk = begin + blockIdx.x; chunk < end; chunk += gridDim.x) {
    int32_t low = b.first, high = b.first + b.count;  // the last job that begins at the chunk or before is in between
    while (high - low > 1) {
      const int32_t middle = (low + high) / 2;
      (b.chunks[middle] <= chunk ? low : high) = middle;
    }
    work(b.jobs[low], low, chunk - b.chunks[low]);
  }
}

__global__ void __launch_bounds__(kTileThreads, 8) read_kernel(const __grid_constant__ Batch b) {
  __shared__ CodeTable codes[kMostCodes];
  __shared__ int32_t bytes[kTileThreads];    // of the chunk's tiles
  __shared__ int32_t tile_of[kTileThreads];  // by length, so that the threads of a warp end together
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  each_chunk(b, [&](const Job& job, int32_t number, int64_t chunk) {
    const StrippedJpeg& jpeg = jpeg_of(job);
    const JpegShape& shape = jpeg.shape;
    const StatedCode* stated = reinterpret_cast<const StatedCode*>(&jpeg + 1);
    const uint32_t* ends = reinterpret_cast<const uint32_t*>(stated + jpeg.codes);
    const uint8_t* data = reinterpret_cast<const uint8_t*>(&jpeg) + stripped_bits(shape, jpeg.codes);
    const uint32_t dc = packed_codes(jpeg.dc), ac = packed_codes(jpeg.ac);
    const McuBox tiles = tiles_under(shape, job.mcus);
    const int64_t first = chunk * kTileThreads, left = area_of(tiles) - first;
    const int32_t count = static_cast<int32_t>(left < kTileThreads ? left : kTileThreads);
    // Tile i of the chunk: where it is in the picture, and which it is of those there are.
    const auto row_of = [&](int32_t i) { return tiles.y0 + static_cast<int32_t>((first + i) / (tiles.x1 - tiles.x0)); };
    const auto column_of = [&](int32_t i) {
      return tiles.x0 + static_cast<int32_t>((first + i) % (tiles.x1 - tiles.x0));
    };
    const auto begin_of = [&](int64_t place) { return place > 0 ? whole_words(ends[place - 1]) : 0; };
    const auto place_of = [&](int32_t i) {
      return static_cast<int64_t>(row_of(i) - shape.row) * shape.columns + column_of(i) - shape.column;
    };

    if (thread < jpeg.codes) {
      bool for_dc = false;
      for (int32_t c = 0; c < shape.components; ++c) for_dc |= jpeg.dc[c] == thread;
      codes[thread].state(stated[thread], for_dc);
    }
    for (int32_t k = thread; k < jpeg.codes * 256; k += kTileThreads) {
      codes[k / 256].symbols[k % 256] = stated[k / 256].symbols[k % 256];
    }
    if (thread < count) {
      const int64_t place = place_of(thread);
      bytes[thread] = static_cast<int32_t>(ends[place] - begin_of(place));
    }
    __syncthreads();
    constexpr int32_t kEntries = 1 << CodeTable::kWindow;
    for (int32_t k = thread; k < jpeg.codes * kEntries; k += kTileThreads) {
      codes[k / kEntries].entry[k % kEntries] = codes[k / kEntries].in_window(k % kEntries);
    }
    if (thread < count) {
      int32_t longer = 0;
      for (int32_t i = 0; i < count; ++i) {
        longer += bytes[i] > bytes[thread] || (bytes[i] == bytes[thread] && i < thread);
      }
      tile_of[longer] = thread;
    }
    __syncthreads();
    if (thread < count) {
      const int32_t i = tile_of[thread], x = column_of(i) * shape.tile;
      const int32_t end = x + shape.tile, read_end = end < job.mcus.x1 ? end : job.mcus.x1;
      const int32_t kept = !job.out ? read_end : x > job.mcus.x0 ? x : job.mcus.x0;
      const int32_t each = mcu_blocks(shape);
      const TileBlocks blocks{luma_blocks(shape), each,           dc, ac, (read_end - x) * each,
                              (kept - x) * each,  read_end == end};
      const int64_t mcu =
          static_cast<int64_t>(row_of(i) - job.mcus.y0) * (job.mcus.x1 - job.mcus.x0) + kept - job.mcus.x0;
      int16_t* levels = reinterpret_cast<int16_t*>(b.scratch + job.levels) + mcu * each * 64;
      if (!read_tile(data + begin_of(place_of(i)), bytes[i], codes, blocks, levels)) b.damaged[number] = 1;
    }
    __syncthreads();  // the tables are free again
  });
}

// Eight numbers that go through memory together.
struct alignas(16) Levels {
  int16_t v[8];
};
struct alignas(8) Bytes {
  uint8_t v[8];
};

// Eight threads a block: each dequantises eight levels, then transforms a column, then a row.
__global__ void __launch_bounds__(kThreads, 4) transform_kernel(const __grid_constant__ Batch b) {
  constexpr int32_t kRow = 9, kBlock = 8 * kRow;  // with gaps, so that threads do not meet in the banks of memory
  __shared__ int32_t values[kBlocks * kBlock];
  const int32_t thread = static_cast<int32_t>(threadIdx.x), part = thread % 8;
  int32_t* const mine = values + thread / 8 * kBlock;
  int32_t places[8];  // of this thread's levels
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int32_t place = jpeg_zigzag(8 * part + k);
    places[k] = place / 8 * kRow + place % 8;
  }
  each_chunk(b, [&](const Job& job, int32_t, int64_t chunk) {
    const StrippedJpeg& jpeg = jpeg_of(job);
    const JpegShape& shape = jpeg.shape;
    const int32_t each = mcu_blocks(shape), luma = luma_blocks(shape), wide = job.mcus.x1 - job.mcus.x0;
    const int64_t blocks = blocks_of(shape, job.mcus), most = (chunk + 1) * kMostBlocks;
    const int64_t end = blocks < most ? blocks : most;
#pragma unroll 1
    for (int64_t first = chunk * kMostBlocks; first < end; first += kBlocks) {
      const int64_t i = first + thread / 8;
      const bool any = i < end;
      const int32_t mcu = static_cast<int32_t>(i / each), block = static_cast<int32_t>(i % each);
      const int32_t component = block < luma ? 0 : block - luma + 1;
      int32_t v[8];
      if (any) {
        const Levels levels = reinterpret_cast<const Levels*>(b.scratch + job.levels)[i * 8 + part];
        const Bytes quantisers = reinterpret_cast<const Bytes*>(jpeg.quantisers[component])[part];
#pragma unroll
        for (int k = 0; k < 8; ++k) mine[places[k]] = jpeg_dequantised(levels.v[k], quantisers.v[k]);
      }
      __syncthreads();
      if (any) {
#pragma unroll
        for (int k = 0; k < 8; ++k) v[k] = mine[k * kRow + part];
        jpeg_idct_column(v);
#pragma unroll
        for (int k = 0; k < 8; ++k) mine[k * kRow + part] = jpeg_16_bits(v[k]);
      }
      __syncthreads();
      if (any) {
#pragma unroll
        for (int k = 0; k < 8; ++k) v[k] = mine[part * kRow + k];
        jpeg_idct_row(v);
        Bytes samples;
#pragma unroll
        for (int k = 0; k < 8; ++k) samples.v[k] = jpeg_sample(v[k]);
        const Plane plane = plane_of(shape, job.mcus, component);
        const int32_t across = component == 0 ? shape.across : 1, down = component == 0 ? shape.down : 1;
        const int32_t within = component == 0 ? block : 0;
        const int64_t y = (static_cast<int64_t>(mcu / wide) * down + within / across) * 8 + part;
        const int64_t x = static_cast<int64_t>(mcu % wide) * across + within % across;
        reinterpret_cast<Bytes*>(b.scratch + job.planes + plane.at + y * plane.stride())[x] = samples;
      }
      __syncthreads();  // the values are free again
    }
  });
}

// A plane of chroma as if it were whole.
struct Chroma {
  int64_t stride;
  int32_t h, w;         // that count
  int32_t first, last;  // columns there are
  bool across, down;    // whether it is halved so
};

// What pixels (y, x) to (y, x + 3) have of it, whose sample (0, 0) would be `at`: each sample about them is read once.
__device__ __forceinline__ void chroma_of_four(const uint8_t* at, const Chroma& s, int32_t y, int32_t x,
                                               int32_t (&out)[4]) {
  const bool plain = s.across && s.w <= kJpegPlainWidth;
  const int32_t near_y = s.down ? y / 2 : y, beside = y & 1 ? near_y + 1 : near_y - 1;
  const uint8_t* near = at + near_y * s.stride;
  const uint8_t* far = at + (beside < 0 ? 0 : beside < s.h ? beside : s.h - 1) * s.stride;
  const int32_t left = s.across ? (x + 1) / 2 - 1 : x;
  int32_t columns[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int32_t column = left + k < s.first ? s.first : left + k < s.last ? left + k : s.last;
    columns[k] = near[column];
    if (!s.down || plain) continue;
    columns[k] = s.across ? jpeg_double_down(columns[k], far[column]) : jpeg_double(columns[k], far[column], y);
  }
  const bool odd = x & 1;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int32_t mine = odd ? columns[(k + 1) / 2] : columns[k / 2 + 1];
    const int32_t next = odd ? columns[k % 2 == 0 ? k / 2 + 1 : k / 2] : columns[k % 2 == 0 ? k / 2 : k / 2 + 2];
    out[k] = !s.across ? columns[k]
             : plain   ? mine
             : s.down  ? jpeg_double_across(mine, next, x + k)
                       : jpeg_double(mine, next, x + k);
  }
}

// A thread for every four pixels of a row.
__global__ void __launch_bounds__(kThreads, 4) colour_kernel(const __grid_constant__ Batch b) {
  each_chunk(b, [&](const Job& job, int32_t, int64_t chunk) {
    const JpegShape& shape = jpeg_of(job).shape;
    const Region& r = job.region;
    const int32_t quads = (r.w + 3) / 4;
    // The planes as if they were whole.
    const auto whole = [&](int32_t c) {
      const Plane plane = plane_of(shape, job.mcus, c);
      const int64_t top = 8 * int64_t{job.mcus.y0} * (c == 0 ? shape.down : 1);
      const int64_t left = 8 * int64_t{job.mcus.x0} * (c == 0 ? shape.across : 1);
      return b.scratch + job.planes + plane.at - top * plane.stride() - left;
    };
    const uint8_t* const luma = whole(0);
    const uint8_t* const blue = whole(1);
    const uint8_t* const red = whole(2);
    const int64_t luma_stride = plane_of(shape, job.mcus, 0).stride();
    Chroma chroma{plane_of(shape, job.mcus, 1).stride(),
                  (shape.height + shape.down - 1) / shape.down,
                  (shape.width + shape.across - 1) / shape.across,
                  8 * job.mcus.x0,
                  8 * job.mcus.x1 - 1,
                  shape.across > 1,
                  shape.down > 1};
    if (chroma.last >= chroma.w) chroma.last = chroma.w - 1;
    const int64_t all = quads_of(r), most = (chunk + 1) * kQuads, end = all < most ? all : most;
#pragma unroll 1
    for (int64_t i = chunk * kQuads + threadIdx.x; i < end; i += kThreads) {
      const int32_t row = static_cast<int32_t>(i / quads), quad = static_cast<int32_t>(i % quads);
      const int32_t y = r.y + row, x = r.x + 4 * quad, last = r.x + r.w - 1;
      int32_t blues[4] = {}, reds[4] = {};
      if (shape.components > 1) {
        chroma_of_four(blue, chroma, y, x, blues);
        chroma_of_four(red, chroma, y, x, reds);
      }
      uint32_t words[3] = {0, 0, 0};
#pragma unroll
      for (int k = 0; k < 4; ++k) {  // in a row's last four, some may be beyond it
        const int32_t light = luma[y * luma_stride + (x + k < last ? x + k : last)];
        const bool grey = shape.components == 1;
        const uint32_t px[3] = {grey ? static_cast<uint8_t>(light) : jpeg_r(light, reds[k]),
                                grey ? static_cast<uint8_t>(light) : jpeg_g(light, blues[k], reds[k]),
                                grey ? static_cast<uint8_t>(light) : jpeg_b(light, blues[k])};
#pragma unroll
        for (int c = 0; c < 3; ++c) words[(3 * k + c) / 4] |= px[c] << (8 * ((3 * k + c) % 4));
      }
      uint32_t* out = reinterpret_cast<uint32_t*>(job.out + row * rgb_row_bytes(r.w)) + 3 * quad;
#pragma unroll
      for (int w = 0; w < 3; ++w) out[w] = words[w];
    }
  });
}

int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Of the upload, in bytes; the JPEGs may follow.
struct Sections {
  int64_t jobs, chunks[kKernels], bytes;  // what is damaged lies at 0
  explicit Sections(int32_t n) {
    jobs = aligned(n * int64_t{4});
    int64_t at = jobs + aligned(n * static_cast<int64_t>(sizeof(Job)));
    for (int64_t& begin : chunks) {
      begin = at;
      at += aligned((n + int64_t{1}) * 8);
    }
    bytes = at;
  }
};

// Pictures that share the scratch.
struct Group {
  int32_t first, count;
  int64_t levels_bytes, bytes;
};

// The jobs, in groups that need no more scratch than there is, or one job each.
class Plan {
 public:
  Plan(const DecodeTilesParams& p, int64_t scratch) {
    jobs.reserve(p.n);
    for (int32_t i = 0; i < p.n; ++i) {
      const JpegShape& s = p.shapes[i];
      const McuBox mcus = mcus_under(p.regions[i], s.height, s.width, s.down, s.across);
      const int64_t blocks = p.out ? blocks_of(s, mcus) : 0, levels = blocks * 64 * 2, planes = blocks * 64;
      if (groups.empty() || groups.back().bytes + levels + planes > scratch) groups.push_back({i, 0, 0, 0});
      Group& group = groups.back();
      // Planes count from the end of the group's levels on.
      jobs.push_back(
          {p.jpegs[i], p.out ? p.out[i] : 0, p.regions[i], mcus, group.levels_bytes, group.bytes - group.levels_bytes});
      ++group.count;
      group.levels_bytes += levels;
      group.bytes += levels + planes;
      scratch_bytes = std::max(scratch_bytes, group.bytes);
      const int64_t work[kKernels] = {up(area_of(tiles_under(s, mcus)), kTileThreads), up(blocks, kMostBlocks),
                                      p.out ? up(quads_of(p.regions[i]), kQuads) : 0};
      for (int32_t k = 0; k < kKernels; ++k) chunks[k].push_back(chunks[k].back() + work[k]);
    }
    for (const Group& group : groups) {
      for (int32_t i = group.first; i < group.first + group.count; ++i) jobs[i].planes += group.levels_bytes;
    }
  }

  std::vector<Job> jobs;
  std::vector<int64_t> chunks[kKernels] = {{0}, {0}, {0}};
  std::vector<Group> groups;
  int64_t scratch_bytes = 0;  // that the largest group needs

 private:
  static int64_t up(int64_t n, int64_t by) { return (n + by - 1) / by; }
};

}  // namespace

size_t decode_tiles_upload_bytes(int32_t n) { return static_cast<size_t>(Sections(n).bytes); }

size_t decode_tiles_scratch_bytes(const DecodeTilesParams& p) {
  check_decode_tiles(p);
  return static_cast<size_t>(Plan(p, kScratch).scratch_bytes);
}

void decode_tiles_cuda(const DecodeTilesParams& p, void* upload, void* pinned, size_t upload_bytes, void* scratch,
                       size_t scratch_bytes, void* stream) {
  check_decode_tiles(p);
  if (p.n == 0) return;
  const Plan plan(p, static_cast<int64_t>(scratch_bytes));
  const Sections at(p.n);
  check_room("decode_tiles", "the upload", at.bytes, upload_bytes, upload);
  check_room("decode_tiles", "pinned memory", at.bytes, upload_bytes, pinned);
  if (plan.scratch_bytes > 0) check_room("decode_tiles", "scratch", plan.scratch_bytes, scratch_bytes, scratch);
  uint8_t* const host = static_cast<uint8_t*>(pinned);
  uint8_t* const device = static_cast<uint8_t*>(upload);
  std::fill_n(host, at.jobs, 0);
  std::copy(plan.jobs.begin(), plan.jobs.end(), reinterpret_cast<Job*>(host + at.jobs));
  for (int32_t k = 0; k < kKernels; ++k) {
    std::copy(plan.chunks[k].begin(), plan.chunks[k].end(), reinterpret_cast<int64_t*>(host + at.chunks[k]));
  }

  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  DP_CUDA(cudaMemcpyAsync(device, pinned, upload_bytes, cudaMemcpyHostToDevice, queue));
  for (const Group& group : plan.groups) {
    Batch b{};
    b.jobs = reinterpret_cast<const Job*>(device + at.jobs);
    b.first = group.first;
    b.count = group.count;
    b.damaged = reinterpret_cast<int32_t*>(device);
    b.scratch = static_cast<uint8_t*>(scratch);
    if (p.out) DP_CUDA(cudaMemsetAsync(scratch, 0, static_cast<size_t>(group.levels_bytes), queue));
    const auto start = [&](Kernel k, auto kernel, int32_t threads) {
      b.chunks = reinterpret_cast<const int64_t*>(device + at.chunks[k]);
      const int64_t work = plan.chunks[k][group.first + group.count] - plan.chunks[k][group.first];
      launch(kernel, work, threads, queue, b);
    };
    start(kRead, read_kernel, kTileThreads);
    start(kTransform, transform_kernel, kThreads);
    start(kColour, colour_kernel, kThreads);
  }
  DP_CUDA(cudaMemcpyAsync(pinned, device, p.n * sizeof(int32_t), cudaMemcpyDeviceToHost, queue));
}

}  // namespace dalipipe
