// Steps of a network, prepared for a fixed number of images.
#ifndef CNN_JAX_PASS_H_
#define CNN_JAX_PASS_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dense.h"
#include "network.h"
#include "placement.h"
#include "winograd.h"

namespace inference {

// Some steps, prepared for `images` images, with memory of their own; runs many times.
class Network::Pass {
 public:
  Pass(Network& network, size_t begin, size_t end, int64_t images, int threads,
       const std::vector<float*>& known, const Params& params)
      : net_(network), images_(images), threads_(threads), at_(network.values.size()),
        params_(params), joined_(network.values.size(), -1) {
    FindJoined(begin, end, known);
    PlaceValues(begin, end, known);
    for (size_t i = begin; i < end; i++) Make(i);
    for (const auto& [value, owner] : copied_)
      calls_.push_back([this, value = value, owner = owner](dnnl::stream&) {
        std::memcpy(known_[value], at_[owner], Bytes(owner));
      });
    scratch_.Reserve(scratch_bytes_ + 1);
    for (auto& [arguments, desc] : scratched_)
      (*arguments)[DNNL_ARG_SCRATCHPAD] =
          memory(desc, Engine(), scratch_.Reserve(scratch_bytes_ + 1));
  }

  // known: the pointers to the values that the caller keeps, nullptr for the others.
  void Run(const std::vector<float*>& known, const Params& params,
           dnnl::stream& stream) {
    known_ = known;
    params_ = params;
    for (auto [value, keeper] : outside_) at_[value] = known[keeper] + Left(value);
    for (auto& call : calls_) call(stream);
  }

 private:
  using Arguments = std::unordered_map<int, memory>;

  size_t Bytes(int64_t value) const {
    return images_ * net_.Size(value) * sizeof(float);
  }

  // Returns m of Winograd's F(m x m, 3 x 3), if it computes the step; else 0.
  int64_t TileOf(const Step& step) const {
    if (step.kind != kConvolution) return 0;
    size_t entry = 12;
    for (int64_t k = 2; k <= images_ && entry + 1 < step.numbers.size(); k *= 2) entry++;
    return step.numbers[entry];
  }

  // Finds the values that are parts of a concatenation from the start: those that
  // winograd.h computes and that nothing else reads.
  void FindJoined(size_t begin, size_t end, const std::vector<float*>& known) {
    std::vector<int64_t> readers(net_.values.size());
    for (const Step& step : net_.steps)
      for (int64_t v : step.inputs) readers[v]++;
    std::vector<bool> may_join(net_.values.size());
    for (size_t i = begin; i < end; i++) {
      const Step& step = net_.steps[i];
      const int64_t v = step.output;
      may_join[v] = TileOf(step) > 0 && !Adds(step) &&
                    IsInLoops(step.numbers[11]) && readers[v] == 1 &&
                    net_.last_use[v] != kNever && known[v] == nullptr;
      if (step.kind == kJoin && step.params.empty() && step.numbers[0] == kNone)
        for (int64_t in : step.inputs)
          if (may_join[in]) joined_[in] = v;
    }
  }

  // Returns the floats from a pixel of a value to the next.
  int64_t Row(int64_t v) const {
    return net_.values[joined_[v] < 0 ? v : joined_[v]].back();
  }

  // Returns the first channel of a value within its concatenation, or 0.
  int64_t Left(int64_t v) const {
    int64_t left = 0;
    if (joined_[v] >= 0)
      for (const Step& step : net_.steps)
        if (step.output == joined_[v])
          for (size_t i = 0; step.inputs[i] != v; i++)
            left += net_.values[step.inputs[i]].back();
    return left;
  }

  // Gives every value of the steps its memory. A reshaped value shares that of its input.
  // A joined value shares that of its concatenation.
  // A sum shares that of its addend, unless the addend is also the convolution's input or
  // is read later. A value that the caller keeps lies in the caller's memory.
  void PlaceValues(size_t begin, size_t end, const std::vector<float*>& known) {
    const int64_t n = net_.values.size();
    std::vector<int64_t> first(n, kNever), last(n, -1), keeper(n, -1);
    std::vector<bool> used(n);
    owner_.resize(n);
    std::iota(owner_.begin(), owner_.end(), 0);
    auto use = [&](int64_t v) {
      used[v] = true;
      last[owner_[v]] = std::max(last[owner_[v]], net_.last_use[v]);
    };
    for (size_t i = begin; i < end; i++) {
      const Step& step = net_.steps[i];
      for (int64_t v : step.inputs)
        if (!used[v]) {  // made before the first step
          if (known[v] == nullptr) throw std::runtime_error("a value is missing");
          keeper[v] = v;
          use(v);
        }
      const int64_t v = step.output;
      if (step.kind == kReshape) owner_[v] = owner_[step.inputs[0]];
      if (joined_[v] >= 0) owner_[v] = joined_[v];
      if (Adds(step)) {
        const int64_t addend = owner_[step.inputs[1]];
        if (last[addend] <= int64_t(i) && keeper[addend] < 0 &&
            addend != owner_[step.inputs[0]])  // which the convolution still reads
          owner_[v] = addend;
      }
      use(v);
      const int64_t owner = owner_[v];
      if (first[owner] == kNever) first[owner] = i;
      if (known[v] != nullptr && keeper[owner] >= 0)
        copied_.emplace_back(v, owner);
      else if (known[v] != nullptr)
        keeper[owner] = v;
    }
    std::vector<Lifetime> lifetimes(n, {0, -1, 0});
    for (int64_t v = 0; v < n; v++)
      if (used[v] && owner_[v] == v && keeper[v] < 0)
        lifetimes[v] = {first[v], last[v], Bytes(v)};
    const Placement placement = Place(lifetimes);
    char* base = arena_.Reserve(placement.bytes + 1);
    for (int64_t v = 0; v < n; v++) {
      const int64_t owner = owner_[v];
      if (used[v] && keeper[owner] >= 0)
        outside_.emplace_back(v, keeper[owner]);
      else if (used[v])
        at_[v] = reinterpret_cast<float*>(base + placement.offsets[owner]) + Left(v);
    }
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

  // Appends a call of a primitive that maps the first input of a step to its output.
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
    if (TileOf(step) == 2) return MakeWinograd<2>(index);
    if (TileOf(step) == 4) return MakeWinograd<4>(index);
    const Dims& in = net_.values[step.inputs[0]];
    const Dims& out = net_.values[step.output];
    const int64_t groups = n[10];
    const Dims kernel{n[0], n[1], in[2] / groups, out[2]};
    const auto f32 = memory::data_type::f32;
    const memory::desc x = Image(images_, in), y = Image(images_, out);
    // oneDNN computes an activation for the unused lanes of its vectors too. With few
    // filters that takes longer than a pass of its own.
    const bool apart = out[2] < product::kLanes && !IsInLoops(n[11]);
    dnnl::convolution_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference,
        dnnl::algorithm::convolution_direct, x, KernelLayout(kernel, groups, f32, true),
        RowMajor({out[2]}), y, {n[2], n[3]}, {n[8] - 1, n[9] - 1}, {n[4], n[5]},
        {n[6], n[7]}, Attributes(Adds(step), apart ? int64_t(kNone) : n[11]));
    CopyAddend(step);
    Call(step, made, dnnl::convolution_forward(made), x, y,
         net_.Packed(index, KernelLayout(kernel, groups, f32, false),
                     params_[step.params[0]], made.weights_desc()));
    if (apart) MakeRestOf(n[11], step.output);
  }

  // Copies the addend of a step to its result, to which the convolution is added.
  void CopyAddend(const Step& step) {
    if (!Adds(step) || owner_[step.output] == owner_[step.inputs[1]]) return;
    const int64_t from = step.inputs[1], to = step.output;
    calls_.push_back([this, from, to](dnnl::stream&) {
      std::memcpy(at_[to], at_[from], Bytes(to));
    });
  }

  // Divides calls among the threads.
  Work OnThreads() const {
    const int threads = threads_;
    return [threads](int64_t count, const std::function<void(int)>& body) {
      Divide(count, threads > 1 ? kNever : 0, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) body(i);
      });
    };
  }

  // Returns the floats that pack(to) writes from the kernel of a step.
  template <typename Pack>
  memory PackedBy(size_t index, int64_t floats, const Pack& pack) {
    const memory::desc layout({floats}, memory::data_type::f32, memory::format_tag::a);
    return net_.CachedKernel(index, layout, [&](memory& made) {
      pack(static_cast<float*>(made.get_data_handle()));
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
    auto method = std::make_shared<winograd::Method<m, float>>(shape, threads_,
                                                               OnThreads());
    const memory u = PackedBy(index, method->PackedFloats(), [&](float* packed) {
      method->Pack(params_[step.params[0]], false, packed);
    });
    CopyAddend(step);
    const int64_t from = step.inputs[0], to = step.output, bias = step.params[1];
    const int64_t function = n[11], row = Row(to);
    const bool adds = Adds(step);
    calls_.push_back([=](dnnl::stream&) {
      const float* b = params_[bias];
      method->Apply(at_[from], static_cast<const float*>(u.get_data_handle()), at_[to],
                    row, [=](const float* sums, float* y, int64_t left, int64_t count) {
        for (int64_t i = 0; i < count; i++) {
          const float sum = sums[i] + b[left + i];
          y[i] = adds ? sum + y[i] : sum;
        }
        if (function != kNone)
          for (int64_t i = 0; i < count; i++) y[i] = Activated(y[i], function);
      });
    });
    MakeRestOf(function, to);
  }

  // Applies an activation that our own loops have not computed to a value.
  void MakeRestOf(int64_t function, int64_t value) {
    if (!IsInLoops(function))
      MakeActivation({kActivation, value, {value}, {function}, {}});
  }

  // numbers: activation. params: kernel [C, O], bias [O].
  void MakeDense(size_t index) {
    const Step& step = net_.steps[index];
    const int64_t inputs = net_.values[step.inputs[0]].back();
    const int64_t outputs = net_.values[step.output].back();
    const int64_t rows = images_ * net_.Size(step.output) / outputs;
    constexpr int64_t kFew = 2;  // rows with which oneDNN reads the kernel more slowly
    if (rows <= kFew) return MakeDenseOfFewRows(index, {rows, inputs, outputs});
    const auto f32 = memory::data_type::f32;
    const memory::desc x = RowMajor({rows, inputs}), y = RowMajor({rows, outputs});
    dnnl::inner_product_forward::primitive_desc made(
        Engine(), dnnl::prop_kind::forward_inference, x,
        memory::desc({outputs, inputs}, f32, memory::format_tag::any),
        RowMajor({outputs}), y,
        Attributes(false, step.numbers[0]));
    Call(step, made, dnnl::inner_product_forward(made), x, y,
         net_.Packed(index, memory::desc({outputs, inputs}, f32, Dims{1, outputs}),
                     params_[step.params[0]], made.weights_desc()));
  }

  void MakeDenseOfFewRows(size_t index, const dense::Shape& shape) {
    const Step& step = net_.steps[index];
    const memory w = PackedBy(index, shape.PackedFloats(), [&](float* packed) {
      dense::Pack(shape, params_[step.params[0]], packed);
    });
    const int64_t from = step.inputs[0], to = step.output, bias = step.params[1];
    const int64_t function = step.numbers[0];
    calls_.push_back([=](dnnl::stream&) {
      Divide(shape.Panels(), shape.PackedFloats(), threads_,
             [&](int64_t begin, int64_t end) {
        const int64_t left = begin * dense::kPanel;
        const int64_t right = std::min(end * dense::kPanel, shape.outputs);
        for (int64_t panel = begin; panel < end; panel++)
          dense::Multiply(shape, at_[from],
                          static_cast<const float*>(w.get_data_handle()), panel,
                          at_[to]);
        for (int64_t row = 0; row < shape.rows; row++)
          for (int64_t i = left; i < right; i++) {
            float& y = at_[to][row * shape.outputs + i];
            y = Activated(y + params_[bias][i], function);
          }
      });
    });
    MakeRestOf(function, to);
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

  // Each of oneDNN's functions is a primitive of its own: with functions as post-ops,
  // oneDNN 3.2 runs its slow reference code. numbers: activation.
  void MakeActivation(const Step& step) {
    const memory::desc x = RowMajor({images_ * net_.Size(step.output)});
    dnnl::post_ops functions;
    Append(functions, step.numbers[0]);
    Step part = step;
    for (int i = 0; i < functions.len(); i++) {
      dnnl::algorithm algorithm;
      float alpha, beta;
      functions.get_params_eltwise(i, algorithm, alpha, beta);
      dnnl::eltwise_forward::primitive_desc made(
          Engine(), dnnl::prop_kind::forward_inference, algorithm, x, x, alpha, beta,
          Attributes(false, kNone));
      Call(part, made, dnnl::eltwise_forward(made), x, x);
      part.inputs = {step.output};
    }
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

  // Concatenates the channels of its inputs to x; then y = activation(a x + b).
  // numbers: activation. params: a and b, or none.
  void MakeJoin(const Step& step) {
    const int64_t width = net_.values[step.output].back();
    const int64_t rows = images_ * net_.Size(step.output) / width;
    if (std::all_of(step.inputs.begin(), step.inputs.end(),
                    [&](int64_t in) { return joined_[in] >= 0; }))
      return;
    calls_.push_back([this, &step, width, rows](dnnl::stream&) {
      Divide(rows, rows * width, threads_, [&](int64_t begin, int64_t end) {
        int64_t left = 0;
        for (int64_t in : step.inputs) {
          const int64_t channels = net_.values[in].back();
          const float* x = at_[in] + begin * channels;
          float* y = at_[step.output] + begin * width + left;
          if (joined_[in] < 0)
            JoinPart(x, y, end - begin, channels, width,
                     step.params.empty() ? nullptr : params_[step.params[0]] + left,
                     step.params.empty() ? nullptr : params_[step.params[1]] + left,
                     step.numbers[0]);
          left += channels;
        }
      });
    });
  }

  static void JoinPart(const float* x, float* y, int64_t rows, int64_t channels,
                       int64_t width, const float* a, const float* b,
                       int64_t function) {
    for (int64_t i = 0; i < rows; i++, x += channels, y += width) {
      if (a == nullptr && function == kNone)
        std::memcpy(y, x, channels * sizeof(float));
      else if (a == nullptr)
        for (int64_t c = 0; c < channels; c++) y[c] = Activated(x[c], function);
      else if (function == kRelu)
        for (int64_t c = 0; c < channels; c++) y[c] = std::max(a[c] * x[c] + b[c], 0.f);
      else
        for (int64_t c = 0; c < channels; c++)
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

  // Copies part of an image into an image of zeros. numbers: for height, width and
  // channels each: first index, step and count in the input, first index in the output.
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
  std::vector<float*> at_, known_;  // pointers to the values
  Params params_;
  std::vector<int64_t> owner_;  // the value in whose memory a value lies
  std::vector<int64_t> joined_;  // the concatenation that a value is part of, or -1
  // (value, the live-out value it is in)
  std::vector<std::pair<int64_t, int64_t>> outside_;
  std::vector<std::pair<int64_t, int64_t>> copied_;   // (live-out value, its owner)
  std::vector<std::function<void(dnnl::stream&)>> calls_;
  size_t scratch_bytes_ = 0;
  std::vector<std::pair<std::shared_ptr<Arguments>, memory::desc>> scratched_;
};

}  // namespace inference

#endif  // CNN_JAX_PASS_H_
