// A network in evaluation, or a part of one, as one call of XLA: an FFI handler.
//
// A network is a list of steps over values. Values are dense and row-major, with the
// batch as their first axis: images [N, H, W, C], vectors [N, C]. Their shapes here are
// those of one image. oneDNN computes convolutions, dense layers, pooling, activations
// and local response norm, but winograd.h the convolutions for which the program says so
// and dense.h dense layers of few rows. Loops in pass.h compute the rest.
//
// Kernels are packed once, in the layout that oneDNN chooses, and kept under the number
// that the caller gives to its weights. A step may add one of its inputs to its result
// and apply an activation before it writes the result.
//
// Threads divide the batch. Each thread takes its images through the convolutions a few
// at a time, so that what a layer writes is still in the cache when the next layer reads
// it. In the first layers, whose values are large, it takes one image at a time; in the
// later ones, whose kernels are large, it takes more. Images that are left over, fewer
// than the threads, go through together, and oneDNN divides each layer among the threads.
// So do all images from the first dense layer with a large kernel on. Images of little
// work are never divided, and a batch of little work uses fewer threads: one, at least.
#ifndef CNN_JAX_NETWORK_H_
#define CNN_JAX_NETWORK_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "onednn.h"
#include "xla/ffi/api/ffi.h"

namespace inference {

namespace ffi = xla::ffi;
using dnnl::memory;

enum Kind : int64_t {
  kInput, kConvolution, kDense, kMaxPool, kAvgPool, kGlobalAvgPool, kJoin, kActivation,
  kAdd, kCopy, kReshape, kLocalResponseNorm
};

// Activations, numbered as in cnn_jax/inference/program.py, which writes the programs.
enum Function : int64_t {
  kNone, kRelu, kRelu6, kSelu, kSigmoid, kTanh, kLecunTanh
};

struct Step {
  Kind kind;
  int64_t output;
  std::vector<int64_t> inputs;
  Dims numbers;                 // attributes; the Make functions of pass.h say which
  std::vector<int64_t> params;  // indices among the arrays of the call
};

constexpr int64_t kCache = 1 << 19;  // floats that a thread may use at a time
constexpr int64_t kMost = 64;        // most images that a thread takes together
constexpr size_t kMostPasses = 64;   // most keys (steps, images, threads) of idle passes
constexpr int64_t kLargeKernel = 1 << 18;  // floats of a dense layer that fill a cache
constexpr int64_t kWorth = 1 << 20;  // products that are worth a thread
constexpr int64_t kOther = 8;  // products in whose time other steps compute a number
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

inline memory::desc RowMajor(const Dims& dims) {
  Dims steps(dims.size(), 1);
  for (size_t i = dims.size() - 1; i-- > 0;) steps[i] = steps[i + 1] * dims[i + 1];
  return memory::desc(dims, memory::data_type::f32, steps);
}

inline memory::desc Image(int64_t images, const Dims& dims) {
  return ImageLayout({images, dims[0], dims[1], dims[2]}, memory::data_type::f32);
}

inline void Append(dnnl::post_ops& ops, int64_t function) {
  using dnnl::algorithm;
  switch (function) {
    case kNone: break;
    case kRelu: ops.append_eltwise(algorithm::eltwise_relu, 0, 0); break;
    case kRelu6: ops.append_eltwise(algorithm::eltwise_clip, 0, 6); break;
    case kSelu:  // scale * elu(x, alpha)
      ops.append_eltwise(algorithm::eltwise_elu, 1.6732632423543772f, 0);
      ops.append_eltwise(algorithm::eltwise_linear, 1.0507009873554805f, 0);
      break;
    case kSigmoid: ops.append_eltwise(algorithm::eltwise_logistic, 0, 0); break;
    case kTanh: ops.append_eltwise(algorithm::eltwise_tanh, 0, 0); break;
    case kLecunTanh:  // 1.7159 tanh(2 / 3 x)
      ops.append_eltwise(algorithm::eltwise_linear, 2.f / 3, 0);
      ops.append_eltwise(algorithm::eltwise_tanh, 0, 0);
      ops.append_eltwise(algorithm::eltwise_linear, 1.7159f, 0);
      break;
    default: throw std::runtime_error("unknown activation");
  }
}

// Tells whether our own loops compute an activation while they write a result. Others
// are a step of their own, in place.
inline bool IsInLoops(int64_t function) { return function <= kRelu6; }

// Computes such an activation. It leaves x as it is for the others.
inline float Activated(float x, int64_t function) {
  return function == kRelu ? std::max(x, 0.f)
         : function == kRelu6 ? std::min(std::max(x, 0.f), 6.f) : x;
}

// Calls body(begin, end) for parts of 0 to n, on `threads` of OpenMP's threads.
template <typename Body>
void Divide(int64_t n, int64_t work, int threads, const Body& body) {
#ifdef _OPENMP
  constexpr int64_t kSmall = 1 << 14;  // floats that are not worth waking a thread
  if (threads > 1 && work > kSmall) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < threads; i++) body(n * i / threads, n * (i + 1) / threads);
    return;
  }
#endif
  body(0, n);
}

using Params = std::vector<const float*>;

// The steps of a network, with one set of weights.
class Network {
 public:
  explicit Network(const int64_t* code);

  std::vector<Dims> values;  // the shape of each
  std::vector<Step> steps;
  std::vector<int64_t> results;

  // Returns the kernel of a step in the layout that its primitive chose.
  memory Packed(size_t step, const memory::desc& source_layout, const float* data,
                const memory::desc& layout) {
    return CachedKernel(step, layout, [&](memory& packed) {
      memory from(source_layout, Engine(), const_cast<float*>(data));
      dnnl::stream stream(Engine());
      dnnl::reorder(from, packed).execute(stream, from, packed);
      stream.wait();
    });
  }

  // Returns the packed kernel of a step; the first call packs it.
  memory CachedKernel(size_t step, const memory::desc& layout,
                      const std::function<void(memory&)>& pack) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [packed_step, packed] : packed_)
      if (packed_step == step && packed.get_desc() == layout) return packed;
    memory packed(layout, Engine());
    pack(packed);
    packed_.emplace_back(step, packed);
    return packed;
  }

  int64_t Size(int64_t value) const { return Count(values[value]); }
  void Run(const std::vector<float*>& in, const std::vector<float*>& out,
           const Params& params, int64_t images, ffi::ThreadPool& pool);

  std::vector<int64_t> last_use;  // the last step that uses a value; kNever for results

 private:
  class Pass;
  void RunPart(size_t begin, size_t end, int64_t first, int64_t count, int threads,
               const std::vector<float*>& known, const Params& params,
               dnnl::stream& stream);

  std::mutex mutex_;
  std::vector<std::pair<size_t, memory>> packed_;
  // (begin, end, images, threads) -> passes that are not in use
  std::map<std::tuple<size_t, size_t, int64_t, int>,
           std::vector<std::unique_ptr<Pass>>> idle_;
  struct Phase {  // steps that a thread runs on `images` images at a time
    size_t begin, end;
    int64_t images;
  };
  std::vector<Phase> phases_;   // up to the first large dense layer
  size_t dense_ = 0;            // the first step that all images take together
  int64_t work_ = 0;            // products for one image
  std::vector<int64_t> live_out_;  // values that a later phase uses
};

}  // namespace inference

#endif  // CNN_JAX_NETWORK_H_
