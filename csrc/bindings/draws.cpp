// Random numbers, orders, and operators folded into passes.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>

#include "bindings/bindings.h"
#include "fold.h"
#include "gates.h"
#include "permutation.h"
#include "philox.h"

namespace dalipipe {
namespace {

void philox(const Array<uint32_t>& counters, uint32_t key0, uint32_t key1, Array<uint32_t> out) {
  if (out.size() != counters.size() || counters.size() % 4) throw std::invalid_argument("philox: sizes differ");
  const uint32_t* from = counters.data();
  uint32_t* to = out.mutable_data();
  for (py::ssize_t i = 0; i < counters.size(); i += 4) {
    const Philox4 drawn = philox4x32({{from[i], from[i + 1], from[i + 2], from[i + 3]}}, key0, key1);
    std::copy(drawn.word, drawn.word + 4, to + i);
  }
}

// Four numbers in [0, 1) for each index and each (slot, block) pair: out [indices, pairs, 4]. `variants`: of each
// index, or one for all.
void uniforms(const Array<int64_t>& indices, const Array<uint32_t>& variants, const Array<uint32_t>& slots,
              const Array<uint32_t>& blocks, uint32_t key0, uint32_t key1, Array<double> out) {
  const int64_t n = indices.size(), pairs = slots.size();
  if (blocks.size() != pairs || out.size() != 4 * n * pairs || (variants.size() != n && variants.size() != 1)) {
    throw std::invalid_argument("uniforms: sizes differ");
  }
  const int64_t* index = indices.data();
  const uint32_t *variant = variants.data(), *slot = slots.data(), *block = blocks.data();
  const bool one = variants.size() == 1;
  double* to = out.mutable_data();
  NoGil nogil;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t at = static_cast<uint64_t>(index[i]);
    for (int64_t pair = 0; pair < pairs; ++pair, to += 4) {
      const uint32_t place = slot[pair] | variant[one ? 0 : i] << 16;
      const Philox4 drawn =
          philox4x32({{static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), place, block[pair]}}, key0, key1);
      for (int w = 0; w < 4; ++w) to[w] = drawn.word[w] * 0x1p-32;
    }
  }
}

// A `NoiseKey` for each index, out [indices, 5]. `variants`: of each index, or one for all.
void noise_keys(const Array<int64_t>& indices, const Array<uint32_t>& variants, uint32_t slot, uint32_t key0,
                uint32_t key1, Array<uint32_t> out) {
  const int64_t n = indices.size();
  if (out.size() != 5 * n || (variants.size() != n && variants.size() != 1)) {
    throw std::invalid_argument("noise_keys: sizes differ");
  }
  const int64_t* index = indices.data();
  const uint32_t* variant = variants.data();
  const int64_t step = variants.size() == 1 ? 0 : 1;
  uint32_t* to = out.mutable_data();
  for (int64_t i = 0; i < n; ++i, to += 5) {
    const uint64_t at = static_cast<uint64_t>(index[i]);
    to[0] = key0, to[1] = key1;
    to[2] = static_cast<uint32_t>(at), to[3] = static_cast<uint32_t>(at >> 32), to[4] = slot | variant[i * step] << 16;
  }
}

// Addresses and sizes as dalipipe.native has checked them.
void open_leaves_at(uintptr_t u, int64_t n, int32_t columns, uintptr_t boxes, int32_t box_count, uintptr_t leaves,
                    int32_t leaf_count, uintptr_t gates, int32_t gate_count, uintptr_t edges, int32_t edge_count,
                    uintptr_t rows, uintptr_t counts) {
  GateParams p{};
  p.u = reinterpret_cast<const double*>(u);
  p.n = n;
  p.columns = columns;
  p.boxes = reinterpret_cast<const GateBox*>(boxes);
  p.box_count = box_count;
  p.leaves = reinterpret_cast<const GateLeaf*>(leaves);
  p.leaf_count = leaf_count;
  p.gates = reinterpret_cast<const Gate*>(gates);
  p.gate_count = gate_count;
  p.edges = reinterpret_cast<const double*>(edges);
  p.edge_count = edge_count;
  open_leaves(p, reinterpret_cast<int64_t*>(rows), reinterpret_cast<int64_t*>(counts));
}

void fold_tokens_at(uintptr_t ops, int32_t op_count, int64_t n, uintptr_t starts, uintptr_t passes) {
  fold_tokens(reinterpret_cast<const TokenFoldOp*>(ops), op_count, n, reinterpret_cast<int32_t*>(starts),
              reinterpret_cast<TokenPass*>(passes));
}

std::unique_ptr<Folded> fold_ops(uintptr_t ops, int32_t op_count, uintptr_t size, int32_t n, bool normalises,
                                 const std::array<float, 3>& scale, const std::array<float, 3>& bias) {
  FoldParams p{};
  p.ops = reinterpret_cast<const FoldOp*>(ops);
  p.op_count = op_count;
  p.size = reinterpret_cast<const int64_t*>(size);
  p.n = n;
  p.normalises = normalises;
  std::copy(scale.begin(), scale.end(), p.scale);
  std::copy(bias.begin(), bias.end(), p.bias);
  return std::make_unique<Folded>(fold(p));
}

// A part of a Folded as it lies, flat: structs as bytes.
template <auto Member>
py::array part(const py::object& folded) {
  const auto& values = folded.cast<const Folded&>().*Member;
  using T = typename std::decay_t<decltype(values)>::value_type;
  if constexpr (std::is_arithmetic_v<T>) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), folded);
  } else {
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    return py::array_t<uint8_t>(static_cast<py::ssize_t>(values.size() * sizeof(T)), bytes, folded);
  }
}

void permute_all(uint64_t n, int32_t low_bits, int32_t high_bits,
                 const std::array<uint64_t, kFeistelRounds>& round_keys, const Array<int64_t>& positions,
                 Array<int64_t> out) {
  Permutation p{n, low_bits, high_bits, {}};
  std::copy(round_keys.begin(), round_keys.end(), p.round_keys);
  if (out.size() != positions.size()) throw std::invalid_argument("permute: sizes differ");
  if (low_bits < 1 || high_bits < 1 || low_bits + high_bits > 63 || n < 1 || (n - 1) >> (low_bits + high_bits) != 0) {
    throw std::invalid_argument("permute: the bits are not those of n");  // it would walk for ever
  }
  const int64_t* from = positions.data();
  int64_t* to = out.mutable_data();
  const int64_t count = positions.size();
  for (int64_t i = 0; i < count; ++i) {
    if (static_cast<uint64_t>(from[i]) >= n) throw std::invalid_argument("permute: a position is outside 0 to n - 1");
  }
  NoGil nogil;
  constexpr int kTogether = 8;
  for (int64_t begin = 0; begin < count; begin += kTogether) {
    uint64_t x[kTogether];
    for (int k = 0; k < kTogether; ++k) x[k] = static_cast<uint64_t>(from[std::min(begin + k, count - 1)]);
    feistel(p, x);
    for (int k = 0; k < kTogether && begin + k < count; ++k) {
      to[begin + k] = static_cast<int64_t>(x[k] < n ? x[k] : permute(p, x[k]));
    }
  }
}

}  // namespace

void bind_draws(py::module_& m, py::dict& layouts) {
#define AT(field) layout[#field] = offsetof(Struct, field)
  {
    using Struct = FoldOp;
    py::dict layout(""_a = sizeof(Struct));
    AT(family), AT(detail), AT(fill), AT(normalised), AT(count), AT(width), AT(rows), AT(params), AT(depths);
    AT(value), AT(sigma);
    layouts["FoldOp"] = layout;
  }
  {
    using Struct = GateBox;
    py::dict layout(""_a = sizeof(Struct));
    AT(kind), AT(column), AT(count), AT(first_edge), AT(low), AT(high), AT(p);
    layouts["GateBox"] = layout;
  }
  {
    using Struct = GateLeaf;
    py::dict layout(""_a = sizeof(Struct));
    AT(p), AT(column), AT(first_gate), AT(gates), AT(unused);
    layouts["GateLeaf"] = layout;
  }
  {
    using Struct = Gate;
    py::dict layout(""_a = sizeof(Struct));
    AT(box), AT(gate);
    layouts["Gate"] = layout;
  }
  {
    using Struct = TokenFoldOp;
    py::dict layout(""_a = sizeof(Struct));
    AT(rows), AT(count), AT(share), AT(noise), AT(at), AT(pattern);
    layouts["TokenFoldOp"] = layout;
  }
#undef AT

  m.def("noise_keys", &noise_keys, py::kw_only(), "indices"_a.noconvert(), "variants"_a.noconvert(), "slot"_a, "key0"_a,
        "key1"_a, "out"_a.noconvert());
  m.def("open_leaves", &open_leaves_at, py::kw_only(), "u"_a, "n"_a, "columns"_a, "boxes"_a, "box_count"_a, "leaves"_a,
        "leaf_count"_a, "gates"_a, "gate_count"_a, "edges"_a, "edge_count"_a, "rows"_a, "counts"_a,
        py::call_guard<NoGil>());
  m.def("fold_tokens", &fold_tokens_at, py::kw_only(), "ops"_a, "op_count"_a, "n"_a, "starts"_a, "passes"_a,
        py::call_guard<NoGil>());
  m.def("philox", &philox, py::kw_only(), "counters"_a.noconvert(), "key0"_a, "key1"_a, "out"_a.noconvert());
  m.def("uniforms", &uniforms, py::kw_only(), "indices"_a.noconvert(), "variants"_a.noconvert(), "slots"_a.noconvert(),
        "blocks"_a.noconvert(), "key0"_a, "key1"_a, "out"_a.noconvert());
  py::class_<Folded>(m, "Folded")
      .def_property_readonly("passes", &part<&Folded::passes>)
      .def_property_readonly("starts", &part<&Folded::starts>)
      .def_property_readonly("box", &part<&Folded::box>)
      .def_property_readonly("roi", &part<&Folded::roi>)
      .def_property_readonly("out_size", &part<&Folded::out_size>)
      .def_property_readonly("tables", &part<&Folded::tables>)
      .def_property_readonly("weights", &part<&Folded::weights>)
      .def_property_readonly("erases", &part<&Folded::erases>)
      .def_property_readonly("scaled", &part<&Folded::scaled>)
      .def_property_readonly("elastic_at", &part<&Folded::elastic_at>)
      .def_property_readonly("elastic_size", &part<&Folded::elastic_size>)
      .def_property_readonly("elastic_alpha", &part<&Folded::elastic_alpha>)
      .def_property_readonly("elastic_sigma", &part<&Folded::elastic_sigma>)
      .def_property_readonly("elastic_noise", &part<&Folded::elastic_noise>);
  m.def("fold", &fold_ops, py::kw_only(), "ops"_a, "op_count"_a, "size"_a, "n"_a, "normalises"_a, "scale"_a, "bias"_a,
        py::call_guard<NoGil>());
  m.def("permute", &permute_all, py::kw_only(), "n"_a, "low_bits"_a, "high_bits"_a, "round_keys"_a,
        "positions"_a.noconvert(), "out"_a.noconvert());
}

}  // namespace dalipipe
