// A network in evaluation, or a part of one, as one call of XLA: an FFI handler.
//
// A network is a list of steps over values. Values are dense and row-major, with the batch
// as their first axis: images [N, H, W, C], vectors [N, C]. Their shapes here are those of
// one image. oneDNN computes convolutions, dense layers, pooling, activations and local
// response norm; loops below compute the rest.
//
// Kernels are packed once, in the layout that oneDNN chooses, and kept under the number
// that the caller gives to its weights. A step may add one of its inputs to its result and
// apply an activation before it writes it.
//
// Threads divide the batch, and each takes its images through all convolutions a few at a
// time, so that what a layer writes is in the cache when the next one reads it: one image
// through the first layers, whose values are large, more through the later ones, whose
// kernels are. Images that are too few for that go through together, and oneDNN divides
// each layer. So do all images from the first dense layer on.
#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "onednn.h"
#include "winograd.h"
#include "workers.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;

enum Kind : int64_t {
  kInput, kConvolution, kDense, kMaxPool, kAvgPool, kGlobalAvgPool, kJoin, kActivation,
  kAdd, kCopy, kReshape, kLocalResponseNorm
};

// Of cnn_jax/inference/program.py, which writes the programs.
enum Function : int64_t {
  kNone, kRelu, kRelu6, kSelu, kSigmoid, kTanh, kLecunTanh
};

struct Step {
  Kind kind;
  int64_t output;
  std::vector<int64_t> inputs;
  Dims numbers;                 // attributes, in an order of each kind
  std::vector<int64_t> params;  // places among the arrays of the call
};

constexpr size_t kLine = 64;  // bytes in a line of the cache
constexpr int64_t kCache = 1 << 19;  // floats that a thread may use at a time
constexpr int64_t kMost = 64;        // images that a thread takes together
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

size_t Rounded(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

memory::desc RowMajor(const Dims& dims) {
  Dims steps(dims.size(), 1);
  for (size_t i = dims.size() - 1; i-- > 0;) steps[i] = steps[i + 1] * dims[i + 1];
  return memory::desc(dims, memory::data_type::f32, steps);
}

// [N, H, W, C] in memory as oneDNN's [N, C, H, W].
memory::desc Image(int64_t images, const Dims& dims) {
  return memory::desc({images, dims[2], dims[0], dims[1]}, memory::data_type::f32,
                      memory::format_tag::nhwc);
}

void Append(dnnl::post_ops& ops, int64_t function) {
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

float Activated(float x, int64_t function) {  // of the loops below
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

// The steps with one set of weights.
class Network {
 public:
  explicit Network(const int64_t* words);

  std::vector<Dims> values;  // the shape of each
  std::vector<Step> steps;
  std::vector<int64_t> results;

  // Returns a kernel in the layout that a primitive wants.
  memory Packed(size_t step, const memory::desc& stored, const float* data,
                const memory::desc& wanted) {
    return Kept(step, wanted, [&](memory& packed) {
      memory from(stored, Engine(), const_cast<float*>(data));
      dnnl::stream stream(Engine());
      dnnl::reorder(from, packed).execute(stream, from, packed);
      stream.wait();
    });
  }

  // Returns what `pack` made of the kernel of a step the first time.
  memory Kept(size_t step, const memory::desc& wanted,
              const std::function<void(memory&)>& pack) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [owner, packed] : packed_)
      if (owner == step && packed.get_desc() == wanted) return packed;
    memory packed(wanted, Engine());
    pack(packed);
    packed_.emplace_back(step, packed);
    return packed;
  }

  int64_t Size(int64_t value) const { return Count(values[value]); }
  void Run(const std::vector<float*>& in, const std::vector<float*>& out,
           const Params& params, int64_t images, ffi::ThreadPool& pool);

  std::vector<int64_t> last_use;  // step; kNever for results

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
  struct Phase {  // steps that so many images take together
    size_t begin, end;
    int64_t images;
  };
  std::vector<Phase> phases_;   // up to the first dense layer
  size_t dense_ = 0;            // the first step that all images take together
  std::vector<int64_t> kept_;   // values that a later phase uses
};

// Some steps for so many images, with a memory of its own: ready to run again and again.
class Network::Pass {
 public:
  Pass(Network& network, size_t begin, size_t end, int64_t images, int threads,
       const std::vector<float*>& known, const Params& params)
      : net_(network), images_(images), threads_(threads), at_(network.values.size()),
        params_(params) {
    Place(begin, end, known);
    for (size_t i = begin; i < end; i++) Make(i);
    for (const auto& [value, root] : ends_)
      calls_.push_back([this, value = value, root = root](dnnl::stream&) {
        std::memcpy(known_[value], at_[root], Bytes(root));
      });
    scratch_.Reserve(scratch_bytes_ + 1);
    for (auto& [arguments, desc] : scratched_)
      (*arguments)[DNNL_ARG_SCRATCHPAD] =
          memory(desc, Engine(), scratch_.Reserve(scratch_bytes_ + 1));
  }

  // known: where the values lie that the caller keeps.
  void Run(const std::vector<float*>& known, const Params& params,
           dnnl::stream& stream) {
    known_ = known;
    params_ = params;
    for (auto [value, keeper] : outside_) at_[value] = known[keeper];
    for (auto& call : calls_) call(stream);
  }

 private:
  using Arguments = std::unordered_map<int, memory>;

  size_t Bytes(int64_t value) const {
    return images_ * net_.Size(value) * sizeof(float);
  }

  // Gives every value of the steps a place. Values share memory one after another;
  // reshaped values, and sums, that of their input.
  void Place(size_t begin, size_t end, const std::vector<float*>& known) {
    const int64_t n = net_.values.size();
    std::vector<int64_t> root(n), first(n, kNever), last(n, -1), keeper(n, -1);
    for (int64_t v = 0; v < n; v++) root[v] = v;
    auto extend = [&](int64_t value) {
      last[root[value]] = std::max(last[root[value]], net_.last_use[value]);
    };
    std::vector<bool> used(n);
    for (size_t i = begin; i < end; i++) {
      const Step& step = net_.steps[i];
      for (int64_t v : step.inputs)
        if (!used[v]) {  // made before the first step, so known
          used[v] = true;
          if (known[v] == nullptr) throw std::runtime_error("a value is missing");
          keeper[v] = v, extend(v);
        }
      const int64_t v = step.output;
      used[v] = true;
      const bool adds = Adds(step);
      if (step.kind == kReshape || adds) {
        const int64_t source = root[step.inputs[adds ? 1 : 0]];
        const bool free = last[source] <= int64_t(i) && keeper[source] < 0;
        if (step.kind == kReshape || free) root[v] = source;
      }
      if (first[root[v]] == kNever) first[root[v]] = i;
      extend(v);
      if (known[v] != nullptr) {
        if (keeper[root[v]] < 0)
          keeper[root[v]] = v;
        else
          ends_.emplace_back(v, root[v]);
      }
    }
    std::vector<int64_t> order;
    for (int64_t v = 0; v < n; v++)
      if (used[v] && root[v] == v && keeper[v] < 0) order.push_back(v);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return net_.Size(a) > net_.Size(b);
    });
    std::vector<size_t> offset(n);
    size_t total = 0;
    std::vector<int64_t> placed;
    for (int64_t v : order) {
      std::vector<std::pair<size_t, size_t>> taken;
      for (int64_t other : placed)
        if (first[v] <= last[other] && first[other] <= last[v])
          taken.emplace_back(offset[other], offset[other] + Rounded(Bytes(other)));
      std::sort(taken.begin(), taken.end());
      size_t place = 0;
      for (auto [from, to] : taken) {
        if (place + Bytes(v) <= from) break;
        place = std::max(place, to);
      }
      offset[v] = place;
      total = std::max(total, place + Rounded(Bytes(v)));
      placed.push_back(v);
    }
    char* base = arena_.Reserve(total + 1);
    for (int64_t v = 0; v < n; v++) {
      if (!used[v]) continue;
      if (keeper[root[v]] >= 0)
        outside_.emplace_back(v, keeper[root[v]]);
      else
        at_[v] = reinterpret_cast<float*>(base + offset[root[v]]);
    }
    for (int64_t v = 0; v < n; v++) shared_.push_back(root[v]);
  }

  static bool Adds(const Step& step) {
    return step.kind == kConvolution && step.inputs.size() > 1;
  }

  dnnl::primitive_attr Attributes(bool adds, int64_t function) const {
    dnnl::post_ops ops;
    if (adds) ops.append_sum(1);
    Append(ops, function);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(ops);
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return attributes;
  }

  // Adds a call of a primitive from the first input of a step to its output.
  template <typename Description, typename Primitive>
  void Call(const Step& step, const Description& made, Primitive primitive,
            const memory::desc& from, const memory::desc& to,
            const memory& kernel = memory()) {
    auto arguments = std::make_shared<Arguments>();
    const int64_t bias = kernel ? step.params[1] : -1;
    if (kernel) {
      (*arguments)[DNNL_ARG_WEIGHTS] = kernel;
      (*arguments)[DNNL_ARG_BIAS] =
          memory(RowMajor({net_.values[step.output].back()}), Engine(), nullptr);
    }
    (*arguments)[DNNL_ARG_SRC] = memory(from, Engine(), nullptr);
    (*arguments)[DNNL_ARG_DST] = memory(to, Engine(), nullptr);
    scratch_bytes_ = std::max(scratch_bytes_, made.scratchpad_desc().get_size());
    scratched_.emplace_back(arguments, made.scratchpad_desc());
    const int64_t in = step.inputs[0], out = step.output;
    calls_.push_back([this, arguments, primitive, in, out, bias](dnnl::stream& stream) {
      if (bias >= 0)
        arguments->at(DNNL_ARG_BIAS).set_data_handle(const_cast<float*>(params_[bias]));
      arguments->at(DNNL_ARG_SRC).set_data_handle(at_[in]);
      arguments->at(DNNL_ARG_DST).set_data_handle(at_[out]);
      primitive.execute(stream, *arguments);
    });
  }

  void Make(size_t index) {
    const Step& step = net_.steps[index];
    switch (step.kind) {
      case kInput: case kReshape: return;
      case kConvolution: return MakeConvolution(index);
      case kDense: return MakeDense(index);
      case kMaxPool: case kAvgPool: return MakePool(step);
      case kGlobalAvgPool: return MakeGlobalAvgPool(step);
      case kJoin: return MakeJoin(step);
      case kActivation: return MakeActivation(step);
      case kAdd: return MakeAdd(step);
      case kCopy: return MakeCopy(step);
      case kLocalResponseNorm: return MakeLocalResponseNorm(step);
    }
    throw std::runtime_error("unknown step");
  }

  // numbers: height and width of the kernel; strides; low, high padding; dilation;
  // groups; activation; m of Winograd's F(m x m, 3 x 3), or 0, for 1, 2, 4, ... images.
  // params: kernel [h, w, C / groups, O], bias [O].
  void MakeConvolution(size_t index) {
    const Step& step = net_.steps[index];
    const int64_t* n = step.numbers.data();
    size_t row = 12;
    for (int64_t k = 2; k <= images_ && row + 1 < step.numbers.size(); k *= 2) row++;
    if (n[row] == 2) return MakeWinograd<2>(index);
    if (n[row] == 4) return MakeWinograd<4>(index);
    const Dims& in = net_.values[step.inputs[0]];
    const Dims& out = net_.values[step.output];
    const int64_t groups = n[10], inputs = in[2] / groups, outputs = out[2];
    Dims sizes{outputs / groups, inputs, n[0], n[1]};
    Dims apart{1, outputs, n[1] * inputs * outputs, inputs * outputs};
    if (groups > 1) {
      sizes.insert(sizes.begin(), groups);
      apart.insert(apart.begin(), outputs / groups);
    }
    const auto f32 = memory::data_type::f32;
    const memory::desc x = Image(images_, in), y = Image(images_, out);
    const memory::desc bias({outputs}, f32, memory::format_tag::a);
    const memory::desc any(sizes, f32, memory::format_tag::any);
    dnnl::convolution_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference,
        dnnl::algorithm::convolution_direct, x, any, bias, y, {n[2], n[3]},
        {n[8] - 1, n[9] - 1}, {n[4], n[5]}, {n[6], n[7]},
        Attributes(Adds(step), n[11]));
    CopyAddend(step);
    Call(step, made, dnnl::convolution_forward(made), x, y,
         net_.Packed(index, memory::desc(sizes, f32, apart), params_[step.params[0]],
                     made.weights_desc()));
  }

  // Puts what a step adds where its result will be.
  void CopyAddend(const Step& step) {
    if (!Adds(step) || shared_[step.output] == shared_[step.inputs[1]]) return;
    const int64_t from = step.inputs[1], to = step.output;
    calls_.push_back([this, from, to](dnnl::stream&) {
      std::memcpy(at_[to], at_[from], Bytes(to));
    });
  }

  template <int m>
  void MakeWinograd(size_t index) {
    const Step& step = net_.steps[index];
    const int64_t* n = step.numbers.data();
    const Dims& in = net_.values[step.inputs[0]];
    const Dims& out = net_.values[step.output];
    const winograd::Shape shape{images_, {in[0], in[1]}, in[2], {out[0], out[1]}, out[2],
                                {n[4], n[5]}};
    const int threads = threads_;
    auto method = std::make_shared<winograd::Method<m, float>>(
        shape, threads, [threads](int64_t count, const std::function<void(int)>& body) {
          Divide(count, threads > 1 ? kNever : 0, threads,
                 [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i++) body(i);
          });
        });
    const memory u = net_.Kept(index, memory::desc(
        {method->PackedFloats()}, memory::data_type::f32, memory::format_tag::a),
        [&](memory& made) {
          method->Pack(params_[step.params[0]], false,
                       static_cast<float*>(made.get_data_handle()));
        });
    CopyAddend(step);
    const int64_t from = step.inputs[0], to = step.output, bias = step.params[1];
    const int64_t function = n[11];
    const bool adds = Adds(step);
    calls_.push_back([=](dnnl::stream&) {
      const float* b = params_[bias];
      method->Apply(at_[from], static_cast<const float*>(u.get_data_handle()), at_[to],
                    [=](const float* sums, float* y, int64_t left, int64_t count) {
        for (int64_t i = 0; i < count; i++) {
          const float sum = sums[i] + b[left + i];
          y[i] = adds ? sum + y[i] : sum;
        }
        if (function != kNone)
          for (int64_t i = 0; i < count; i++) y[i] = Activated(y[i], function);
      });
    });
  }

  // numbers: activation. params: kernel [C, O], bias [O].
  void MakeDense(size_t index) {
    const Step& step = net_.steps[index];
    const int64_t inputs = net_.values[step.inputs[0]].back();
    const int64_t outputs = net_.values[step.output].back();
    const int64_t rows = images_ * net_.Size(step.output) / outputs;
    const auto f32 = memory::data_type::f32;
    const memory::desc x = RowMajor({rows, inputs}), y = RowMajor({rows, outputs});
    const memory::desc bias({outputs}, f32, memory::format_tag::a);
    dnnl::inner_product_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference, x,
        memory::desc({outputs, inputs}, f32, memory::format_tag::any), bias, y,
        Attributes(false, step.numbers[0]));
    Call(step, made, dnnl::inner_product_forward(made), x, y,
         net_.Packed(index, memory::desc({outputs, inputs}, f32, Dims{1, outputs}),
                     params_[step.params[0]], made.weights_desc()));
  }

  // numbers: window; strides; low, high padding; dilation; whether a mean counts padding.
  void MakePool(const Step& step) {
    const int64_t* n = step.numbers.data();
    const memory::desc x = Image(images_, net_.values[step.inputs[0]]),
                       y = Image(images_, net_.values[step.output]);
    const auto algorithm = step.kind == kMaxPool ? dnnl::algorithm::pooling_max
                           : n[10] ? dnnl::algorithm::pooling_avg_include_padding
                                   : dnnl::algorithm::pooling_avg_exclude_padding;
    dnnl::pooling_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference, algorithm, x, y, {n[2], n[3]},
        {n[0], n[1]}, {n[8] - 1, n[9] - 1}, {n[4], n[5]}, {n[6], n[7]},
        Attributes(false, kNone));
    Call(step, made, dnnl::pooling_forward(made), x, y);
  }

  void MakeActivation(const Step& step) {  // numbers: activation
    const memory::desc x = RowMajor({images_ * net_.Size(step.output)});
    dnnl::post_ops all, rest;
    Append(all, step.numbers[0]);
    dnnl::algorithm algorithm;
    float alpha, beta;
    for (int i = all.len(); i-- > 0;) all.get_params_eltwise(i, algorithm, alpha, beta);
    for (int i = 1; i < all.len(); i++) {
      dnnl::algorithm next;
      float a, b;
      all.get_params_eltwise(i, next, a, b);
      rest.append_eltwise(next, a, b);
    }
    dnnl::primitive_attr attributes = Attributes(false, kNone);
    attributes.set_post_ops(rest);
    dnnl::eltwise_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference, algorithm, x, x, alpha, beta,
        attributes);
    Call(step, made, dnnl::eltwise_forward(made), x, x);
  }

  // numbers: size. params: [k, alpha of the mean square, beta].
  void MakeLocalResponseNorm(const Step& step) {
    const memory::desc x = Image(images_, net_.values[step.output]);
    const float* p = params_[step.params[0]];
    dnnl::lrn_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference,
        dnnl::algorithm::lrn_across_channels, x, x, step.numbers[0], p[1], p[2], p[0],
        Attributes(false, kNone));
    Call(step, made, dnnl::lrn_forward(made), x, x);
  }

  void MakeGlobalAvgPool(const Step& step) {
    const Dims& dims = net_.values[step.inputs[0]];
    const int64_t pixels = dims[0] * dims[1], channels = dims[2];
    const int64_t in = step.inputs[0], out = step.output;
    calls_.push_back([=](dnnl::stream&) {
      Divide(images_, images_ * pixels * channels, threads_,
             [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const float* x = at_[in] + i * pixels * channels;
          float* y = at_[out] + i * channels;
          std::fill(y, y + channels, 0.f);
          for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < channels; c++) y[c] += x[p * channels + c];
          for (int64_t c = 0; c < channels; c++) y[c] *= 1.f / pixels;
        }
      });
    });
  }

  // Puts the channels of its inputs side by side; then y = activation(a x + b).
  // numbers: activation. params: a and b, or none.
  void MakeJoin(const Step& step) {
    const int64_t width = net_.values[step.output].back();
    const int64_t rows = images_ * net_.Size(step.output) / width;
    calls_.push_back([this, &step, width, rows](dnnl::stream&) {
      Divide(rows, rows * width, threads_, [&](int64_t begin, int64_t end) {
        int64_t left = 0;
        for (int64_t in : step.inputs) {
          const int64_t part = net_.values[in].back();
          const float* x = at_[in] + begin * part;
          float* y = at_[step.output] + begin * width + left;
          JoinPart(x, y, end - begin, part, width,
                   step.params.empty() ? nullptr : params_[step.params[0]] + left,
                   step.params.empty() ? nullptr : params_[step.params[1]] + left,
                   step.numbers[0]);
          left += part;
        }
      });
    });
  }

  static void JoinPart(const float* x, float* y, int64_t rows, int64_t part,
                       int64_t width, const float* a, const float* b,
                       int64_t function) {
    for (int64_t i = 0; i < rows; i++, x += part, y += width) {
      if (a == nullptr && function == kNone)
        std::memcpy(y, x, part * sizeof(float));
      else if (a == nullptr)
        for (int64_t c = 0; c < part; c++) y[c] = Activated(x[c], function);
      else if (function == kRelu)
        for (int64_t c = 0; c < part; c++) y[c] = std::max(a[c] * x[c] + b[c], 0.f);
      else
        for (int64_t c = 0; c < part; c++)
          y[c] = Activated(a[c] * x[c] + b[c], function);
    }
  }

  void MakeAdd(const Step& step) {  // numbers: activation
    const int64_t count = images_ * net_.Size(step.output);
    calls_.push_back([this, &step, count](dnnl::stream&) {
      const float *a = at_[step.inputs[0]], *b = at_[step.inputs[1]];
      float* y = at_[step.output];
      Divide(count, count, threads_, [&](int64_t begin, int64_t end) {
        if (step.numbers[0] == kNone)
          for (int64_t i = begin; i < end; i++) y[i] = a[i] + b[i];
        else
          for (int64_t i = begin; i < end; i++)
            y[i] = Activated(a[i] + b[i], step.numbers[0]);
      });
    });
  }

  // Copies a part of an image into an image of zeros.
  // numbers: for height, width and channels each: first pixel, step, count, and where.
  void MakeCopy(const Step& step) {
    calls_.push_back([this, &step](dnnl::stream&) {
      const Dims& from = net_.values[step.inputs[0]];
      const Dims& to = net_.values[step.output];
      const int64_t* n = step.numbers.data();
      Divide(images_, Bytes(step.output) / 4, threads_,
             [&](int64_t begin, int64_t end) {
        for (int64_t image = begin; image < end; image++) {
          const float* x = at_[step.inputs[0]] + image * Count(from);
          float* y = at_[step.output] + image * Count(to);
          std::fill(y, y + Count(to), 0.f);
          for (int64_t i = 0; i < n[2]; i++)
            for (int64_t j = 0; j < n[6]; j++) {
              const float* source =
                  x + ((n[0] + i * n[1]) * from[1] + n[4] + j * n[5]) * from[2] + n[8];
              float* target = y + ((n[3] + i) * to[1] + n[7] + j) * to[2] + n[11];
              for (int64_t k = 0; k < n[10]; k++) target[k] = source[k * n[9]];
            }
        }
      });
    });
  }

  Network& net_;
  const int64_t images_;
  const int threads_;
  Arena arena_, scratch_;
  std::vector<float*> at_, known_;  // where values lie
  Params params_;
  std::vector<int64_t> shared_;  // whose memory a value shares
  std::vector<std::pair<int64_t, int64_t>> outside_, ends_;
  std::vector<std::function<void(dnnl::stream&)>> calls_;
  size_t scratch_bytes_ = 0;
  std::vector<std::pair<std::shared_ptr<Arguments>, memory::desc>> scratched_;
};

// words: the count of values and the shape of each; the count of steps and, of each, its
// kind, its output, and three lists: inputs, numbers and params; the list of results.
// A list, and a shape, is its length and its entries.
Network::Network(const int64_t* words) {
  auto list = [&] {
    Dims entries(words + 1, words + 1 + *words);
    words += 1 + *words;
    return entries;
  };
  for (int64_t n = *words++; n > 0; n--) values.push_back(list());
  for (int64_t n = *words++; n > 0; n--) {
    Step step;
    step.kind = static_cast<Kind>(*words++);
    step.output = *words++;
    step.inputs = list();
    step.numbers = list();
    step.params = list();
    steps.push_back(std::move(step));
  }
  results = list();

  last_use.assign(values.size(), -1);
  dense_ = steps.size();
  for (size_t i = 0; i < steps.size(); i++) {
    for (int64_t v : steps[i].inputs) last_use[v] = i;
    last_use[steps[i].output] = std::max<int64_t>(last_use[steps[i].output], i);
    if (steps[i].kind == kDense) dense_ = std::min(dense_, i);
  }
  for (int64_t v : results) last_use[v] = kNever;
  int64_t floats = 1, images = kMost;  // the most that a later step reads and writes
  for (size_t i = dense_; i-- > 0;) {
    int64_t here = Size(steps[i].output);
    for (int64_t in : steps[i].inputs) here += Size(in);
    floats = std::max(floats, here);
    while (images > 1 && images * floats > kCache) images /= 2;
    if (phases_.empty() || phases_.back().images != images)
      phases_.push_back({i, i + 1, images});
    phases_.back().begin = i;
  }
  std::reverse(phases_.begin(), phases_.end());
  for (const Phase& phase : phases_)
    for (size_t i = phase.begin; i < phase.end; i++) {
      const int64_t last = last_use[steps[i].output];
      if (steps[i].kind != kInput && last >= int64_t(phase.end) && last != kNever)
        kept_.push_back(steps[i].output);
    }
}

void Network::RunPart(size_t begin, size_t end, int64_t first, int64_t count,
                      int threads, const std::vector<float*>& known,
                      const Params& params, dnnl::stream& stream) {
  std::vector<float*> here = known;
  for (size_t v = 0; v < here.size(); v++)
    if (here[v]) here[v] += first * Size(v);
  const std::tuple<size_t, size_t, int64_t, int> key{begin, end, count, threads};
  std::unique_ptr<Pass> pass;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto& idle = idle_[key];
    if (!idle.empty()) {
      pass = std::move(idle.back());
      idle.pop_back();
    }
  }
  if (!pass)
    pass = std::make_unique<Pass>(*this, begin, end, count, threads, here, params);
  pass->Run(here, params, stream);
  stream.wait();
  std::lock_guard<std::mutex> lock(mutex_);
  idle_[key].push_back(std::move(pass));
}

void Network::Run(const std::vector<float*>& in, const std::vector<float*>& out,
                  const Params& params, int64_t images, ffi::ThreadPool& pool) {
  ScopedArena arena;
  int64_t floats = 0;
  for (int64_t v : kept_) floats += Rounded(images * Size(v) * sizeof(float));
  char* free = arena->Reserve(floats + 1);
  std::vector<float*> known(values.size());
  for (int64_t v : kept_) {
    known[v] = reinterpret_cast<float*>(free);
    free += Rounded(images * Size(v) * sizeof(float));
  }
  for (size_t i = 0; i < results.size(); i++) known[results[i]] = out[i];
  for (const Step& step : steps)
    if (step.kind == kInput) known[step.output] = in[step.numbers[0]];

  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t each = images / threads;  // images of a thread
  if (each > 0)
    ParallelFor(pool, threads, threads - 1, [&](int thread) {
      OnThisThread(pool, [&](dnnl::stream& stream) {
        for (const Phase& phase : phases_) {
          const int64_t chunks = (each + phase.images - 1) / phase.images;
          for (int64_t i = 0; i < chunks; i++) {
            const int64_t begin = each * i / chunks, end = each * (i + 1) / chunks;
            RunPart(phase.begin, phase.end, thread * each + begin, end - begin, 1, known,
                    params, stream);
          }
        }
      });
    });
  const int64_t done = each * threads;
  if (done == images && dense_ == steps.size()) return;
  OnAllThreads(pool, threads, [&](dnnl::stream& stream) {
    if (done < images)
      RunPart(0, dense_, done, images - done, threads, known, params, stream);
    if (dense_ < steps.size())
      RunPart(dense_, steps.size(), 0, images, threads, known, params, stream);
  });
}

// The networks that are in use, by the number of their weights.
struct Networks {
  std::mutex mutex;
  std::unordered_map<int32_t, std::shared_ptr<Network>> kept;
  std::unordered_set<int32_t> dropped;
};

Networks& All() {
  static auto* all = new Networks;  // outlives exit()
  return *all;
}

std::shared_ptr<Network> NetworkOf(int32_t number, const int64_t* words) {
  std::lock_guard<std::mutex> lock(All().mutex);
  if (auto found = All().kept.find(number); found != All().kept.end())
    return found->second;
  auto made = std::make_shared<Network>(words);
  if (!All().dropped.count(number)) All().kept[number] = made;
  return made;
}

// arrays: the number of the weights, then the inputs, then the params.
ffi::Error Apply(ffi::ThreadPool pool, ffi::RemainingArgs arrays,
                 ffi::RemainingRets results, ffi::Span<const int64_t> words) {
  auto number = arrays.get<ffi::Buffer<ffi::S32>>(0);
  if (!number) return number.error();
  std::vector<float*> all, out;
  std::vector<int64_t> sizes;
  for (size_t i = 1; i < arrays.size(); i++) {
    auto buffer = arrays.get<ffi::Buffer<ffi::F32>>(i);
    if (!buffer) return buffer.error();
    all.push_back(buffer->typed_data());
    sizes.push_back(buffer->element_count());
  }
  try {
    auto network = NetworkOf(*number->typed_data(), words.begin());
    size_t inputs = 0;
    int64_t images = 0;
    for (const Step& step : network->steps)
      if (step.kind == kInput) {
        const int64_t size = network->Size(step.output), given = sizes.at(inputs++);
        if (inputs == 1) images = given / size;
        if (given != images * size) throw std::runtime_error("an input does not fit");
      }
    if (results.size() != network->results.size())
      throw std::runtime_error("the number of results does not fit");
    for (size_t i = 0; i < results.size(); i++) {
      auto buffer = results.get<ffi::Buffer<ffi::F32>>(i);
      if (!buffer) return buffer.error();
      if (int64_t((*buffer)->element_count()) !=
          images * network->Size(network->results[i]))
        throw std::runtime_error("a result does not fit");
      out.push_back((*buffer)->typed_data());
    }
    const std::vector<float*> in(all.begin(), all.begin() + inputs);
    network->Run(in, out, Params(all.begin() + inputs, all.end()), images, pool);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("network: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

extern "C" {

XLA_FFI_DEFINE_HANDLER_SYMBOL(cnn_jax_network, Apply,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int64_t>>("words"));

// Forgets the packed kernels of weights that are no longer used.
void cnn_jax_network_drop(int32_t number) {
  std::lock_guard<std::mutex> lock(All().mutex);
  All().kept.erase(number);
  All().dropped.insert(number);
}

}  // extern "C"
