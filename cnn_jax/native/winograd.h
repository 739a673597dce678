// 3 x 3 convolution of stride 1 by Winograd's F(m x m, 3 x 3), for m = 4 and m = 2.
//
// The image is cut into tiles d of (m + 2) x (m + 2) pixels, m apart. For every tile
//
//   U = G w G^T    V = B^T d B    M = sum over channels of V U    y = A^T M A
//
// so that m x m outputs take (m + 2)^2 products and not 9 m^2. The gradient of w is
//
//   D = A g A^T    dU = sum over tiles of V D    dw = G^T dU G
//
// and the gradient of x is the convolution of g with the rotated w. There are (m + 2)^2
// matrices of each of U, V, M, D and dU, one for every pixel of a tile:
//
//   Convolve:        V [tiles x channels]      times  U [channels x outputs]  =  M
//   KernelGradient:  V^T [channels x tiles]    times  D [tiles x outputs]     =  dU
//
//              outputs                   U and dU hold all channels and outputs. U is cut
//           panel  panel                 into panels of kPanel outputs, one behind the
//          +------+------+               other, as the inner loop reads them. Threads
//   block  | M    |      |               divide the tiles into chunks and, if U is large,
//   tiles  +------+------+               the panels into bands. Within a chunk, `block`
//          |      |      |               tiles at a time have V and M (or D) in the arena
//          +------+------+               of their thread. In KernelGradient each chunk has
//           band 0  band 1               a dU of its own; they are summed at the end.
//
// Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016. With
// the points 0, 3/4, -3/4, 3/2, -3/2 for m = 4 the error is a fifth of that with their 0,
// 1, -1, 2, -2. It is relative to the largest products in the tile, not in the sum, and a
// pixel that is not finite makes all outputs of its tile infinite or NaN.
#ifndef CNN_JAX_WINOGRAD_H_
#define CNN_JAX_WINOGRAD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "product.h"
#include "workers.h"

namespace winograd {

using product::kLanes, product::kLine, product::kPanel;
using product::Bfloat16, product::Load, product::Quotient, product::Store,
    product::Vector;

constexpr int kRows = kLanes / 2;  // tiles that the inner loop takes at a time
constexpr int kChannels = 16;      // channels and outputs must be multiples of it
constexpr int64_t kSummed = 128;   // channels summed at a time: smaller rounding errors

// Multiply by the matrices along one axis, along which numbers lie s apart.
template <int m>
struct Matrices;

template <>
struct Matrices<2> {  // of the points 0, 1, -1 and infinity
  static void Input(const Vector* d, int s, Vector* v) {  // B^T
    v[0] = d[2 * s] - d[0];
    v[s] = d[2 * s] + d[s];
    v[2 * s] = d[2 * s] - d[s];
    v[3 * s] = d[3 * s] - d[s];
  }
  static void Kernel(const Vector* w, int s, Vector* u) {  // G
    const Vector even = .5f * (w[0] + w[2 * s]), odd = .5f * w[s];
    u[0] = -w[0];
    u[s] = even + odd;
    u[2 * s] = even - odd;
    u[3 * s] = w[2 * s];
  }
  static void Output(const Vector* sums, int s, Vector* y) {  // A^T
    y[0] = sums[0] + sums[s] + sums[2 * s];
    y[s] = sums[s] - sums[2 * s] + sums[3 * s];
  }
  static void OutputGradient(const Vector* g, int s, Vector* d) {  // A
    d[0] = g[0];
    d[s] = g[0] + g[s];
    d[2 * s] = g[0] - g[s];
    d[3 * s] = g[s];
  }
  static void KernelGradient(const Vector* du, int s, Vector* dw) {  // G^T
    const Vector even = .5f * (du[s] + du[2 * s]), odd = .5f * (du[s] - du[2 * s]);
    dw[0] = even - du[0];
    dw[s] = odd;
    dw[2 * s] = even + du[3 * s];
  }
};

template <>
struct Matrices<4> {  // of the points 0, p, -p, q, -q and infinity
  static constexpr float p = .75f, q = 1.5f, pp = p * p, qq = q * q;
  static constexpr float of_0 = 1 / (pp * qq), of_p = 1 / (2 * pp * (pp - qq)),
                         of_q = 1 / (2 * qq * (qq - pp));

  static void Input(const Vector* d, int s, Vector* v) {
    const Vector even_p = d[4 * s] - qq * d[2 * s], odd_p = p * (d[3 * s] - qq * d[s]);
    const Vector even_q = d[4 * s] - pp * d[2 * s], odd_q = q * (d[3 * s] - pp * d[s]);
    v[0] = pp * qq * d[0] + (d[4 * s] - (pp + qq) * d[2 * s]);
    v[s] = even_p + odd_p;
    v[2 * s] = even_p - odd_p;
    v[3 * s] = even_q + odd_q;
    v[4 * s] = even_q - odd_q;
    v[5 * s] = pp * qq * d[s] + (d[5 * s] - (pp + qq) * d[3 * s]);
  }
  static void Kernel(const Vector* w, int s, Vector* u) {
    const Vector even_p = of_p * (w[0] + pp * w[2 * s]), odd_p = of_p * p * w[s];
    const Vector even_q = of_q * (w[0] + qq * w[2 * s]), odd_q = of_q * q * w[s];
    u[0] = of_0 * w[0];
    u[s] = even_p + odd_p;
    u[2 * s] = even_p - odd_p;
    u[3 * s] = even_q + odd_q;
    u[4 * s] = even_q - odd_q;
    u[5 * s] = w[2 * s];
  }
  static void Output(const Vector* sums, int s, Vector* y) {
    const Vector even_p = sums[s] + sums[2 * s], odd_p = p * (sums[s] - sums[2 * s]);
    const Vector even_q = sums[3 * s] + sums[4 * s],
                 odd_q = q * (sums[3 * s] - sums[4 * s]);
    y[0] = sums[0] + even_p + even_q;
    y[s] = odd_p + odd_q;
    y[2 * s] = pp * even_p + qq * even_q;
    y[3 * s] = pp * odd_p + qq * odd_q + sums[5 * s];
  }
  static void OutputGradient(const Vector* g, int s, Vector* d) {
    const Vector even_p = g[0] + pp * g[2 * s], odd_p = p * (g[s] + pp * g[3 * s]);
    const Vector even_q = g[0] + qq * g[2 * s], odd_q = q * (g[s] + qq * g[3 * s]);
    d[0] = g[0];
    d[s] = even_p + odd_p;
    d[2 * s] = even_p - odd_p;
    d[3 * s] = even_q + odd_q;
    d[4 * s] = even_q - odd_q;
    d[5 * s] = g[3 * s];
  }
  static void KernelGradient(const Vector* du, int s, Vector* dw) {
    const Vector even_p = of_p * (du[s] + du[2 * s]),
                 odd_p = of_p * p * (du[s] - du[2 * s]);
    const Vector even_q = of_q * (du[3 * s] + du[4 * s]),
                 odd_q = of_q * q * (du[3 * s] - du[4 * s]);
    dw[0] = of_0 * du[0] + even_p + even_q;
    dw[s] = odd_p + odd_q;
    dw[2 * s] = pp * even_p + qq * even_q + du[5 * s];
  }
};

// Multiplies by a matrix from both sides: computes out x out rows of `channels` numbers
// from in x in rows. Each row that it reads is the sum of `parts` rows, which lie `apart`
// from each other. It prefetches the floats `ahead` of a row, because the processor does
// not predict the addresses of tiles.
template <int in, int out, void (*matrix)(const Vector*, int, Vector*), typename From,
          typename To>
void Transform(const From* const* from, To* const* to, int64_t channels,
               int parts = 1, int64_t apart = 0, int64_t ahead = 0) {
  constexpr int side = std::max(in, out);
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector block[side * side], half[side * side];
    for (int i = 0; i < in; i++)
      for (int j = 0; j < in; j++) {
        const From* row = from[i * in + j] + c;
        Vector sum = Load(row);
        if (ahead) __builtin_prefetch(row + ahead);
        for (int k = 1; k < parts; k++) sum += Load(row + k * apart);
        block[i * side + j] = sum;
      }
    for (int j = 0; j < in; j++) matrix(block + j, side, half + j);
    for (int i = 0; i < out; i++) matrix(half + i * side, 1, block + i * side);
    for (int i = 0; i < out; i++)
      for (int j = 0; j < out; j++) Store(to[i * out + j] + c, block[i * side + j]);
  }
}

// Distances between rows and between matrices. With them, data that is read together lies
// in different sets of the cache.
inline int64_t Row(int64_t channels) { return channels + kLine; }
inline int64_t Matrix(int64_t floats) { return (floats + 1023) / 1024 * 1024 + kLine; }

// The convolution of x [images, in.., channels] to y [images, out.., outputs]: y at
// (0, 0) sees x from (-low[0], -low[1]) on.
struct Shape {
  int64_t images, in[2], channels, out[2], outputs, low[2];
};

// Computes on images, kernels and gradients of type Float: float or Bfloat16.
template <int m, typename Float>
class Method {
 public:
  Method(const Shape& shape, int64_t threads, Work work)
      : s_(shape),
        threads_(threads),
        work_(std::move(work)),
        down_(Quotient(s_.out[0], m)),
        across_(Quotient(s_.out[1], m)),
        tiles_(s_.images * down_ * across_),
        panels_(Quotient(s_.outputs, kPanel)),
        u_(Matrix(s_.channels * s_.outputs)) {}

  // w: [3, 3, channels, outputs], or [3, 3, outputs, channels] to be rotated
  void Convolve(const Float* x, const Float* w, bool rotated, Float* y) {
    ScopedArena arena;
    float* u = arena->Reserve<float>(PackedFloats());
    Pack(w, rotated, u);
    Apply(x, u, y, s_.outputs, nullptr);
  }

  int64_t PackedFloats() const { return kPixels * u_; }

  // Computes U from w.
  void Pack(const Float* w, bool rotated, float* u) const {
    work_(panels_, [&](int64_t panel) { TransformKernel(w, rotated, panel, u); });
  }

  // Computes y from U. Pixels of y lie y_row numbers apart. Unless `finish` is nullptr,
  // it writes each pixel: it is called with (the convolution there, pointer into y, first
  // output, number of outputs).
  template <typename Finish>
  void Apply(const Float* x, const float* u, Float* y, int64_t y_row,
             const Finish& finish) const {
    const std::vector<Float> zeros(s_.channels);
    const int64_t block = std::clamp<int64_t>(s_.channels / 8, 16, 64);
    const int64_t bands = Bands(), chunks = Chunks(block, 4 * threads_ / bands);
    work_(bands * chunks, [&](int64_t i) {
      Outputs(x, u, zeros.data(), Part(tiles_, i / bands, chunks),
              Part(panels_, i % bands, bands), block, y, y_row, finish);
    });
  }

  // Computes dw from x and the cotangent g of y.
  void KernelGradient(const Float* x, const Float* g, Float* dw) {
    const int64_t block = std::clamp<int64_t>(s_.channels / 2, 32, 64);
    const int64_t bands = Bands(), chunks = Chunks(block, threads_ / bands);
    const int64_t row = Row(s_.outputs), du_size = Matrix(s_.channels * row);
    const std::vector<Float> zeros(std::max(s_.channels, s_.outputs));
    ScopedArena arena;
    float* du = arena->Reserve<float>(chunks * kPixels * du_size);
    work_(bands * chunks, [&](int64_t i) {
      KernelSums(x, g, zeros.data(), Part(tiles_, i / bands, chunks),
                 Part(panels_, i % bands, bands), block,
                 du + i / bands * kPixels * du_size);
    });
    work_(s_.channels, [&](int64_t c) {  // the chunks are summed in their order
      const float* from[kPixels];
      Float* to[9];
      for (int i = 0; i < kPixels; i++) from[i] = du + i * du_size + c * row;
      for (int i = 0; i < 9; i++) to[i] = dw + (i * s_.channels + c) * s_.outputs;
      Transform<kSide, 3, Matrices<m>::KernelGradient>(from, to, s_.outputs, chunks,
                                                       kPixels * du_size);
    });
  }

 private:
  static constexpr int kSide = m + 2, kPixels = kSide * kSide;
  struct Range {
    int64_t begin, end;
  };

  static Range Part(int64_t all, int64_t i, int64_t parts) {
    return {all * i / parts, all * (i + 1) / parts};
  }

  // Threads divide the tiles. If U is too large for each of them to read or keep, they
  // divide the panels too, into as many bands as leave no thread idle.
  int64_t Bands() const {
    constexpr int64_t kMost = 64 << 20;  // bytes, for all threads
    const int64_t bytes = kPixels * u_ * sizeof(float) * threads_;
    int64_t bands = std::min(Quotient(bytes, kMost), threads_);
    while (threads_ % bands) bands++;
    return std::min(bands, panels_);
  }
  int64_t Chunks(int64_t block, int64_t most) const {
    return std::clamp<int64_t>(tiles_ / block, 1, std::max<int64_t>(1, most));
  }

  // Finds the side x side pixels of a tile in an image [images, size.., channels].
  // `outside` stands for pixels that the image does not have.
  template <typename T>  // Float or const Float
  void Pixels(int64_t tile, int64_t side, const int64_t* size, const int64_t* low,
              int64_t channels, T* image, T* outside, T** at) const {
    const int64_t top = tile / across_ % down_ * m - low[0];
    const int64_t left = tile % across_ * m - low[1];
    image += tile / (down_ * across_) * size[0] * size[1] * channels;
    for (int64_t i = top; i < top + side; i++)
      for (int64_t j = left; j < left + side; j++) {
        const bool inside = i >= 0 && i < size[0] && j >= 0 && j < size[1];
        *at++ = inside ? image + (i * size[1] + j) * channels : outside;
      }
  }

  // Writes a panel of U: [pixel of a tile][panel][channel][column].
  void TransformKernel(const Float* w, bool rotated, int64_t panel, float* u) const {
    const int64_t left = panel * kPanel;
    const int64_t columns = std::min<int64_t>(kPanel, s_.outputs - left);
    Float block[9][kChannels][kPanel];  // of the rotated w
    const Float* from[9];
    float* to[kPixels];
    for (int64_t c = 0; c < s_.channels; c++) {
      const int64_t row = c % kChannels;
      if (rotated && row == 0)
        for (int64_t i = 0; i < 9; i++)
          for (int64_t k = 0; k < columns; k++)
            for (int64_t j = 0; j < kChannels; j++)
              block[8 - i][j][k] = w[(i * s_.outputs + left + k) * s_.channels + c + j];
      for (int64_t i = 0; i < 9; i++)
        from[i] = rotated ? block[i][row] : w + (i * s_.channels + c) * s_.outputs + left;
      for (int64_t i = 0; i < kPixels; i++)
        to[i] = u + i * u_ + left * s_.channels + c * columns;
      Transform<3, kSide, Matrices<m>::Kernel>(from, to, columns);
    }
  }

  // Writes a row of V.
  void TransformInput(const Float* x, const Float* zeros, int64_t tile, float* v,
                      int64_t apart) const {
    const Float* from[kPixels];
    float* to[kPixels];
    Pixels(tile, kSide, s_.in, s_.low, s_.channels, x, zeros, from);
    for (int i = 0; i < kPixels; i++) to[i] = v + i * apart;
    Transform<kSide, kSide, Matrices<m>::Input>(from, to, s_.channels, 1, 0,
                                                m * s_.channels);
  }

  // Writes a row of D.
  void TransformCotangent(const Float* g, const Float* zeros, int64_t tile,
                          int64_t left, int64_t columns, float* d,
                          int64_t apart) const {
    const Float* from[m * m];
    float* to[kPixels];
    Pixels(tile, m, s_.out, kOrigin, s_.outputs, g + left, zeros, from);
    for (int i = 0; i < kPixels; i++) to[i] = d + i * apart;
    Transform<m, kSide, Matrices<m>::OutputGradient>(from, to, columns, 1, 0,
                                                     m * s_.outputs);
  }

  // Writes y from a row of M. spare: m x m rows.
  template <typename Finish>
  void TransformSums(const float* sums, int64_t apart, int64_t tile, int64_t left,
                     int64_t columns, Float* y, int64_t y_row, Float* spare,
                     const Finish& finish) const {
    const float* from[kPixels];
    Float *to[m * m], *rows[m * m];
    for (int i = 0; i < kPixels; i++) from[i] = sums + i * apart;
    if constexpr (std::is_same_v<Finish, std::nullptr_t>) {
      Pixels(tile, m, s_.out, kOrigin, y_row, y + left, spare, to);
      Transform<kSide, m, Matrices<m>::Output>(from, to, columns);
    } else {
      Pixels<Float>(tile, m, s_.out, kOrigin, y_row, y + left, nullptr, to);
      for (int i = 0; i < m * m; i++) rows[i] = spare + i * columns;
      Transform<kSide, m, Matrices<m>::Output>(from, rows, columns);
      for (int i = 0; i < m * m; i++)
        if (to[i] != nullptr) finish(rows[i], to[i], left, columns);
    }
  }

  // Computes y for some tiles and panels, `block` tiles at a time.
  template <typename Finish>
  void Outputs(const Float* x, const float* u, const Float* zeros, Range tiles,
               Range panels, int64_t block, Float* y, int64_t y_row,
               const Finish& finish) const {
    const int64_t left = panels.begin * kPanel;
    const int64_t columns = std::min(panels.end * kPanel, s_.outputs) - left;
    const int64_t v_row = Row(s_.channels), v_size = Matrix(block * v_row);
    const int64_t m_row = Row(columns), m_size = Matrix(block * m_row);
    ScopedArena arena;
    float* v = arena->Reserve<float>(kPixels * (v_size + m_size));
    float* sums = v + kPixels * v_size;
    std::vector<Float> spare(m * m * columns);
    for (int64_t first = tiles.begin; first < tiles.end; first += block) {
      const int64_t count = std::min(block, tiles.end - first);
      for (int64_t t = 0; t < count; t++)
        TransformInput(x, zeros, first + t, v + t * v_row, v_size);
      for (int i = 0; i < kPixels; i++)
        for (int64_t o = 0; o < columns; o += kPanel) {
          const int64_t width = std::min<int64_t>(kPanel, columns - o);
          const float* panel = u + i * u_ + (left + o) * s_.channels;
          for (int64_t c = 0; c < s_.channels; c += kSummed)
            product::MultiplyPanel<kRows>(
                count, {v + i * v_size + c, v_row, 1}, {panel + c * width, 0, width},
                std::min(kSummed, s_.channels - c), sums + i * m_size + o, m_row, width,
                c > 0);
        }
      for (int64_t t = 0; t < count; t++)
        TransformSums(sums + t * m_row, m_size, first + t, left, columns, y, y_row,
                      spare.data(), finish);
    }
  }

  // Computes dU from some tiles, for some panels.
  void KernelSums(const Float* x, const Float* g, const Float* zeros, Range tiles,
                  Range panels, int64_t block, float* du) const {
    const int64_t left = panels.begin * kPanel;
    const int64_t columns = std::min(panels.end * kPanel, s_.outputs) - left;
    const int64_t v_row = Row(s_.channels), v_size = Matrix(block * v_row);
    const int64_t d_row = Row(columns), d_size = Matrix(block * d_row);
    const int64_t du_row = Row(s_.outputs), du_size = Matrix(s_.channels * du_row);
    ScopedArena arena;
    float* v = arena->Reserve<float>(kPixels * (v_size + d_size));
    float* d = v + kPixels * v_size;
    for (int64_t first = tiles.begin; first < tiles.end; first += block) {
      const int64_t count = std::min(block, tiles.end - first);
      for (int64_t t = 0; t < count; t++) {
        TransformInput(x, zeros, first + t, v + t * v_row, v_size);
        TransformCotangent(g, zeros, first + t, left, columns, d + t * d_row, d_size);
      }
      for (int i = 0; i < kPixels; i++)
        for (int64_t o = 0; o < columns; o += kPanel)
          product::MultiplyPanel<kRows>(
              s_.channels, {v + i * v_size, 1, v_row}, {d + i * d_size + o, 0, d_row},
              count, du + i * du_size + left + o, du_row,
              std::min<int64_t>(kPanel, columns - o), first > tiles.begin);
    }
  }

  static constexpr int64_t kOrigin[2] = {0, 0};
  const Shape s_;
  const int64_t threads_;
  const Work work_;
  const int64_t down_, across_, tiles_, panels_;
  const int64_t u_;  // floats in a matrix of U
};

}  // namespace winograd

#endif  // CNN_JAX_WINOGRAD_H_
