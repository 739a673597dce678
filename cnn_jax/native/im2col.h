// Convolution and its gradients as products of matrices, with one to three image axes.
//
//   x [images, in.., channels]   w [kernel.., channels, outputs]
//   y, g [images, out.., outputs]
//
// The patch of an output pixel holds what the kernel sees there: taps x channels numbers,
// zeros outside the image. With the patches of all pixels as the rows of P,
//
//   y = P w      dw = P^T g      dx = Q w'
//
// Q holds patches of g: for each pixel of x, the pixels of y that see it. With strides,
// the pixels of x fall into phases. Those of one phase have the same remainders of their
// indices by the strides, so they are seen through the same taps: those of w'. P and Q
// are never stored: product.h asks for a piece at a time, which fits into the
// second-level cache. Where a patch is one pixel, the image itself is P. The arrays hold
// floats, or bfloat16, of which the sums are floats that are rounded once.
#ifndef CNN_JAX_IM2COL_H_
#define CNN_JAX_IM2COL_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "product.h"
#include "workers.h"

namespace im2col {

using product::Factor, product::kTogether, product::Quotient, product::Word;
using Sizes = std::array<int64_t, 3>;
constexpr int64_t kLanes = product::kLanes;

struct Shape {
  int64_t images;
  Sizes in;
  int64_t channels;
  Sizes out;
  int64_t outputs;
  Sizes kernel, strides, low, dilation;
};

constexpr int64_t kBlock = 18 * product::kRows;  // rows of a block: a piece fits into L2
constexpr int64_t kGap = 16;  // words between rows, against conflicts in the cache

// What pixels of a result see of a source, along one axis. The pixels are first,
// first + every, ...; pixel number i sees i * step + offset for each tap.
struct Axis {
  int64_t source, result, first, every, count, step;
  std::vector<int64_t> taps, offsets;
};

// The patches of the pixels of a result, as rows of a matrix.
struct Patches {
  std::array<Axis, 3> axes;
  int64_t channels;

  static Patches OfImages(const Shape& s) {
    Patches p{{}, s.channels};
    for (int i = 0; i < 3; i++) {
      p.axes[i] = {s.in[i], s.out[i], 0, 1, s.out[i], s.strides[i], {}, {}};
      for (int64_t k = 0; k < s.kernel[i]; k++) {
        p.axes[i].taps.push_back(k);
        p.axes[i].offsets.push_back(k * s.dilation[i] - s.low[i]);
      }
    }
    return p;
  }

  static Patches OfCotangents(const Shape& s, const Sizes& phase) {
    Patches p{{}, s.outputs};
    for (int i = 0; i < 3; i++) {
      const int64_t count = Quotient(s.in[i] - phase[i], s.strides[i]);
      p.axes[i] = {s.out[i], s.in[i], phase[i], s.strides[i], count, 1, {}, {}};
      for (int64_t k = s.kernel[i]; k-- > 0;) {
        const int64_t at = phase[i] + s.low[i] - k * s.dilation[i];
        if (at % s.strides[i]) continue;
        p.axes[i].taps.push_back(k);
        p.axes[i].offsets.push_back(at / s.strides[i]);
      }
    }
    return p;
  }

  int64_t Depth() const {
    return channels * axes[0].taps.size() * axes[1].taps.size() * axes[2].taps.size();
  }
  int64_t Pixels() const { return axes[0].count * axes[1].count * axes[2].count; }
  int64_t SourceSize() const {
    return axes[0].source * axes[1].source * axes[2].source * channels;
  }

  // Whether the rows are all pixels of the result, in their order.
  bool Dense() const {
    return axes[0].every == 1 && axes[1].every == 1 && axes[2].every == 1;
  }

  // Whether the source itself is the matrix, in whole words. Rows a multiple of 1024
  // bytes apart would fall into the same sets of the cache.
  template <typename Number>
  bool IsSource() const {
    for (const Axis& axis : axes)
      if (axis.taps.size() != 1 || axis.offsets[0] != 0 || axis.step != 1 ||
          axis.count != axis.source)
        return false;
    return channels % kTogether<Number> == 0 &&
           channels / kTogether<Number> % 256 != 0;
  }

  // Whether the taps of the last axis see neighbours, which lie side by side in memory.
  bool AreNeighbours() const {
    const std::vector<int64_t>& offsets = axes[2].offsets;
    for (size_t i = 1; i < offsets.size(); i++)
      if (offsets[i] != offsets[i - 1] + 1) return false;
    return true;
  }

  // Returns the index, among the pixels of the result, of a row's pixel.
  int64_t PixelOf(int64_t row) const {
    int64_t pixel = 0, before = 1;
    for (int i = 3; i-- > 0;) {
      const Axis& axis = axes[i];
      pixel += (axis.first + row % axis.count * axis.every) * before;
      before *= axis.result;
      row /= axis.count;
    }
    return pixel + row * before;
  }

  // Writes columns [k, k + depth) of `rows` rows.
  template <typename Number>
  void Write(const Number* source, int64_t first_row, int64_t rows, int64_t k,
             int64_t depth, Number* to, int64_t to_row) const {
    const Axis &d = axes[0], &h = axes[1], &w = axes[2];
    const int64_t together = AreNeighbours() ? w.taps.size() : 1;  // taps of a run
    const int64_t length = together * channels, runs = w.taps.size() / together;
    while (depth > 0) {
      const int64_t run = k / length, from = k % length;
      const int64_t n = std::min(length - from, depth);
      const int64_t x0 = w.offsets[run % runs];
      const int64_t y0 = h.offsets[run / runs % h.taps.size()];
      const int64_t z0 = d.offsets[run / runs / h.taps.size()];
      int64_t i = first_row % w.count, j = first_row / w.count % h.count;
      int64_t l = first_row / (w.count * h.count) % d.count;
      const Number* image = source + first_row / Pixels() * SourceSize();
      for (int64_t row = 0; row < rows; row++) {
        Number* p = to + row * to_row;
        const int64_t x = i * w.step + x0, y = j * h.step + y0, z = l * d.step + z0;
        int64_t begin = 0, end = 0;  // the part of the run that lies in the image
        if (y >= 0 && y < h.source && z >= 0 && z < d.source) {
          begin = std::clamp<int64_t>(-x * channels - from, 0, n);
          end = std::clamp<int64_t>((w.source - x) * channels - from, begin, n);
        }
        if (begin > 0) std::fill(p, p + begin, Number{});
        if (end > begin)
          product::Copy(image + ((z * h.source + y) * w.source + x) * channels + from +
                            begin, end - begin, p + begin);
        if (end < n) std::fill(p + end, p + n, Number{});
        if (++i < w.count) continue;
        i = 0;
        if (++j < h.count) continue;
        j = 0;
        if (++l < d.count) continue;
        l = 0;
        image += SourceSize();
      }
      k += n, depth -= n, to += n;
    }
  }
};

// A piece of the rows [begin, begin + rows) of a matrix of patches.
template <typename Number>
class Piece {
 public:
  Piece(const Patches& patches, const Number* source, int64_t begin, int64_t rows,
        Word* memory)
      : patches_(patches), source_(source), begin_(begin), rows_(rows), memory_(memory) {}

  static int64_t Row(int64_t depth) { return Quotient(depth, kTogether<Number>) + kGap; }

  // Returns element (0, k) and the distance of rows. Zeros fill the last word of a row.
  std::pair<const Number*, int64_t> At(int64_t k, int64_t depth) const {
    if (patches_.IsSource<Number>())
      return {source_ + begin_ * patches_.channels + k, patches_.channels};
    Number* to = reinterpret_cast<Number*>(memory_);
    const int64_t row = Row(depth) * kTogether<Number>;
    patches_.Write(source_, begin_, rows_, k, depth, to, row);
    for (int64_t r = 0; r < rows_ && depth % kTogether<Number>; r++)
      to[r * row + depth] = {};
    return {to, row};
  }

 private:
  const Patches& patches_;
  const Number* source_;
  int64_t begin_, rows_;
  Word* memory_;
};

template <typename Number>
class Method {
 public:
  Method(const Shape& shape, int64_t threads, Work work)
      : s_(shape), threads_(threads), work_(std::move(work)) {}

  void Convolve(const Number* x, const Number* w, Number* y) const {
    Apply(Patches::OfImages(s_), x, w, false, y);
  }

  void InputGradient(const Number* g, const Number* w, Number* dx) const {
    Sizes phase, last;
    for (int i = 0; i < 3; i++) last[i] = std::min(s_.strides[i], s_.in[i]);
    for (phase[0] = 0; phase[0] < last[0]; phase[0]++)
      for (phase[1] = 0; phase[1] < last[1]; phase[1]++)
        for (phase[2] = 0; phase[2] < last[2]; phase[2]++)
          Apply(Patches::OfCotangents(s_, phase), g, w, true, dx);
  }

  // Threads divide the rows of dw, or its columns. If these are too few, threads also
  // divide the pixels whose products are summed; their sums are added in a fixed order.
  void KernelGradient(const Number* x, const Number* g, Number* dw) const {
    const Patches patches = Patches::OfImages(s_);
    const int64_t depth = patches.Depth(), outputs = s_.outputs;
    const int64_t pixels = s_.images * patches.Pixels(), size = depth * outputs;
    constexpr int64_t kLeast = 96;  // fewest rows or columns that are worth a thread
    const int64_t across = std::clamp<int64_t>(std::max(depth, outputs) / kLeast, 1,
                                               threads_);
    const int64_t parts = std::clamp<int64_t>(threads_ / across, 1, pixels);
    const int64_t vectors = Quotient(size, kLanes);
    ScopedArena arena;
    float* sums = arena->Reserve<float>(parts * vectors * kLanes);
    if constexpr (std::is_same_v<Number, float>)
      if (parts == 1) sums = dw;
    work_(across * parts, [&](int i) {
      const int64_t part = i / across;
      int64_t top = 0, bottom = depth, left = 0, right = outputs;
      Cut(depth >= outputs ? top : left, depth >= outputs ? bottom : right,
          depth >= outputs ? product::kRows : product::kPanel, i % across, across);
      const int64_t begin = pixels * part / parts, end = pixels * (part + 1) / parts;
      float* own = sums + part * vectors * kLanes;
      if (top >= bottom || left >= right) return;
      if (parts == 1)
        KernelSums(patches, x, g, begin, end, top, bottom, left, right, own, dw);
      else
        KernelSums(patches, x, g, begin, end, top, bottom, left, right, own, own);
    });
    if (parts > 1)
      work_(threads_, [&](int i) {
        for (int64_t k = vectors * i / threads_; k < vectors * (i + 1) / threads_; k++) {
          product::Vector sum = product::Load(sums + k * kLanes);
          for (int64_t j = 1; j < parts; j++)
            sum += product::Load(sums + (j * vectors + k) * kLanes);
          Number line[kLanes];
          product::Store(line, sum);
          product::Copy(line, std::min(kLanes, size - k * kLanes), dw + k * kLanes);
        }
      });
  }

 private:
  // Replaces [begin, end) by part i of n, in whole units.
  static void Cut(int64_t& begin, int64_t& end, int64_t unit, int64_t i, int64_t n) {
    const int64_t units = Quotient(end - begin, unit), last = end;
    end = std::min(last, begin + units * (i + 1) / n * unit);
    begin = std::min(last, begin + units * i / n * unit);
  }

  // Computes rows [top, bottom) and columns [left, right) of dw, summed over some pixels.
  template <typename To>
  void KernelSums(const Patches& patches, const Number* x, const Number* g,
                  int64_t begin, int64_t end, int64_t top, int64_t bottom, int64_t left,
                  int64_t right, float* sums, To* dw) const {
    const int64_t outputs = s_.outputs, rows = bottom - top, first = top * outputs + left;
    constexpr int64_t kPixels = product::kDepth * kTogether<Number>;
    ScopedArena arena;
    Word* memory = arena->Reserve<Word>(kPixels * Piece<Number>::Row(rows) +
                                        product::kDepth * (rows + kGap));
    product::Multiply<Number>(
        rows, right - left, end - begin,
        [&](int64_t k, int64_t depth) {
          auto [data, row] =
              Piece<Number>(patches, x, begin + k, depth, memory).At(top, rows);
          if constexpr (kTogether<Number> == 1) {
            return Factor{data, 1, row};
          } else {
            Word* pairs = memory + kPixels * Piece<Number>::Row(rows);
            product::WritePairs(data, row, depth, rows, pairs, rows + kGap);
            return Factor{pairs, 1, rows + kGap};
          }
        },
        [&](int64_t k, int64_t depth, int64_t column, int64_t columns, Word* tile) {
          product::CopyTile(g + (begin + k) * outputs + left + column, outputs, depth,
                            columns, tile);
          return tile;
        },
        sums + first, outputs, dw + first, outputs);
  }

  // Computes the pixels of y to which the patches belong. transposed: whether the
  // matrices of w are transposed.
  void Apply(const Patches& patches, const Number* x, const Number* w, bool transposed,
             Number* y) const {
    const int64_t columns = transposed ? s_.channels : s_.outputs;
    const int64_t rows = s_.images * patches.Pixels(), depth = patches.Depth();
    // Few rows: threads divide the columns, so that each copies its part of w alone.
    const int64_t bands = rows >= threads_ * kBlock / 2 ? 1
        : std::min(threads_, Quotient(columns, product::kPanel));
    const int64_t least = Quotient(rows, kBlock), others = threads_ / bands;
    const int64_t blocks = std::min(rows, Quotient(least, others) * others);
    const bool dense = patches.Dense();
    // Many blocks: the tiles of w are written once, for all of them.
    const int64_t words = Quotient(depth, kTogether<Number>);
    const int64_t most = depth > 0 ? product::PieceDepth(words) * kTogether<Number> : 1;
    const int64_t padded = Quotient(columns, product::kPanel) * product::kPanel;
    const bool packed = blocks > 2 * threads_;
    ScopedArena all;
    Word* tiles = all->Reserve<Word>(packed ? words * padded + 1 : 1);
    auto tile_of = [&](int64_t k, int64_t piece_depth, int64_t column) {
      return tiles + k / kTogether<Number> * padded +
             column * Quotient(piece_depth, kTogether<Number>);
    };
    if (packed)
      work_(Quotient(columns, product::kPanel), [&](int i) {
        const int64_t column = i * product::kPanel;
        const int64_t n = std::min<int64_t>(product::kPanel, columns - column);
        for (int64_t k = 0; k < depth; k += most) {
          const int64_t piece_depth = std::min(most, depth - k);
          WriteTile(patches, w, transposed, k, piece_depth, column, n,
                    tile_of(k, piece_depth, column));
        }
      });
    work_(bands * blocks, [&](int i) {
      const int64_t begin = rows * (i / bands) / blocks;
      const int64_t count = rows * (i / bands + 1) / blocks - begin;
      int64_t left = 0, right = columns;
      Cut(left, right, product::kPanel, i % bands, bands);
      const int64_t width = right - left;
      ScopedArena arena;
      const int64_t piece_size = count * (product::kDepth + kGap);
      const int64_t block_size = count * (width + kGap);
      Word* memory = arena->Reserve<Word>(piece_size + 2 * block_size);
      float* sums = memory + piece_size;
      int64_t sums_row = width + kGap;
      Number* block = reinterpret_cast<Number*>(sums + block_size);
      Number* to = dense ? y + begin * columns + left : block;
      const int64_t to_row = dense ? columns : width + kGap;
      if constexpr (std::is_same_v<Number, float>) sums = to, sums_row = to_row;
      const Piece<Number> piece(patches, x, begin, count, memory);
      product::Multiply<Number>(
          count, width, depth,
          [&](int64_t k, int64_t piece_depth) {
            auto [data, row] = piece.At(k, piece_depth);
            return Factor{reinterpret_cast<const Word*>(data), row / kTogether<Number>,
                          1};
          },
          [&](int64_t k, int64_t piece_depth, int64_t column, int64_t n,
              Word* tile) -> const Word* {
            if (packed) return tile_of(k, piece_depth, left + column);
            WriteTile(patches, w, transposed, k, piece_depth, left + column, n, tile);
            return tile;
          },
          sums, sums_row, to, to_row);
      for (int64_t r = 0; r < count && (!dense || depth == 0); r++) {
        Number* row = y + patches.PixelOf(begin + r) * columns + left;
        if (depth == 0)  // no output sees these pixels
          std::fill(row, row + width, Number{});
        else
          product::Copy(block + r * to_row, width, row);
      }
    });
  }

  // Writes rows [k, k + depth) of w's matrix, which has the taps of the patches.
  void WriteTile(const Patches& patches, const Number* w, bool transposed, int64_t k,
                 int64_t depth, int64_t left, int64_t columns, Word* tile) const {
    constexpr int64_t together = kTogether<Number>;
    const auto& [d, h, v] = patches.axes;
    const int64_t channels = patches.channels, width = product::TileColumns(columns);
    const bool in_words = channels % together == 0;  // else pairs reach over two taps
    if (!in_words) std::fill(tile, tile + Quotient(depth, together) * width, 0.f);
    for (int64_t done = 0, n; done < depth; done += n) {
      const int64_t tap = (k + done) / channels, c = (k + done) % channels;
      n = std::min(channels - c, depth - done);
      const int64_t at[3] = {
          d.taps[tap / (h.taps.size() * v.taps.size())],
          h.taps[tap / v.taps.size() % h.taps.size()], v.taps[tap % v.taps.size()]};
      const Number* from = w + ((at[0] * s_.kernel[1] + at[1]) * s_.kernel[2] + at[2]) *
                                   s_.channels * s_.outputs +
                           (transposed ? left * s_.outputs + c : c * s_.outputs + left);
      Word* to = tile + done / together * width;
      if (!in_words) {
        for (int64_t i = done; i < done + n; i++)
          for (int64_t j = 0; j < columns; j++)
            reinterpret_cast<Number*>(tile)[(i / together * width + j) * together +
                                            i % together] =
                from[transposed ? j * s_.outputs + i - done
                                : (i - done) * s_.outputs + j];
      } else if (transposed) {
        product::TransposeTile(reinterpret_cast<const Word*>(from), s_.outputs / together,
                               n / together, columns, to);
      } else {
        product::CopyTile(from, s_.outputs, n, columns, to);
      }
    }
  }

  const Shape s_;
  const int64_t threads_;
  const Work work_;
};

}  // namespace im2col

#endif  // CNN_JAX_IM2COL_H_
