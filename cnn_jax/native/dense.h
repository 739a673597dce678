// Dense layers of few rows in evaluation: y [rows, outputs] = x [rows, inputs] w + b.
//
// Most of the time goes into reading w. It is packed once, into panels of kPanel columns,
// one behind the other, so that every thread reads its panels from memory in their order.
#ifndef CNN_JAX_DENSE_H_
#define CNN_JAX_DENSE_H_

#include <algorithm>
#include <cstdint>

#include "product.h"

namespace dense {

using product::kPanel, product::Quotient;

struct Shape {
  int64_t rows, inputs, outputs;

  int64_t Panels() const { return Quotient(outputs, kPanel); }
  int64_t PackedFloats() const { return Panels() * kPanel * inputs; }
};

inline void Pack(const Shape& s, const float* w, float* packed) {
  for (int64_t left = 0; left < s.outputs; left += kPanel)
    product::CopyTile(w + left, s.outputs, s.inputs,
                      std::min<int64_t>(kPanel, s.outputs - left),
                      packed + left * s.inputs);
}

// Computes x w for a panel. The inputs are summed in pieces: smaller rounding errors.
inline void Multiply(const Shape& s, const float* x, const float* packed, int64_t panel,
                     float* y) {
  const int64_t left = panel * kPanel;
  const int64_t columns = std::min<int64_t>(kPanel, s.outputs - left);
  const int64_t width = product::TileColumns(columns);
  const int64_t depth = product::PieceDepth(s.inputs);
  for (int64_t k = 0; k < s.inputs; k += depth)
    product::MultiplyPanel(s.rows, {x + k, s.inputs, 1},
                           {packed + left * s.inputs + k * width, 0, width},
                           std::min(depth, s.inputs - k), y + left, s.outputs, columns,
                           k > 0);
}

}  // namespace dense

#endif  // CNN_JAX_DENSE_H_
