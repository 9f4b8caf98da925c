// Which operators of a policy are applied to which samples, given the numbers drawn for them; `dalipipe.policy` is the
// specification of containers. And what else is made of a batch's draws, sample by sample.
#pragma once

#include <cstdint>

#include "ops.h"
#include "token.h"

namespace dalipipe {

enum class GateKind : int32_t { all = 0, one_of = 1, some_of = 2, order = 3 };

// A container, over `count` nodes. All of its gates are closed where u[column] >= p; the numbers behind that one
// choose.
struct GateBox {
  int32_t kind;    // a `GateKind`
  int32_t column;  // of `u`
  int32_t count;
  int32_t first_edge;  // one_of: of `edges`, `count` of them, rising
  int32_t low, high;   // some_of: how many
  double p;
};

// An operator: where u[column] < p (column -1: always) and all of its gates are open.
struct GateLeaf {
  double p;
  int32_t column, first_gate, gates, unused;
};

// Gate `gate` of box `box`: of order, place * count + node; else the node's number.
struct Gate {
  int32_t box, gate;
};

struct GateParams {
  const double* u;  // [N, columns]
  int64_t n;
  int32_t columns;
  const GateBox* boxes;
  const GateLeaf* leaves;
  const Gate* gates;
  const double* edges;
  int32_t box_count, leaf_count, gate_count, edge_count;
};

// rows [leaf_count, N]: of each leaf, the samples that it is applied to, rising; counts [leaf_count]. Throws
// std::invalid_argument for what points outside.
void open_leaves(const GateParams& p, int64_t* rows, int64_t* counts);

// What was drawn of an operator on texts: a pass of its own for each of its samples, made of `pattern`.
struct TokenFoldOp {
  const int64_t* rows;  // [count], each sample once at most
  int64_t count;
  const double* share;    // [count]
  const uint32_t* noise;  // [count, 5], `NoiseKey`s
  int64_t* at;            // [count], or null: which pass each of its samples has it in
  TokenPass pattern;
};

// starts [N + 1]; passes [sum of counts]: sample after sample, in the operators' order.
void fold_tokens(const TokenFoldOp* ops, int32_t op_count, int64_t n, int32_t* starts, TokenPass* passes);

}  // namespace dalipipe
