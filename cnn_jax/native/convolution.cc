// Convolution and its two gradients, by Winograd's method (winograd.h), by im2col
// (im2col.h) or, if WITH_ONEDNN is defined, by oneDNN, as an XLA FFI handler for the CPU.
//
// Arrays are dense and row-major, with one to three image axes:
//   x [N, *spatial, C]   w [*kernel, C / groups, O]   y, g [N, *out, O]
// oneDNN reads x, y and g in XLA's layout. It chooses the layout of the weights; they are
// small and are copied at every call. A primitive is made once for each problem and kept.
//
// Each of XLA's threads calls oneDNN for its own images of the batch, so that none of
// oneDNN's threads has to wake up or wait beside them. With too few images, or weights
// that are too large for every thread to copy, oneDNN divides the work itself. Its OpenMP
// flavour then serves one call at a time, always from the same thread; its thread-pool
// flavour runs on XLA's threads.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "im2col.h"
#include "winograd.h"
#include "workers.h"
#include "xla/ffi/api/ffi.h"
#ifdef WITH_ONEDNN
#include "onednn.h"
#endif

namespace {

namespace ffi = xla::ffi;
using Integers = ffi::Span<const int64_t>;

enum Pass : int64_t { kForward, kInputGradient, kWeightGradient };

// 2 and 4 are Winograd's F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3).
enum Method : int64_t { kOneDnn = 0, kIm2col = 1, kWinograd2 = 2, kWinograd4 = 4 };

std::string Text(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); i++)
    text += (i ? "," : "") + std::to_string(dims[i]);
  return text + "]";
}

// One convolution, in the shapes of the XLA buffers.
struct Problem {
  Pass pass;
  bool bfloat16;
  Dims x, w, y, strides, low, high, dilation;
  int64_t groups;
  int64_t method;  // kOneDnn, ...

  // Returns "" if every index that the convolution forms lies within its buffer.
  std::string WhatIsWrong() const {
    const size_t rank = strides.size();
    if (rank < 1 || rank > 3 || low.size() != rank || high.size() != rank ||
        dilation.size() != rank || x.size() != rank + 2 || w.size() != rank + 2 ||
        y.size() != rank + 2)
      return "the ranks do not fit";
    for (const Dims* dims : {&x, &w, &y, &strides, &dilation})
      for (int64_t n : *dims)
        if (n < 1 || n > INT32_MAX) return "a size is less than 1 or too large";
    for (const Dims* dims : {&low, &high})
      for (int64_t n : *dims)
        if (n < 0 || n > INT32_MAX) return "a padding is negative or too large";
    const int64_t channels = x[rank + 1], outputs = w[rank + 1];
    if (groups < 1 || w[rank] > channels || w[rank] * groups != channels ||
        outputs % groups != 0 || y[rank + 1] != outputs || y[0] != x[0])
      return "batch, channels or groups do not fit";
    for (size_t i = 0; i < rank; i++) {
      const int64_t steps = x[i + 1] + low[i] + high[i] - (w[i] - 1) * dilation[i] - 1;
      if (steps < 0 || steps / strides[i] + 1 != y[i + 1])
        return "the output size does not fit";
    }
    if (method == kOneDnn)
#ifdef WITH_ONEDNN
      return "";
#else
      return "this library was built without oneDNN";
#endif
    if (method == kIm2col)
#ifdef __AVX512BF16__
      return groups != 1 ? "im2col.h does not support it" : "";
#else
      return bfloat16 || groups != 1 ? "im2col.h does not support it" : "";
#endif
    if ((method != kWinograd2 && method != kWinograd4) || groups != 1 ||
        channels % winograd::kChannels || outputs % winograd::kChannels ||
        Dims(w.begin(), w.end() - 2) != Dims{3, 3} || strides != Dims{1, 1} ||
        dilation != Dims{1, 1})
      return "Winograd's method does not support it";
    return "";
  }

  std::string Describe() const {
    return "x " + Text(x) + ", w " + Text(w) + ", y " + Text(y) + ", strides " +
           Text(strides) + ", padding low " + Text(low) + " high " + Text(high) +
           ", dilation " + Text(dilation) + ", groups " + std::to_string(groups);
  }

  std::string Key(int threads) const {
    Dims all{pass, bfloat16, groups, threads};
    for (const Dims* dims : {&x, &w, &y, &strides, &low, &high, &dilation})
      all.insert(all.end(), dims->begin(), dims->end());
    return std::string(reinterpret_cast<const char*>(all.data()),
                       all.size() * sizeof(int64_t));
  }
};

#ifdef WITH_ONEDNN
using dnnl::memory;

constexpr size_t kMostPrimitives = 1024;  // kept at most; no program has more

// One operand: its layout in XLA's buffer and the layout that the primitive takes.
struct Operand {
  int argument = 0;  // DNNL_ARG_...
  memory::desc xla_layout, primitive_layout;
  dnnl::reorder reorder;
  bool reordered = false, output = false;

  void Set(int which, const memory::desc& in_xla, const memory::desc& in_primitive,
           bool is_output) {
    argument = which, output = is_output;
    xla_layout = in_xla, primitive_layout = in_primitive;
    reordered = xla_layout != primitive_layout;
    if (!reordered) return;
    auto& e = Engine();
    const auto &source = output ? primitive_layout : xla_layout,
               &destination = output ? xla_layout : primitive_layout;
    reorder = dnnl::reorder(
        dnnl::reorder::primitive_desc(e, source, e, destination));
  }
  size_t bytes() const { return reordered ? InLines(primitive_layout.get_size()) : 0; }
};

// What oneDNN needs to solve one problem. Several threads may use it at a time.
struct Solver {
  dnnl::primitive primitive;
  Operand operands[3];  // two inputs and the output, as in the handler
  memory::desc scratch;
  size_t bytes = 0;  // of working memory

  explicit Solver(const Problem& p) {
    const auto type = p.bfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc x = ImageLayout(p.x, type), y = ImageLayout(p.y, type),
                       w = KernelLayout(p.w, p.groups, type, true),
                       dense = KernelLayout(p.w, p.groups, type, false);
    Dims gaps = p.dilation;  // oneDNN counts the pixels between two taps
    for (int64_t& d : gaps) d--;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto algorithm = dnnl::algorithm::convolution_direct;
    dnnl::convolution_forward::primitive_desc forward(
        Engine(), dnnl::prop_kind::forward_training, algorithm, x, w, y, p.strides,
        gaps, p.low, p.high, attributes);
    if (p.pass == kForward) {
      SetPrimitive(forward, dnnl::convolution_forward(forward));
      operands[0].Set(DNNL_ARG_SRC, x, forward.src_desc(), false);
      operands[1].Set(DNNL_ARG_WEIGHTS, dense, forward.weights_desc(), false);
      operands[2].Set(DNNL_ARG_DST, y, forward.dst_desc(), true);
    } else if (p.pass == kInputGradient) {
      dnnl::convolution_backward_data::primitive_desc backward(
          Engine(), algorithm, x, w, y, p.strides, gaps, p.low, p.high, forward,
          attributes);
      SetPrimitive(backward, dnnl::convolution_backward_data(backward));
      operands[0].Set(DNNL_ARG_DIFF_DST, y, backward.diff_dst_desc(), false);
      operands[1].Set(DNNL_ARG_WEIGHTS, dense, backward.weights_desc(), false);
      operands[2].Set(DNNL_ARG_DIFF_SRC, x, backward.diff_src_desc(), true);
    } else {
      dnnl::convolution_backward_weights::primitive_desc backward(
          Engine(), algorithm, x, w, y, p.strides, gaps, p.low, p.high, forward,
          attributes);
      SetPrimitive(backward, dnnl::convolution_backward_weights(backward));
      operands[0].Set(DNNL_ARG_SRC, x, backward.src_desc(), false);
      operands[1].Set(DNNL_ARG_DIFF_DST, y, backward.diff_dst_desc(), false);
      operands[2].Set(DNNL_ARG_DIFF_WEIGHTS, dense, backward.diff_weights_desc(), true);
    }
    for (const Operand& operand : operands) bytes += operand.bytes();
  }

  template <typename Description>
  void SetPrimitive(const Description& description, dnnl::primitive made) {
    primitive = std::move(made);
    scratch = description.scratchpad_desc();
    bytes = InLines(scratch.get_size());
  }

  void Run(dnnl::stream& stream, const std::vector<void*>& data) {
    ScopedArena arena;
    char* free = arena->Reserve(bytes);
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SCRATCHPAD, memory(scratch, Engine(), free)}};
    free += InLines(scratch.get_size());
    for (size_t i = 0; i < data.size(); i++) {
      Operand& o = operands[i];
      arguments[o.argument] =
          memory(o.primitive_layout, Engine(), o.reordered ? free : data[i]);
      free += o.bytes();
      if (o.reordered && !o.output) {
        memory input(o.xla_layout, Engine(), data[i]);
        o.reorder.execute(stream, input, arguments[o.argument]);
      }
    }
    primitive.execute(stream, arguments);
    if (Operand& o = operands[2]; o.reordered) {
      memory result(o.xla_layout, Engine(), data[2]);
      o.reorder.execute(stream, arguments[o.argument], result);
    }
    stream.wait();
  }
};

// threads: 1 for the calling thread alone, -n where oneDNN divides the work among n.
std::shared_ptr<Solver> SolverOf(const Problem& problem, int threads) {
  static std::mutex mutex;
  static auto* solvers = new std::unordered_map<std::string, std::shared_ptr<Solver>>;
  const std::string key = problem.Key(threads);
  std::lock_guard<std::mutex> lock(mutex);
  if (auto entry = solvers->find(key); entry != solvers->end()) return entry->second;
  if (solvers->size() >= kMostPrimitives) solvers->clear();
#ifdef ON_XLA_THREADS
  dnnl_threadpool_interop_set_max_concurrency(std::abs(threads));
#endif
  return (*solvers)[key] = std::make_shared<Solver>(problem);
}

// Solves on all threads; oneDNN divides the work.
void SolveWhole(const Problem& problem, const std::vector<void*>& data,
                ffi::ThreadPool& pool, int threads) {
  OnAllThreads(pool, threads, [&](dnnl::stream& stream) {
    SolverOf(problem, -threads)->Run(stream, data);
  });
}

// Solves on the calling thread alone.
void SolveAlone(const Problem& problem, const std::vector<void*>& data,
                ffi::ThreadPool& pool) {
  OnThisThread(pool, [&](dnnl::stream& stream) {
    SolverOf(problem, 1)->Run(stream, data);
  });
}

// Tells whether each thread should solve images of its own. The threads must get nearly
// equal numbers of images. The copies of the weights, one for each thread, must take at
// most half the size of x and y.
bool IsSplit(const Problem& p, int threads) {
  const int64_t images = p.x[0];
  return (images % threads == 0 || images >= 4 * threads) &&
         2 * threads * Count(p.w) <= Count(p.x) + Count(p.y);
}

// Solves a part of the batch on each of XLA's threads, then sums weight gradients, always
// in the same order.
void SolveInParts(const Problem& problem, const std::vector<void*>& data,
                  ffi::ThreadPool& pool, int parts) {
  const int64_t images = problem.x[0], size = problem.bfloat16 ? 2 : 4;
  const int64_t x = Count(problem.x) / images * size;
  const int64_t y = Count(problem.y) / images * size;
  const int64_t steps[3][3] = {{x, 0, y}, {y, 0, x}, {x, y, 0}};  // as in the handler
  const bool summed = problem.pass == kWeightGradient;
  const int64_t weights = Count(problem.w);
  ScopedArena arena;
  float* sums = nullptr;  // dw of all parts but the first, in float32
  if (summed) sums = arena->Reserve<float>((parts - 1) * weights);
  ParallelFor(pool, parts, parts - 1, [&](int i) {
    const int64_t begin = images * i / parts, end = images * (i + 1) / parts;
    Problem part = problem;
    part.x[0] = part.y[0] = end - begin;
    std::vector<void*> pointers(3);
    for (int k = 0; k < 3; k++)
      pointers[k] = static_cast<char*>(data[k]) + begin * steps[problem.pass][k];
    if (summed && i > 0) pointers[2] = sums + (i - 1) * weights;
    SolveAlone(part, pointers, pool);
  });
  if (!summed) return;
  float* total = static_cast<float*>(data[2]);
  ParallelFor(pool, parts, parts - 1, [&](int i) {
    for (int64_t k = weights * i / parts; k < weights * (i + 1) / parts; k++)
      for (int j = 0; j < parts - 1; j++) total[k] += sums[j * weights + k];
  });
}

void SolveByOneDnn(const Problem& problem, const std::vector<void*>& data,
                   ffi::ThreadPool& pool) {
  const int threads = std::max<int>(1, pool.num_threads());
  if (IsSplit(problem, threads))
    SolveInParts(problem, data, pool, threads);
  else
    SolveWhole(problem, data, pool, threads);
}
#endif  // WITH_ONEDNN

template <int m, typename Float>
void SolveByWinograd(const Problem& p, const std::vector<void*>& data,
                     ffi::ThreadPool& pool) {
  const Float* a = static_cast<Float*>(data[0]);
  const Float* b = static_cast<Float*>(data[1]);
  Float* result = static_cast<Float*>(data[2]);
  winograd::Shape shape{p.x[0], {p.x[1], p.x[2]}, p.x[3], {p.y[1], p.y[2]}, p.y[3],
                        {p.low[0], p.low[1]}};
  if (p.pass == kInputGradient) {  // convolves the cotangent with the rotated kernel
    std::swap(shape.in, shape.out);
    std::swap(shape.channels, shape.outputs);
    for (int64_t& low : shape.low) low = 2 - low;
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  winograd::Method<m, Float> method(
      shape, threads, [&](int64_t n, const std::function<void(int)>& body) {
        ParallelFor(pool, n, std::min(n, threads) - 1, body);
      });
  if (p.pass == kWeightGradient)
    method.KernelGradient(a, b, result);
  else
    method.Convolve(a, b, p.pass == kInputGradient, result);
}

template <int m>
void SolveByWinograd(const Problem& p, const std::vector<void*>& data,
                     ffi::ThreadPool& pool) {
  if (p.bfloat16)
    SolveByWinograd<m, winograd::Bfloat16>(p, data, pool);
  else
    SolveByWinograd<m, float>(p, data, pool);
}

template <typename Number>
void SolveByIm2col(const Problem& p, const std::vector<void*>& data,
                   ffi::ThreadPool& pool) {
  auto sizes = [](const Dims& dims, size_t first, size_t rank, int64_t missing) {
    im2col::Sizes all{missing, missing, missing};  // leading axes of one pixel
    for (size_t i = 0; i < rank; i++) all[3 - rank + i] = dims[first + i];
    return all;
  };
  const size_t rank = p.strides.size();
  const im2col::Shape shape{
      p.x[0], sizes(p.x, 1, rank, 1), p.x[rank + 1], sizes(p.y, 1, rank, 1),
      p.y[rank + 1], sizes(p.w, 0, rank, 1), sizes(p.strides, 0, rank, 1),
      sizes(p.low, 0, rank, 0), sizes(p.dilation, 0, rank, 1)};
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const im2col::Method<Number> method(
      shape, threads, [&](int64_t n, const std::function<void(int)>& body) {
        ParallelFor(pool, n, std::min(n, threads) - 1, body);
      });
  const Number* a = static_cast<Number*>(data[0]);
  const Number* b = static_cast<Number*>(data[1]);
  Number* result = static_cast<Number*>(data[2]);
  if (p.pass == kForward) method.Convolve(a, b, result);
  if (p.pass == kInputGradient) method.InputGradient(a, b, result);
  if (p.pass == kWeightGradient) method.KernelGradient(a, b, result);
}

void Solve(const Problem& problem, const std::vector<void*>& data,
           ffi::ThreadPool& pool) {
#ifdef __AVX512BF16__
  if (problem.method == kIm2col && problem.bfloat16)
    return SolveByIm2col<product::Bfloat16>(problem, data, pool);
#endif
  if (problem.method == kIm2col) return SolveByIm2col<float>(problem, data, pool);
  if (problem.method == kWinograd2) return SolveByWinograd<2>(problem, data, pool);
  if (problem.method == kWinograd4) return SolveByWinograd<4>(problem, data, pool);
#ifdef WITH_ONEDNN
  SolveByOneDnn(problem, data, pool);
#endif
}

ffi::Error Convolve(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b,
                    ffi::Result<ffi::AnyBuffer> result, int64_t pass, Integers strides,
                    Integers low, Integers high, Integers dilation, int64_t groups,
                    int64_t method) {
  auto wrong = [](const std::string& what) {
    return ffi::Error::InvalidArgument("convolution: " + what);
  };
  if (pass < kForward || pass > kWeightGradient) return wrong("there are three passes");
  const auto type = a.element_type();
  if (type != ffi::DataType::F32 && type != ffi::DataType::BF16)
    return wrong("takes float32 and bfloat16");
  if (b.element_type() != type || result->element_type() != type)
    return wrong("takes one dtype for all arrays");
  if (pass == kWeightGradient && type != ffi::DataType::F32 && method == kOneDnn)
    return wrong("takes weight gradients in float32");
  auto list = [](Integers values) { return Dims(values.begin(), values.end()); };
  const Dims dims[] = {list(a.dimensions()), list(b.dimensions()),
                       list(result->dimensions())};
  const size_t x[] = {0, 2, 0}, w[] = {1, 1, 2}, y[] = {2, 0, 1};  // by pass
  const Problem problem{
      static_cast<Pass>(pass), type == ffi::DataType::BF16, dims[x[pass]],
      dims[w[pass]],           dims[y[pass]],               list(strides),
      list(low),               list(high),                  list(dilation),
      groups,                  method};
  if (const std::string what = problem.WhatIsWrong(); !what.empty())
    return wrong(what + ": " + problem.Describe());
  try {
    Solve(problem, {a.untyped_data(), b.untyped_data(), result->untyped_data()}, pool);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("convolution: ") + error.what() + ": " +
                                problem.Describe());
  }
  return ffi::Error::Success();
}

}  // namespace

extern "C" {

XLA_FFI_DEFINE_HANDLER_SYMBOL(cnn_jax_convolution, Convolve,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("kind")
                                  .Attr<Integers>("strides")
                                  .Attr<Integers>("low")
                                  .Attr<Integers>("high")
                                  .Attr<Integers>("dilation")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("method"));

// For Python: oneDNN's version as 10000 major + 100 minor + patch, and what the CPU has.
#ifdef WITH_ONEDNN
int cnn_jax_onednn_version() {
  const dnnl_version_t* v = dnnl_version();
  return 10000 * v->major + 100 * v->minor + v->patch;
}
int cnn_jax_has_avx2() {
  return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx2) == dnnl_cpu_isa_avx2;
}
int cnn_jax_has_bfloat16() {
#ifdef __AVX512BF16__
  return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) ==
         dnnl_cpu_isa_avx512_core_bf16;
#else
  return 0;
#endif
}
const char* cnn_jax_threads() {
#if defined(ON_XLA_THREADS)
  return "XLA's threads";
#elif defined(ON_OPENMP)
  return "OpenMP";
#elif DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_TBB
  return "TBB";
#else
  return "one thread";
#endif
}
#else  // built on x86-64 alone
int cnn_jax_onednn_version() { return 0; }
int cnn_jax_has_avx2() { return __builtin_cpu_supports("avx2"); }
int cnn_jax_has_bfloat16() { return 0; }  // oneDNN's alone are fast
const char* cnn_jax_threads() { return "XLA's threads"; }
#endif

}  // extern "C"
