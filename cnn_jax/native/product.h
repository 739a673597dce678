// Vectors of floats, and c = a b for matrices of floats.
//
//   a [rows x k]    b [k x columns]    c [rows x columns]
//
// k is cut into pieces of at most kDepth. For each piece and for every kPanel columns, b
// is copied into a tile that fits into the first-level cache. The inner loop multiplies
// kRows rows of a by this tile and keeps their kRows x kPanel sums in registers. The
// matrices of winograd.h are small: it calls the inner loop with b itself.
//
// Source: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication",
// 2008; the loop over rows is the inner one here, because a stays in the second-level
// cache.
#ifndef CNN_JAX_PRODUCT_H_
#define CNN_JAX_PRODUCT_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace product {

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 14;
#else
constexpr int kLanes = 8, kRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;
constexpr int64_t kDepth = 256;
constexpr int kLine = 16;  // floats in a line of the cache

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned
    __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector Load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void Store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

inline int64_t Quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }  // rounded up

// Copies n floats. memcpy is slower for few.
inline void Copy(const float* from, int64_t n, float* to) {
  for (; n >= kLanes; n -= kLanes, from += kLanes, to += kLanes) Store(to, Load(from));
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

// A factor of a product. Element (i, k) of a lies at data[i * row + k * step]; the rows
// of b lie `step` apart.
struct Factor {
  const float* data;
  int64_t row, step;
};

// c [rows x columns] = a b, added to c if `add`. b has vectors * kLanes columns.
template <int rows, int vectors>
void MultiplyTile(Factor a, Factor b, int64_t k, float* c, int64_t c_row,
                  int64_t columns, bool add) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors * kLanes; j += kLine)
      __builtin_prefetch(c + i * c_row + j, 1);
  Vector sums[rows][vectors] = {};
  for (; k > 0; k--, a.data += a.step, b.data += b.step)
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < vectors; j++)
        sums[i][j] += a.data[i * a.row] * Load(b.data + j * kLanes);
  for (int i = 0; i < rows; i++, c += c_row) {
    if (columns == vectors * kLanes) {
      for (int j = 0; j < vectors; j++) {
        float* to = c + j * kLanes;
        Store(to, add ? Load(to) + sums[i][j] : sums[i][j]);
      }
    } else {
      float line[vectors * kLanes];
      for (int j = 0; j < vectors; j++) Store(line + j * kLanes, sums[i][j]);
      for (int64_t j = 0; j < columns; j++) c[j] = add ? c[j] + line[j] : line[j];
    }
  }
}

// Multiplies any number of rows: kRows at a time, then half as many, ..., then one.
template <int vectors, int rows = kRows>
void MultiplyRows(int64_t count, Factor a, Factor b, int64_t k, float* c, int64_t c_row,
                  int64_t columns, bool add) {
  for (; count >= rows; count -= rows, a.data += rows * a.row, c += rows * c_row)
    MultiplyTile<rows, vectors>(a, b, k, c, c_row, columns, add);
  if constexpr (rows > 1)
    MultiplyRows<vectors, rows / 2>(count, a, b, k, c, c_row, columns, add);
}

// Multiplies by one or two vectors of b, as the columns need, `most` rows at a time.
template <int most = kRows>
void MultiplyPanel(int64_t count, Factor a, Factor b, int64_t k, float* c,
                   int64_t c_row, int64_t columns, bool add) {
  if (columns > kLanes)
    MultiplyRows<2, most>(count, a, b, k, c, c_row, columns, add);
  else
    MultiplyRows<1, most>(count, a, b, k, c, c_row, columns, add);
}

inline int64_t TileColumns(int64_t columns) { return columns > kLanes ? kPanel : kLanes; }

// Writes a tile of `depth` rows from b [.., columns], whose rows lie `row` apart.
inline void CopyTile(const float* b, int64_t row, int64_t depth, int64_t columns,
                     float* tile) {
  const int64_t width = TileColumns(columns);
  if (columns == kPanel) {
    for (int64_t k = 0; k < depth; k++, b += row, tile += kPanel) {
      Store(tile, Load(b));
      Store(tile + kLanes, Load(b + kLanes));
    }
    return;
  }
  for (int64_t k = 0; k < depth; k++, b += row, tile += width) {
    Copy(b, columns, tile);
    std::fill(tile + columns, tile + width, 0.f);
  }
}

// Transposes kLanes vectors: exchanges blocks of 1, 2, 4, ... numbers.
inline void Transpose(Vector* v) {
  typedef int32_t Indices __attribute__((vector_size(4 * kLanes)));
  for (int s = 1; s < kLanes; s *= 2) {
    Indices low, high;
    for (int i = 0; i < kLanes; i++) {
      low[i] = i & s ? kLanes + i - s : i;
      high[i] = i & s ? kLanes + i : i + s;
    }
    for (int i = 0; i < kLanes; i++)
      if (!(i & s)) {
        const Vector a = v[i], b = v[i + s];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + s] = __builtin_shuffle(a, b, high);
      }
  }
}

// Does the same for the transpose of b: b is [columns, ..].
inline void TransposeTile(const float* b, int64_t row, int64_t depth, int64_t columns,
                          float* tile) {
  const int64_t width = TileColumns(columns);
  for (int64_t left = 0; left < width; left += kLanes) {
    const int64_t count = std::clamp<int64_t>(columns - left, 0, kLanes);
    int64_t k = 0;
    for (; count == kLanes && k + kLanes <= depth; k += kLanes) {
      Vector block[kLanes];
      for (int i = 0; i < kLanes; i++) block[i] = Load(b + (left + i) * row + k);
      Transpose(block);
      for (int i = 0; i < kLanes; i++) Store(tile + (k + i) * width + left, block[i]);
    }
    for (; k < depth; k++)
      for (int64_t i = 0; i < kLanes; i++)
        tile[k * width + left + i] = i < count ? b[(left + i) * row + k] : 0;
  }
}

// The rows of b in a piece; the last piece may have fewer.
inline int64_t PieceDepth(int64_t summed) {
  return Quotient(summed, Quotient(summed, kDepth));
}

// Computes c from a(k, depth), which returns the Factor of a piece, and from
// b(k, depth, left, columns, memory), which returns a tile. It may write it to memory.
template <typename A, typename B>
void Multiply(int64_t rows, int64_t columns, int64_t summed, const A& a, const B& b,
              float* c, int64_t c_row) {
  if (summed == 0) return;  // c is not written
  alignas(64) float memory[kDepth * kPanel];
  const int64_t most = PieceDepth(summed);
  for (int64_t k = 0; k < summed; k += most) {
    const int64_t depth = std::min(most, summed - k);
    const Factor factor = a(k, depth);
    for (int64_t left = 0; left < columns; left += kPanel) {
      const int64_t width = std::min<int64_t>(kPanel, columns - left);
      const float* tile = b(k, depth, left, width, memory);
      MultiplyPanel(rows, factor, {tile, 0, TileColumns(width)}, depth, c + left, c_row,
                    width, k > 0);
    }
  }
}

}  // namespace product

#endif  // CNN_JAX_PRODUCT_H_
