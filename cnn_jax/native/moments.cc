// The two sums of batch norm, sum a and sum a (b - c) over all rows, in one pass over a
// and b, as an XLA FFI handler for the CPU.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "product.h"
#include "workers.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using product::Bfloat16;

inline float Value(float number) { return number; }
inline float Value(Bfloat16 number) {
  const uint32_t bits = uint32_t{number.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Adds sum a to `sums`, and sum a (b - c) behind it, over the rows of a and b
// [rows, channels]; c is [channels]. Rows of a block are added in float32, blocks in
// float64.
template <typename A, typename B>
void AddSums(const A* a, const B* b, const float* c, int64_t rows, int64_t channels,
             double* sums) {
  constexpr int64_t kRows = 32, kLanes = 32;  // their sums are kept in registers
  for (int64_t top = 0; top < rows; top += kRows) {
    const int64_t bottom = std::min(top + kRows, rows);
    auto block = [&](int64_t k, auto lanes) {
      constexpr int64_t n = decltype(lanes)::value;
      float plain[n] = {}, product[n] = {};
      for (int64_t i = top; i < bottom; i++)
        for (int64_t j = 0; j < n; j++) {
          const float value = Value(a[i * channels + k + j]);
          plain[j] += value;
          product[j] += value * (Value(b[i * channels + k + j]) - c[k + j]);
        }
      for (int64_t j = 0; j < n; j++) {
        sums[k + j] += plain[j];
        sums[channels + k + j] += product[j];
      }
    };
    int64_t k = 0;
    for (; k + kLanes <= channels; k += kLanes)
      block(k, std::integral_constant<int64_t, kLanes>());
    for (; k + 16 <= channels; k += 16)
      block(k, std::integral_constant<int64_t, 16>());
    for (; k + 4 <= channels; k += 4) block(k, std::integral_constant<int64_t, 4>());
    for (; k < channels; k++) block(k, std::integral_constant<int64_t, 1>());
  }
}

using Floats = ffi::Buffer<ffi::F32>;

template <typename A, typename B>
ffi::Error SumsOf(ffi::ThreadPool& pool, const ffi::AnyBuffer& a, const ffi::AnyBuffer& b,
                  const Floats& c, ffi::Result<Floats>& plain,
                  ffi::Result<Floats>& product) {
  const int64_t channels = c.element_count(), all = a.element_count();
  if (channels < 1 || all % channels != 0 || b.element_count() != all ||
      plain->element_count() != channels || product->element_count() != channels)
    return ffi::Error::InvalidArgument("sums of batch norm: the sizes do not fit");
  constexpr int64_t kSmall = 1 << 15;  // not worth waking a thread
  const int64_t rows = all / channels;
  const int parts = all < kSmall ? 1 : std::max<int>(1, pool.num_threads());
  try {
    ScopedArena arena;
    double* sums = arena->Reserve<double>(parts * 2 * channels);
    std::fill(sums, sums + parts * 2 * channels, 0.0);
    ParallelFor(pool, parts, parts - 1, [&](int i) {
      const int64_t begin = rows * i / parts, end = rows * (i + 1) / parts;
      AddSums(static_cast<A*>(a.untyped_data()) + begin * channels,
              static_cast<B*>(b.untyped_data()) + begin * channels, c.typed_data(),
              end - begin, channels, sums + i * 2 * channels);
    });
    for (int64_t k = 0; k < channels; k++) {
      double totals[2] = {};
      for (int i = 0; i < parts; i++)
        for (int j = 0; j < 2; j++) totals[j] += sums[(i * 2 + j) * channels + k];
      plain->typed_data()[k] = totals[0];
      product->typed_data()[k] = totals[1];
    }
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("sums of batch norm: ") + error.what());
  }
  return ffi::Error::Success();
}

ffi::Error Sums(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b, Floats c,
                ffi::Result<Floats> plain, ffi::Result<Floats> product) {
  for (const auto& image : {a, b})
    if (image.element_type() != ffi::DataType::F32 &&
        image.element_type() != ffi::DataType::BF16)
      return ffi::Error::InvalidArgument("sums of batch norm: float32 and bfloat16");
  const bool low_a = a.element_type() == ffi::DataType::BF16;
  const bool low_b = b.element_type() == ffi::DataType::BF16;
  const auto sums = low_a ? low_b ? SumsOf<Bfloat16, Bfloat16> : SumsOf<Bfloat16, float>
                          : low_b ? SumsOf<float, Bfloat16> : SumsOf<float, float>;
  return sums(pool, a, b, c, plain, product);
}

}  // namespace

extern "C" {

XLA_FFI_DEFINE_HANDLER_SYMBOL(cnn_jax_sums, Sums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());

}  // extern "C"
