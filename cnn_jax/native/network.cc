// The FFI handler that runs a network in evaluation; see network.h.
#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "network.h"
#include "pass.h"
#include "xla/ffi/api/ffi.h"

namespace inference {

// code: the number of values and the shape of each; the number of steps and for each its
// kind, its output and three lists: inputs, numbers and params; the list of results. A
// list or shape is its length, then its entries.
Network::Network(const int64_t* code) {
  auto list = [&] {
    Dims entries(code + 1, code + 1 + *code);
    code += 1 + *code;
    return entries;
  };
  for (int64_t n = *code++; n > 0; n--) values.push_back(list());
  for (int64_t n = *code++; n > 0; n--) {
    Step step;
    step.kind = static_cast<Kind>(*code++);
    step.output = *code++;
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
    const Step& step = steps[i];
    const Dims& in = values[step.inputs.empty() ? step.output : step.inputs[0]];
    const int64_t* n = step.numbers.data();
    const int64_t depth = step.kind == kDense         ? in.back()
                          : step.kind == kConvolution ? n[0] * n[1] * in.back() / n[10]
                                                      : kOther;
    work_ += Size(step.output) * depth;
    if (step.kind == kDense && depth * values[step.output].back() > kLargeKernel)
      dense_ = std::min(dense_, i);
  }
  for (int64_t v : results) last_use[v] = kNever;
  // floats: the most that any step from i on reads and writes, for one image
  int64_t floats = 1, images = kMost;
  for (size_t i = dense_; i-- > 0;) {
    int64_t used = Size(steps[i].output);
    for (int64_t in : steps[i].inputs) used += Size(in);
    floats = std::max(floats, used);
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
        live_out_.push_back(steps[i].output);
    }
}

void Network::RunPart(size_t begin, size_t end, int64_t first, int64_t count,
                      int threads, const std::vector<float*>& known,
                      const Params& params, dnnl::stream& stream) {
  std::vector<float*> pointers = known;  // to the first image of this part
  for (size_t v = 0; v < pointers.size(); v++)
    if (pointers[v]) pointers[v] += first * Size(v);
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
    pass = std::make_unique<Pass>(*this, begin, end, count, threads, pointers, params);
  pass->Run(pointers, params, stream);
  stream.wait();
  std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.size() >= kMostPasses) idle_.clear();  // calls with many batch sizes
  idle_[key].push_back(std::move(pass));
}

void Network::Run(const std::vector<float*>& in, const std::vector<float*>& out,
                  const Params& params, int64_t images, ffi::ThreadPool& pool) {
  if (images == 0) return;
  ScopedArena arena;
  int64_t floats = 0;
  for (int64_t v : live_out_) floats += InLines(images * Size(v) * sizeof(float));
  char* free = arena->Reserve(floats + 1);
  std::vector<float*> known(values.size());
  for (int64_t v : live_out_) {
    known[v] = reinterpret_cast<float*>(free);
    free += InLines(images * Size(v) * sizeof(float));
  }
  for (size_t i = 0; i < results.size(); i++) known[results[i]] = out[i];
  for (const Step& step : steps)
    if (step.kind == kInput) known[step.output] = in[step.numbers[0]];

  const int64_t all = std::max<int64_t>(1, pool.num_threads());
  const int64_t threads = std::clamp<int64_t>(images * work_ / kWorth, 1, all);
  // Images of little work: none are left for all threads together.
  const int64_t apart = work_ < kWorth ? images : images / threads * threads;
  if (apart > 0)
    ParallelFor(pool, threads, threads - 1, [&](int thread) {
      const int64_t first = apart * thread / threads;
      const int64_t count = apart * (thread + 1) / threads - first;
      OnThisThread(pool, [&](dnnl::stream& stream) {
        for (const Phase& phase : phases_) {
          const int64_t chunks = (count + phase.images - 1) / phase.images;
          for (int64_t i = 0; i < chunks; i++) {
            const int64_t begin = count * i / chunks, end = count * (i + 1) / chunks;
            RunPart(phase.begin, phase.end, first + begin, end - begin, 1, known, params,
                    stream);
          }
        }
      });
    });
  if (apart == images && dense_ == steps.size()) return;
  OnAllThreads(pool, all, [&](dnnl::stream& stream) {
    if (apart < images)
      RunPart(0, dense_, apart, images - apart, all, known, params, stream);
    if (dense_ < steps.size())
      RunPart(dense_, steps.size(), 0, images, all, known, params, stream);
  });
}

}  // namespace inference

namespace {

namespace ffi = xla::ffi;
using inference::Network, inference::Params, inference::Step;

// The networks that are in use, by the number of their weights.
struct Networks {
  std::mutex mutex;
  std::unordered_map<int32_t, std::shared_ptr<Network>> live;
  std::unordered_set<int32_t> dropped;
};

Networks& All() {
  static auto* all = new Networks;  // outlives exit()
  return *all;
}

std::shared_ptr<Network> NetworkOf(int32_t number, const int64_t* code) {
  std::lock_guard<std::mutex> lock(All().mutex);
  if (auto entry = All().live.find(number); entry != All().live.end())
    return entry->second;
  auto network = std::make_shared<Network>(code);
  if (!All().dropped.count(number)) All().live[number] = network;
  return network;
}

// arrays: the number of the weights, then the inputs, then the params.
ffi::Error Apply(ffi::ThreadPool pool, ffi::RemainingArgs arrays,
                 ffi::RemainingRets results, ffi::Span<const int64_t> code) {
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
    auto network = NetworkOf(*number->typed_data(), code.begin());
    size_t inputs = 0;
    int64_t images = 0;
    for (const Step& step : network->steps)
      if (step.kind == inference::kInput) {
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
                                  .Attr<ffi::Span<const int64_t>>("code"));

// Forgets the packed kernels of weights that are no longer used.
void cnn_jax_network_drop(int32_t number) {
  std::lock_guard<std::mutex> lock(All().mutex);
  All().live.erase(number);
  All().dropped.insert(number);
}

}  // extern "C"
