// Vectors of floats, and c = a b for matrices of floats or of bfloat16.
//
//   a [rows x k]    b [k x columns]    c [rows x columns]
//
// All sums are floats. a and b consist of words of 4 bytes: a word is a float, or two
// bfloat16 that follow each other along k, which one instruction multiplies and adds.
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
#include <type_traits>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace product {

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 14;
#else
constexpr int kLanes = 8, kRows = 6;
#endif
constexpr int kPanel = 2 * kLanes;
constexpr int64_t kDepth = 256;  // words
constexpr int kLine = 16;  // floats in a line of the cache

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned
    __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector Load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void Store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

// bfloat16, the upper half of a float.
struct Bfloat16 {
  uint16_t bits;
};
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));

inline Words LoadBits(const Bfloat16* p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof(halves));
  return __builtin_convertvector(halves, Words);
}
inline Vector Load(const Bfloat16* p) {
  return reinterpret_cast<Vector>(LoadBits(p) << 16);
}
inline void Store(Bfloat16* p, Vector v) {  // rounded to nearest, ties to even
#ifdef __AVX512BF16__
  const __m256bh halves = _mm512_cvtneps_pbh(v);
#else
  const Words bits = reinterpret_cast<Words>(v);
  const Words rounded = bits + 0x7fff + (bits >> 16 & 1), nan = bits | 0x400000;
  const Halves halves = __builtin_convertvector((v == v ? rounded : nan) >> 16, Halves);
#endif
  std::memcpy(p, &halves, sizeof(halves));
}

// A float, or two bfloat16, which are read and written as the bits of a float.
typedef float Word __attribute__((may_alias));
template <typename Number>
constexpr int64_t kTogether = sizeof(Word) / sizeof(Number);  // numbers of a word

inline int64_t Quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }  // rounded up

// Copies n numbers. memcpy is slower for few.
template <typename Number>
void Copy(const Number* from, int64_t n, Number* to) {
  constexpr int64_t most = kLanes * kTogether<Number>;
  for (; n >= most; n -= most, from += most, to += most)
    Store(reinterpret_cast<float*>(to), Load(reinterpret_cast<const float*>(from)));
  if (sizeof(Number) < sizeof(float) && n >= kLanes) {
    std::memcpy(to, from, kLanes * sizeof(Number));
    n -= kLanes, from += kLanes, to += kLanes;
  }
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

// A factor of a product. Word (i, k) of a lies at data[i * row + k * step]; the rows of
// b lie `step` apart.
struct Factor {
  const Word* data;
  int64_t row, step;
};

// Where a product goes. It is added to the floats at `sums`, unless that is nullptr.
template <typename To>
struct Result {
  To* to;
  int64_t row;
  const float* sums;
  int64_t sums_row;

  Result At(int64_t i, int64_t j) const {
    return {to + i * row + j, row, sums ? sums + i * sums_row + j : nullptr, sums_row};
  }
};

// Returns sum + a b, for each word of b.
template <typename Number>
Vector MultiplyAdd(Vector sum, Word a, Vector b) {
  if constexpr (std::is_same_v<Number, float>) return sum + a * b;
#ifdef __AVX512BF16__
  else return _mm512_dpbf16_ps(sum, (__m512bh)(b), (__m512bh)(_mm512_set1_ps(a)));
#endif
}

// c [rows x columns] = a b. b has vectors * kLanes columns.
template <typename Number, int rows, int vectors, typename To>
void MultiplyTile(Factor a, Factor b, int64_t k, Result<To> c, int64_t columns) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors * kLanes; j += kLine * kTogether<To>)
      __builtin_prefetch(c.to + i * c.row + j, 1);
  Vector sums[rows][vectors] = {};
  for (; k > 0; k--, a.data += a.step, b.data += b.step)
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < vectors; j++)
        sums[i][j] = MultiplyAdd<Number>(sums[i][j], a.data[i * a.row],
                                         Load(b.data + j * kLanes));
  for (int i = 0; i < rows; i++, c = c.At(1, 0)) {
    if (columns == vectors * kLanes) {
      for (int j = 0; j < vectors; j++)
        Store(c.to + j * kLanes,
              c.sums ? Load(c.sums + j * kLanes) + sums[i][j] : sums[i][j]);
    } else {
      float before[vectors * kLanes] = {};
      To line[vectors * kLanes];
      if (c.sums) std::copy(c.sums, c.sums + columns, before);
      for (int j = 0; j < vectors; j++)
        Store(line + j * kLanes, Load(before + j * kLanes) + sums[i][j]);
      std::copy(line, line + columns, c.to);
    }
  }
}

// Multiplies any number of rows: kRows at a time, then half as many, ..., then one.
template <typename Number, int vectors, int rows, typename To>
void MultiplyRows(int64_t count, Factor a, Factor b, int64_t k, Result<To> c,
                  int64_t columns) {
  for (; count >= rows; count -= rows, a.data += rows * a.row, c = c.At(rows, 0))
    MultiplyTile<Number, rows, vectors>(a, b, k, c, columns);
  if constexpr (rows > 1)
    MultiplyRows<Number, vectors, rows / 2>(count, a, b, k, c, columns);
}

// Multiplies by one or two vectors of b, as the columns need, `most` rows at a time.
template <typename Number, int most = kRows, typename To>
void MultiplyPanel(int64_t count, Factor a, Factor b, int64_t k, Result<To> c,
                   int64_t columns) {
  if (columns > kLanes)
    MultiplyRows<Number, 2, most>(count, a, b, k, c, columns);
  else
    MultiplyRows<Number, 1, most>(count, a, b, k, c, columns);
}

// Multiplies matrices of floats; adds the product to c if `add`.
template <int most = kRows>
void MultiplyPanel(int64_t count, Factor a, Factor b, int64_t k, float* c,
                   int64_t c_row, int64_t columns, bool add) {
  MultiplyPanel<float, most>(count, a, b, k,
                             Result<float>{c, c_row, add ? c : nullptr, c_row}, columns);
}

inline int64_t TileColumns(int64_t columns) { return columns > kLanes ? kPanel : kLanes; }

// Writes pairs of two rows, whose numbers lie side by side. An odd last row pairs with
// zeros.
inline void WritePairs(const Bfloat16* b, int64_t row, int64_t depth, int64_t columns,
                       Word* to, int64_t to_row) {
  for (int64_t k = 0; k < depth; k += 2, b += 2 * row, to += to_row) {
    const Bfloat16* second = k + 1 < depth ? b + row : nullptr;
    int64_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) {
      Words words = LoadBits(b + j);
      if (second) words |= LoadBits(second + j) << 16;
      Store(to + j, reinterpret_cast<Vector>(words));
    }
    for (; j < columns; j++) {
      const Bfloat16 pair[] = {b[j], second ? second[j] : Bfloat16{}};
      std::memcpy(to + j, pair, sizeof(pair));
    }
  }
}

// Writes a tile of `depth` rows from b [.., columns], whose rows lie `row` apart.
inline void CopyTile(const Bfloat16* b, int64_t row, int64_t depth, int64_t columns,
                     Word* tile) {
  const int64_t width = TileColumns(columns);
  WritePairs(b, row, depth, columns, tile, width);
  for (int64_t k = 0; k < Quotient(depth, 2) && columns < width; k++)
    std::fill(tile + k * width + columns, tile + (k + 1) * width, 0.f);
}
inline void CopyTile(const float* b, int64_t row, int64_t depth, int64_t columns,
                     Word* tile) {
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

// Does the same for the transpose of b, in words: b is [columns, ..].
inline void TransposeTile(const Word* b, int64_t row, int64_t depth, int64_t columns,
                          Word* tile) {
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

// The words of b's columns in a piece; the last piece may have fewer.
inline int64_t PieceDepth(int64_t words) {
  return Quotient(words, Quotient(words, kDepth));
}

// Computes c from a(k, depth), which returns the Factor of a piece, and from
// b(k, depth, left, columns, memory), which returns a tile. It may write it to memory.
// k and depth count numbers. The sums of all pieces but the last are kept at `sums`;
// if c holds floats, it may be c itself.
template <typename Number, typename To, typename A, typename B>
void Multiply(int64_t rows, int64_t columns, int64_t summed, const A& a, const B& b,
              float* sums, int64_t sums_row, To* c, int64_t c_row) {
  if (summed == 0) return;  // c is not written
  alignas(64) Word memory[kDepth * kPanel];
  const int64_t most =
      PieceDepth(Quotient(summed, kTogether<Number>)) * kTogether<Number>;
  for (int64_t k = 0; k < summed; k += most) {
    const int64_t depth = std::min(most, summed - k);
    const int64_t words = Quotient(depth, kTogether<Number>);
    const Factor factor = a(k, depth);
    for (int64_t left = 0; left < columns; left += kPanel) {
      const int64_t width = std::min<int64_t>(kPanel, columns - left);
      const Factor tile{b(k, depth, left, width, memory), 0, TileColumns(width)};
      const float* before = k > 0 ? sums + left : nullptr;
      if (k + depth < summed)
        MultiplyPanel<Number>(rows, factor, tile, words,
                              Result<float>{sums + left, sums_row, before, sums_row},
                              width);
      else
        MultiplyPanel<Number>(rows, factor, tile, words,
                              Result<To>{c + left, c_row, before, sums_row}, width);
    }
  }
}

}  // namespace product

#endif  // CNN_JAX_PRODUCT_H_
