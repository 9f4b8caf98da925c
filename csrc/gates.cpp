#include "gates.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace dalipipe {
namespace {

void check(bool good, const char* what) {
  if (!good) throw std::invalid_argument(std::string("open_leaves: ") + what);
}

void check_gates(const GateParams& p) {
  check(p.n >= 0 && p.columns >= 0, "sizes must not be negative");
  for (int32_t b = 0; b < p.box_count; ++b) {
    const GateBox& box = p.boxes[b];
    const bool numbers =
        box.kind == static_cast<int32_t>(GateKind::some_of) || box.kind == static_cast<int32_t>(GateKind::order);
    const int32_t own = 1 + (box.kind == static_cast<int32_t>(GateKind::some_of) ? 1 : 0) + (numbers ? box.count : 0) +
                        (box.kind == static_cast<int32_t>(GateKind::one_of) ? 1 : 0);
    check(box.kind >= 0 && box.kind <= static_cast<int32_t>(GateKind::order), "an unknown kind of container");
    check(box.count >= 1 && box.count <= 1 << 20, "a container of no nodes, or of too many");
    check(box.column >= 0 && box.column <= p.columns - own, "a container's numbers are outside");
    check(box.kind != static_cast<int32_t>(GateKind::one_of) ||
              (box.count > 0 && box.first_edge >= 0 && box.first_edge <= p.edge_count - box.count),
          "a container's weights are outside");
  }
  for (int32_t l = 0; l < p.leaf_count; ++l) {
    const GateLeaf& leaf = p.leaves[l];
    check(leaf.column >= -1 && leaf.column < p.columns, "an operator's number is outside");
    check(leaf.gates >= 0 && leaf.first_gate >= 0 && leaf.first_gate <= p.gate_count - leaf.gates,
          "an operator's gates are outside");
  }
  for (int32_t g = 0; g < p.gate_count; ++g) {
    check(p.gates[g].box >= 0 && p.gates[g].box < p.box_count && p.gates[g].gate >= 0, "a gate is of no container");
  }
}

// What a container has chosen for each sample. `chosen`: -1: all is closed; one_of: the node; some_of: how many are
// open; `places`, [N, count]: some_of: of each node, how many are drawn before it; order: the node in each place.
struct Choices {
  std::vector<int32_t> chosen, places;
};

// The order in which numbers rise; equal ones stay as they stand.
void sort_by(const double* u, int32_t* order, int32_t count) {
  std::iota(order, order + count, 0);
  std::stable_sort(order, order + count, [u](int32_t a, int32_t b) { return u[a] < u[b]; });
}

int32_t choose(const GateBox& box, const double* edges, const double* u, int32_t* places, int32_t* order) {
  if (u[0] >= box.p) return -1;
  if (box.kind == static_cast<int32_t>(GateKind::one_of)) {
    int32_t below = 0;
    for (int32_t e = 0; e < box.count; ++e) below += edges[box.first_edge + e] <= u[1];
    return std::min(below, box.count - 1);
  }
  if (box.kind == static_cast<int32_t>(GateKind::some_of)) {
    sort_by(u + 2, order, box.count);
    for (int32_t place = 0; place < box.count; ++place) places[order[place]] = place;
    return box.low + std::min(static_cast<int32_t>(u[1] * (box.high - box.low + 1)), box.high - box.low);
  }
  if (box.kind == static_cast<int32_t>(GateKind::order)) sort_by(u + 1, places, box.count);
  return 0;
}

Choices choose_all(const GateParams& p, const GateBox& box) {
  const bool placed =
      box.kind == static_cast<int32_t>(GateKind::some_of) || box.kind == static_cast<int32_t>(GateKind::order);
  const int64_t count = placed ? box.count : 0;
  Choices found{std::vector<int32_t>(static_cast<size_t>(p.n)), std::vector<int32_t>(static_cast<size_t>(p.n * count))};
  std::vector<int32_t> order(static_cast<size_t>(count));
  for (int64_t i = 0; i < p.n; ++i) {
    const double* u = p.u + i * p.columns + box.column;
    found.chosen[i] = choose(box, p.edges, u, found.places.data() + i * count, order.data());
  }
  return found;
}

// Closes what this gate closes.
void close(const GateBox& box, const Choices& choices, int32_t gate, std::vector<uint8_t>& open) {
  const int64_t n = static_cast<int64_t>(open.size()), count = std::max(box.count, 1);
  const int32_t node = gate % static_cast<int32_t>(count), place = gate / static_cast<int32_t>(count);
  const int32_t *chosen = choices.chosen.data(), *places = choices.places.data();
  if (box.kind == static_cast<int32_t>(GateKind::one_of)) {
    for (int64_t i = 0; i < n; ++i) open[i] &= chosen[i] == gate;
  } else if (box.kind == static_cast<int32_t>(GateKind::some_of)) {
    for (int64_t i = 0; i < n; ++i) open[i] &= places[i * count + node] < chosen[i];
  } else if (box.kind == static_cast<int32_t>(GateKind::order)) {
    if (place >= box.count) return open.assign(open.size(), 0);
    for (int64_t i = 0; i < n; ++i) open[i] &= (chosen[i] == 0) & (places[i * count + place] == node);
  } else {
    for (int64_t i = 0; i < n; ++i) open[i] &= chosen[i] == 0;
  }
}

}  // namespace

void open_leaves(const GateParams& p, int64_t* rows, int64_t* counts) {
  check_gates(p);
  std::vector<Choices> choices;
  for (int32_t b = 0; b < p.box_count; ++b) choices.push_back(choose_all(p, p.boxes[b]));
  std::vector<uint8_t> open(static_cast<size_t>(p.n));
  for (int32_t l = 0; l < p.leaf_count; ++l) {
    const GateLeaf& leaf = p.leaves[l];
    for (int64_t i = 0; i < p.n; ++i) open[i] = leaf.column < 0 || p.u[i * p.columns + leaf.column] < leaf.p;
    for (int32_t g = leaf.first_gate; g < leaf.first_gate + leaf.gates; ++g) {
      close(p.boxes[p.gates[g].box], choices[p.gates[g].box], p.gates[g].gate, open);
    }
    int64_t* const to = rows + l * p.n;
    int64_t count = 0;
    for (int64_t i = 0; i < p.n; ++i) {  // without a branch: who is applied is not to be foretold
      to[count] = i;
      count += open[i];
    }
    counts[l] = count;
  }
}

void fold_tokens(const TokenFoldOp* ops, int32_t op_count, int64_t n, int32_t* starts, TokenPass* passes) {
  std::fill(starts, starts + n + 1, 0);
  for (int32_t j = 0; j < op_count; ++j) {
    for (int64_t k = 0; k < ops[j].count; ++k) {
      const int64_t row = ops[j].rows[k];
      if (row < 0 || row >= n) throw std::invalid_argument("fold_tokens: a row is outside the batch");
      ++starts[row + 1];
    }
  }
  std::partial_sum(starts, starts + n + 1, starts);
  std::vector<int32_t> next(starts, starts + n);
  for (int32_t j = 0; j < op_count; ++j) {
    const TokenFoldOp& op = ops[j];
    for (int64_t k = 0; k < op.count; ++k) {
      const int32_t at = next[static_cast<size_t>(op.rows[k])]++;
      TokenPass& pass = passes[at];
      pass = op.pattern;
      pass.share = op.share[k];
      const uint32_t* noise = op.noise + 5 * k;
      pass.key = {{noise[0], noise[1]}, {noise[2], noise[3], noise[4]}};
      if (op.at != nullptr) op.at[k] = at;
    }
  }
}

}  // namespace dalipipe
