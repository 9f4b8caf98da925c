// Texts on CUDA: edits are one launch, a thread takes a sample through all its passes; rows are one, 32 threads a row.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda/check.h"
#include "token.h"

namespace dalipipe {
namespace {

constexpr int32_t kThreads = 128;
constexpr int32_t kRowThreads = 32;

struct EditBatch {
  const TokenPass* passes;
  const int32_t* starts;
  const uint64_t* data;
  const int32_t *lengths, *capacities;
  const int64_t *places, *scratch_places;
  TokenTables tables;
  int32_t *out, *out_lengths, *scratch;
  int32_t n;
};

__global__ void __launch_bounds__(kThreads, 4) edit_tokens_kernel(const __grid_constant__ EditBatch b) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < b.n; i += step) {
    const int32_t* const from = reinterpret_cast<const int32_t*>(b.data[i]);
    int32_t* const tokens = b.out + b.places[i];
    int32_t length = b.lengths[i];
    for (int32_t t = 0; t < length; ++t) tokens[t] = from[t];
    const int32_t capacity = b.capacities[i];
    int32_t* const own = b.scratch + b.scratch_places[i];
    const TokenScratch scratch{own, own + capacity, reinterpret_cast<uint32_t*>(own + 2 * int64_t{capacity})};
    for (int32_t j = b.starts[i]; j < b.starts[i + 1]; ++j) {
      length = edit_tokens(b.passes[j], b.tables, tokens, length, scratch);
    }
    b.out_lengths[i] = length;
  }
}

// Calls use(tokens, count) for each span of a row.
template <typename Use>
__device__ void each_span(const TokenRows& r, int32_t i, const Use& use) {
  for (int32_t s = r.starts[i]; s < r.starts[i + 1]; ++s) {
    const TokenSpan span = clip_span(r.spans[s], r.token_count);
    use(r.tokens + span.begin, span.count);
  }
}

__global__ void __launch_bounds__(kRowThreads)
    count_rows_kernel(const __grid_constant__ TokenRows r, int32_t* lengths) {
  __shared__ int64_t sums[kRowThreads];
  const int32_t lane = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < r.n; i += static_cast<int32_t>(gridDim.x)) {
    int64_t sum = 0;
    each_span(r, i, [&](const int32_t* tokens, int64_t count) {
      if (r.pieces.starts == nullptr) {
        sum += lane == 0 ? count : 0;
        return;
      }
      for (int64_t t = lane; t < count; t += kRowThreads) {
        int32_t first = 0;
        sum += choices_of(r.pieces, tokens[t], first);
      }
    });
    sums[lane] = sum;
    __syncthreads();
    for (int32_t half = kRowThreads / 2; half > 0; half /= 2) {
      if (lane < half) sums[lane] += sums[lane + half];
      __syncthreads();
    }
    if (lane == 0) {
      const int64_t all = sums[0] + r.prefix_count + r.suffix_count;
      lengths[i] = static_cast<int32_t>(all < r.most ? all : r.most);
    }
    __syncthreads();
  }
}

// Pieces of tokens of one span, from `at` to `end` of a row at most, a token a thread; returns where the next go. All
// threads wait here. `sums` [kRowThreads].
__device__ int64_t write_pieces(const TokenChoices& pieces, const int32_t* tokens, int64_t count, int64_t* row,
                                int64_t at, int64_t end, int64_t* sums) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x);
  for (int64_t t = 0; t < count && at < end; t += kRowThreads) {
    int32_t first = 0;
    const int32_t mine = t + lane < count ? choices_of(pieces, tokens[t + lane], first) : 0;
    sums[lane] = mine;
    __syncthreads();
    for (int32_t step = 1; step < kRowThreads; step *= 2) {
      const int64_t before = lane >= step ? sums[lane - step] : 0;
      __syncthreads();
      sums[lane] += before;
      __syncthreads();
    }
    int64_t* const to = row + at + (sums[lane] - mine);
    for (int32_t k = 0; k < mine && to + k < row + end; ++k) to[k] = pieces.tokens[first + k];
    at += sums[kRowThreads - 1];
    __syncthreads();
  }
  return at < end ? at : end;
}

__global__ void __launch_bounds__(kRowThreads)
    write_rows_kernel(const __grid_constant__ TokenRows r, const __grid_constant__ TokenTable table) {
  __shared__ int64_t sums[kRowThreads];
  const int32_t lane = static_cast<int32_t>(threadIdx.x);
  const int64_t end = lower_of(r.most, table.columns) - r.suffix_count;  // of pieces
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < r.n; i += static_cast<int32_t>(gridDim.x)) {
    int64_t* const row = table.out + i * table.row_step;
    for (int32_t k = lane; k < r.prefix_count; k += kRowThreads) row[k] = r.prefix[k];
    int64_t at = r.prefix_count;
    each_span(r, i, [&](const int32_t* tokens, int64_t count) {
      if (r.pieces.starts != nullptr) {
        at = write_pieces(r.pieces, tokens, count, row, at, end, sums);
        return;
      }
      const int64_t n = count < end - at ? count : end - at;
      for (int64_t t = lane; t < n; t += kRowThreads) row[at + t] = tokens[t];
      at += n;
    });
    for (int32_t k = lane; k < r.suffix_count; k += kRowThreads) row[at + k] = r.suffix[k];
    for (int64_t k = at + r.suffix_count + lane; k < table.columns; k += kRowThreads) row[k] = table.pad;
  }
}

// Arrays of the host that go to the device in one copy.
class Upload {
 public:
  // Where an array will lie, bytes.
  template <typename T>
  int64_t add(const T* from, int64_t count) {
    const int64_t at = bytes_;
    parts_.push_back({at, from, static_cast<size_t>(count) * sizeof(T)});
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
    return at;
  }

  int64_t bytes() const { return bytes_; }

  void start(uint8_t* device, void* pinned, cudaStream_t queue) const {
    uint8_t* const host = static_cast<uint8_t*>(pinned);
    for (const Part& part : parts_) {
      if (part.bytes > 0) memcpy(host + part.at, part.from, part.bytes);
    }
    DP_CUDA(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes_), cudaMemcpyHostToDevice, queue));
  }

 private:
  struct Part {
    int64_t at;
    const void* from;
    size_t bytes;
  };
  std::vector<Part> parts_;
  int64_t bytes_ = 0;
};

// Where everything lies in scratch, in bytes; its head is the upload, then comes each sample's own.
struct EditSchedule {
  std::vector<int64_t> own;  // int32 elements from `scratch`
  Upload upload;
  int64_t passes, starts, data, lengths, capacities, places, own_places, choices, bags, weights, scratch;
  int64_t bytes;

  explicit EditSchedule(const TokenParams& p) : own(static_cast<size_t>(p.n)) {
    int64_t elements = 0;
    for (int32_t i = 0; i < p.n; ++i) {
      own[static_cast<size_t>(i)] = elements;
      if (p.starts[i] < p.starts[i + 1]) elements += 2 * int64_t{p.capacities[i]} + bit_words(p.capacities[i]);
    }
    passes = upload.add(p.passes, p.n > 0 ? p.starts[p.n] : 0);
    starts = upload.add(p.starts, p.n > 0 ? p.n + int64_t{1} : 0);
    data = upload.add(p.data, p.n);
    lengths = upload.add(p.lengths, p.n);
    capacities = upload.add(p.capacities, p.n);
    places = upload.add(p.places, p.n);
    own_places = upload.add(own.data(), p.n);
    choices = upload.add(p.choices, p.choices_count);
    bags = upload.add(p.bags, p.bag_count);
    weights = upload.add(p.weights, p.weights_count);
    scratch = upload.bytes();
    bytes = scratch + elements * static_cast<int64_t>(sizeof(int32_t));
  }

  EditBatch on_device(const TokenParams& p, uint8_t* device) const {
    return {reinterpret_cast<const TokenPass*>(device + passes),
            reinterpret_cast<const int32_t*>(device + starts),
            reinterpret_cast<const uint64_t*>(device + data),
            reinterpret_cast<const int32_t*>(device + lengths),
            reinterpret_cast<const int32_t*>(device + capacities),
            reinterpret_cast<const int64_t*>(device + places),
            reinterpret_cast<const int64_t*>(device + own_places),
            {reinterpret_cast<const TokenChoices*>(device + choices), reinterpret_cast<const TokenBag*>(device + bags),
             reinterpret_cast<const TokenWeights*>(device + weights)},
            p.out,
            p.out_lengths,
            reinterpret_cast<int32_t*>(device + scratch),
            p.n};
  }
};

// What of rows is the host's.
struct RowSchedule {
  Upload upload;
  int64_t starts, prefix, suffix;

  explicit RowSchedule(const TokenRows& r) {
    starts = upload.add(r.starts, r.n > 0 ? r.n + int64_t{1} : 0);
    prefix = upload.add(r.prefix, r.prefix_count);
    suffix = upload.add(r.suffix, r.suffix_count);
  }

  TokenRows on_device(TokenRows r, const uint8_t* device) const {
    r.starts = reinterpret_cast<const int32_t*>(device + starts);
    r.prefix = reinterpret_cast<const int32_t*>(device + prefix);
    r.suffix = reinterpret_cast<const int32_t*>(device + suffix);
    return r;
  }
};

// Uploads what rows need; they are then the device's.
TokenRows upload_rows(const char* what, const TokenRows& r, void* scratch, size_t scratch_bytes, void* pinned,
                      size_t pinned_bytes, cudaStream_t queue) {
  const RowSchedule schedule(r);
  check_room(what, "scratch", schedule.upload.bytes(), scratch_bytes, scratch);
  check_room(what, "pinned memory", schedule.upload.bytes(), pinned_bytes, pinned);
  uint8_t* const device = static_cast<uint8_t*>(scratch);
  schedule.upload.start(device, pinned, queue);
  return schedule.on_device(r, device);
}

}  // namespace

TokenBytes edit_tokens_cuda_bytes(const TokenParams& p) {
  check_tokens(p);
  const EditSchedule schedule(p);
  return {static_cast<size_t>(schedule.bytes), static_cast<size_t>(schedule.upload.bytes())};
}

TokenBytes rows_cuda_bytes(const TokenRows& r) {
  check_rows(r);
  const size_t bytes = static_cast<size_t>(RowSchedule(r).upload.bytes());
  return {bytes, bytes};
}

void edit_tokens_cuda(const TokenParams& p, void* scratch, size_t scratch_bytes, void* pinned, size_t pinned_bytes,
                      void* stream) {
  check_tokens(p);
  if (p.n == 0) return;
  const EditSchedule schedule(p);
  check_room("edit_tokens", "scratch", schedule.bytes, scratch_bytes, scratch);
  check_room("edit_tokens", "pinned memory", schedule.upload.bytes(), pinned_bytes, pinned);
  uint8_t* const device = static_cast<uint8_t*>(scratch);
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  schedule.upload.start(device, pinned, queue);
  launch(edit_tokens_kernel, (p.n + kThreads - 1) / kThreads, kThreads, queue, schedule.on_device(p, device));
}

void count_rows_cuda(const TokenRows& r, int32_t* lengths, void* scratch, size_t scratch_bytes, void* pinned,
                     size_t pinned_bytes, void* stream) {
  check_rows(r);
  if (r.n == 0) return;
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  const TokenRows rows = upload_rows("count_rows", r, scratch, scratch_bytes, pinned, pinned_bytes, queue);
  launch(count_rows_kernel, r.n, kRowThreads, queue, rows, lengths);
}

void write_rows_cuda(const TokenRows& r, const TokenTable& to, void* scratch, size_t scratch_bytes, void* pinned,
                     size_t pinned_bytes, void* stream) {
  check_rows(r, to);
  if (r.n == 0 || to.columns == 0) return;
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  const TokenRows rows = upload_rows("write_rows", r, scratch, scratch_bytes, pinned, pinned_bytes, queue);
  launch(write_rows_kernel, r.n, kRowThreads, queue, rows, to);
}

}  // namespace dalipipe
