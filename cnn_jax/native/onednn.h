// Shared by all files that call oneDNN: the engine, layouts, and oneDNN's threads.
#ifndef CNN_JAX_ONEDNN_H_
#define CNN_JAX_ONEDNN_H_

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <mutex>
#include <queue>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "workers.h"

#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_THREADPOOL
#define ON_XLA_THREADS
#include "oneapi/dnnl/dnnl_threadpool.hpp"
#elif DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
#define ON_OPENMP
extern "C" int omp_get_max_threads();  // in the OpenMP that oneDNN brings along
extern "C" void omp_set_num_threads(int);
#endif

inline dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Describes [N, *spatial, C] in memory as oneDNN's [N, C, *spatial].
inline dnnl::memory::desc ImageLayout(const Dims& dims, dnnl::memory::data_type type) {
  const size_t rank = dims.size() - 2;
  Dims sizes{dims[0], dims[rank + 1]}, steps{0, 1};
  sizes.insert(sizes.end(), dims.begin() + 1, dims.end() - 1);
  steps.resize(rank + 2);
  int64_t step = dims[rank + 1];
  for (size_t i = rank; i >= 1; i--) {
    steps[i + 1] = step;
    step *= dims[i];
  }
  steps[0] = step;
  return dnnl::memory::desc(sizes, type, steps);
}

// Describes [*kernel, C / groups, O] in memory as oneDNN's weights,
// [(groups,) O, C / groups, *kernel]. any: in the layout that a primitive chooses.
inline dnnl::memory::desc KernelLayout(const Dims& dims, int64_t groups,
                                       dnnl::memory::data_type type, bool any) {
  const size_t rank = dims.size() - 2;
  const int64_t outputs = dims[rank + 1];
  Dims sizes{outputs / groups, dims[rank]}, steps{1, outputs};
  int64_t step = outputs * dims[rank];
  steps.resize(rank + 2);
  for (size_t i = rank; i-- > 0;) {
    steps[i + 2] = step;
    step *= dims[i];
  }
  sizes.insert(sizes.end(), dims.begin(), dims.end() - 2);
  if (groups > 1) {
    sizes.insert(sizes.begin(), groups);
    steps.insert(steps.begin(), outputs / groups);
  }
  return any ? dnnl::memory::desc(sizes, type, dnnl::memory::format_tag::any)
             : dnnl::memory::desc(sizes, type, steps);
}

#ifdef ON_XLA_THREADS
// Lets oneDNN run on XLA's threads.
class Threads : public dnnl::threadpool_interop::threadpool_iface {
 public:
  Threads(xla::ffi::ThreadPool* pool, int count) : pool_(pool), count_(count) {}
  int get_num_threads() const override { return count_; }
  bool get_in_parallel() const override { return busy; }
  uint64_t get_flags() const override { return 0; }
  void wait() {}  // later versions of oneDNN call it on asynchronous pools
  void parallel_for(int n, const std::function<void(int, int)>& body) override {
    ParallelFor(*pool_, n, busy ? 0 : std::min(n, count_) - 1, [&](int i) {
      const bool outer = std::exchange(busy, true);
      body(i, n);
      busy = outer;
    });
  }

 private:
  static inline thread_local bool busy = false;
  xla::ffi::ThreadPool* pool_;
  int count_;
};
#else
// Makes all calls from one thread. OpenMP keeps a team of threads for every thread that
// ever called it, and XLA calls from all of its own: n cores would have n teams.
class Caller {
 public:
  Caller() { std::thread([this] { Serve(); }).detach(); }

  void Run(std::function<void()> call) {
    std::packaged_task<void()> task(std::move(call));
    std::future<void> done = task.get_future();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      waiting_.push(std::move(task));
    }
    arrived_.notify_one();
    done.get();  // throws what the call threw
  }

 private:
  void Serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      arrived_.wait(lock, [this] { return !waiting_.empty(); });
      std::packaged_task<void()> task = std::move(waiting_.front());
      waiting_.pop();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::queue<std::packaged_task<void()>> waiting_;
};
#endif

// Calls body(stream) such that oneDNN divides each call among `threads` threads.
inline void OnAllThreads([[maybe_unused]] xla::ffi::ThreadPool& pool,
                         [[maybe_unused]] int threads,
                         const std::function<void(dnnl::stream&)>& body) {
#ifdef ON_XLA_THREADS
  Threads team(&pool, threads);
  auto stream = dnnl::threadpool_interop::make_stream(Engine(), &team);
  body(stream);
#else
  static auto* caller = new Caller;  // its thread may outlive exit()
  caller->Run([&] {
    dnnl::stream stream(Engine());
    body(stream);
  });
#endif
}

// Calls body(stream) such that oneDNN runs on the calling thread alone.
inline void OnThisThread([[maybe_unused]] xla::ffi::ThreadPool& pool,
                         const std::function<void(dnnl::stream&)>& body) {
#ifdef ON_XLA_THREADS
  Threads team(&pool, 1);
  auto stream = dnnl::threadpool_interop::make_stream(Engine(), &team);
#else
  dnnl::stream stream(Engine());
#endif
#ifdef ON_OPENMP
  struct OneThread {  // OpenMP starts no team for a thread that wants one thread
    const int before = omp_get_max_threads();
    OneThread() { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(before); }
  } one_thread;
#endif
  body(stream);
}

#endif  // CNN_JAX_ONEDNN_H_
