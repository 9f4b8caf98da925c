// Edits of texts, and rows of batches made of them.
#include "bindings/bindings.h"
#include "cpu/pool.h"
#include "token.h"

namespace dalipipe {
namespace {

// Addresses and sizes as dalipipe.native has checked them; 0 is null.
TokenParams token_params(uintptr_t passes, uintptr_t starts, int32_t n, uintptr_t data, uintptr_t lengths,
                         uintptr_t capacities, uintptr_t places, uintptr_t out, int64_t out_count,
                         uintptr_t out_lengths, uintptr_t choices, int32_t choices_count, uintptr_t bags,
                         int32_t bag_count, uintptr_t weights, int32_t weights_count) {
  TokenParams p{};
  p.passes = reinterpret_cast<const TokenPass*>(passes);
  p.starts = reinterpret_cast<const int32_t*>(starts);
  p.n = n;
  p.data = reinterpret_cast<const uint64_t*>(data);
  p.lengths = reinterpret_cast<const int32_t*>(lengths);
  p.capacities = reinterpret_cast<const int32_t*>(capacities);
  p.places = reinterpret_cast<const int64_t*>(places);
  p.out = reinterpret_cast<int32_t*>(out);
  p.out_count = out_count;
  p.out_lengths = reinterpret_cast<int32_t*>(out_lengths);
  p.choices = reinterpret_cast<const TokenChoices*>(choices);
  p.choices_count = choices_count;
  p.bags = reinterpret_cast<const TokenBag*>(bags);
  p.bag_count = bag_count;
  p.weights = reinterpret_cast<const TokenWeights*>(weights);
  p.weights_count = weights_count;
  return p;
}

TokenRows token_rows(uintptr_t tokens, int64_t token_count, uintptr_t spans, int32_t span_count, uintptr_t starts,
                     int32_t n, uintptr_t piece_starts, uintptr_t pieces, int32_t words, int32_t piece_count,
                     uintptr_t prefix, int32_t prefix_count, uintptr_t suffix, int32_t suffix_count, int32_t most) {
  TokenRows r{};
  r.tokens = reinterpret_cast<const int32_t*>(tokens);
  r.token_count = token_count;
  r.spans = reinterpret_cast<const TokenSpan*>(spans);
  r.span_count = span_count;
  r.starts = reinterpret_cast<const int32_t*>(starts);
  r.n = n;
  r.pieces = {reinterpret_cast<const int32_t*>(piece_starts), reinterpret_cast<const int32_t*>(pieces), words,
              piece_count};
  r.prefix = reinterpret_cast<const int32_t*>(prefix);
  r.prefix_count = prefix_count;
  r.suffix = reinterpret_cast<const int32_t*>(suffix);
  r.suffix_count = suffix_count;
  r.most = most;
  return r;
}

TokenTable token_table(uintptr_t out, int64_t row_step, int32_t columns, int64_t pad) {
  return {reinterpret_cast<int64_t*>(out), row_step, columns, pad};
}

}  // namespace

void bind_tokens(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
  {
    using Struct = TokenPass;
    py::dict layout(""_a = sizeof(Struct));
    AT(edit), AT(choices), AT(bag), AT(weights), AT(least), AT(token), AT(share), AT(key), AT(unused);
    layouts["TokenPass"] = layout;
  }
  {
    using Struct = TokenChoices;
    py::dict layout(""_a = sizeof(Struct));
    AT(starts), AT(tokens), AT(words), AT(count);
    layouts["TokenChoices"] = layout;
  }
  {
    using Struct = TokenBag;
    py::dict layout(""_a = sizeof(Struct));
    AT(tokens), AT(keep), AT(other), AT(count), AT(first);
    layouts["TokenBag"] = layout;
  }
  {
    using Struct = TokenWeights;
    py::dict layout(""_a = sizeof(Struct));
    AT(weights), AT(words), AT(unused);
    layouts["TokenWeights"] = layout;
  }
#undef AT
  static_assert(sizeof(TokenSpan) == 2 * sizeof(int64_t), "Python gives spans as int64 [S, 2]");

  py::class_<TokenParams>(m, "TokenParams")
      .def(py::init(&token_params), py::kw_only(), "passes"_a, "starts"_a, "n"_a, "data"_a, "lengths"_a, "capacities"_a,
           "places"_a, "out"_a, "out_count"_a, "out_lengths"_a, "choices"_a, "choices_count"_a, "bags"_a, "bag_count"_a,
           "weights"_a, "weights_count"_a);
  py::class_<TokenRows>(m, "TokenRows")
      .def(py::init(&token_rows), py::kw_only(), "tokens"_a, "token_count"_a, "spans"_a, "span_count"_a, "starts"_a,
           "n"_a, "piece_starts"_a, "pieces"_a, "words"_a, "piece_count"_a, "prefix"_a, "prefix_count"_a, "suffix"_a,
           "suffix_count"_a, "most"_a);
  py::class_<TokenTable>(m, "TokenTable")
      .def(py::init(&token_table), py::kw_only(), "out"_a, "row_step"_a, "columns"_a, "pad"_a);
  m.def(
      "start_edit_tokens_cpu",
      [](const TokenParams& params, int32_t threads, py::object held) {
        return std::unique_ptr<Running>(
            new Running{std::move(held), Task([params, threads] { edit_tokens_cpu(params, threads); })});
      },
      py::kw_only(), "params"_a, "threads"_a, "held"_a);
  py::class_<TokenBatch>(m, "TokenBatch")
      .def(py::init([](uintptr_t out, int64_t out_count, int64_t pad, uintptr_t lengths, uintptr_t columns,
                       int32_t multiple) {
             return TokenBatch{reinterpret_cast<int64_t*>(out),     out_count, pad, reinterpret_cast<int64_t*>(lengths),
                               reinterpret_cast<int32_t*>(columns), multiple};
           }),
           py::kw_only(), "out"_a, "out_count"_a, "pad"_a, "lengths"_a, "columns"_a, "multiple"_a);
  m.def(
      "start_make_batch_cpu",
      [](const TokenParams& params, const TokenRows& rows, const TokenBatch& to, int32_t threads, py::object held) {
        return std::unique_ptr<Running>(new Running{
            std::move(held), Task([params, rows, to, threads] { make_batch_cpu(params, rows, to, threads); })});
      },
      py::kw_only(), "params"_a, "rows"_a, "to"_a, "threads"_a, "held"_a);
  m.def("edit_tokens_cpu", &edit_tokens_cpu, py::kw_only(), "params"_a, "threads"_a, py::call_guard<NoGil>());
  m.def(
      "count_rows_cpu",
      [](const TokenRows& rows, int32_t threads, uintptr_t lengths) {
        count_rows_cpu(rows, threads, reinterpret_cast<int32_t*>(lengths));
      },
      py::kw_only(), "rows"_a, "threads"_a, "lengths"_a, py::call_guard<NoGil>());
  m.def("write_rows_cpu", &write_rows_cpu, py::kw_only(), "rows"_a, "to"_a, "threads"_a, py::call_guard<NoGil>());
#ifdef DALIPIPE_WITH_CUDA
  const auto sizes = [](const TokenBytes& bytes) { return py::make_tuple(bytes.scratch, bytes.upload); };
  m.def(
      "edit_tokens_cuda_bytes", [sizes](const TokenParams& p) { return sizes(edit_tokens_cuda_bytes(p)); },
      py::kw_only(), "params"_a);
  m.def("rows_cuda_bytes", [sizes](const TokenRows& r) { return sizes(rows_cuda_bytes(r)); }, py::kw_only(), "rows"_a);
  m.def(
      "edit_tokens_cuda",
      [](const TokenParams& p, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned, size_t pinned_bytes,
         uintptr_t stream) {
        edit_tokens_cuda(p, reinterpret_cast<void*>(scratch), scratch_bytes, reinterpret_cast<void*>(pinned),
                         pinned_bytes, reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "params"_a, "scratch"_a, "scratch_bytes"_a, "pinned"_a, "pinned_bytes"_a, "stream"_a,
      py::call_guard<NoGil>());
  m.def(
      "count_rows_cuda",
      [](const TokenRows& r, uintptr_t lengths, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned,
         size_t pinned_bytes, uintptr_t stream) {
        count_rows_cuda(r, reinterpret_cast<int32_t*>(lengths), reinterpret_cast<void*>(scratch), scratch_bytes,
                        reinterpret_cast<void*>(pinned), pinned_bytes, reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "rows"_a, "lengths"_a, "scratch"_a, "scratch_bytes"_a, "pinned"_a, "pinned_bytes"_a, "stream"_a,
      py::call_guard<NoGil>());
  m.def(
      "write_rows_cuda",
      [](const TokenRows& r, const TokenTable& to, uintptr_t scratch, size_t scratch_bytes, uintptr_t pinned,
         size_t pinned_bytes, uintptr_t stream) {
        write_rows_cuda(r, to, reinterpret_cast<void*>(scratch), scratch_bytes, reinterpret_cast<void*>(pinned),
                        pinned_bytes, reinterpret_cast<void*>(stream));
      },
      py::kw_only(), "rows"_a, "to"_a, "scratch"_a, "scratch_bytes"_a, "pinned"_a, "pinned_bytes"_a, "stream"_a,
      py::call_guard<NoGil>());
#endif
}

}  // namespace dalipipe
