// What all files that call oneDNN share: the engine, and the threads that it runs on.
#ifndef CNN_JAX_ONEDNN_H_
#define CNN_JAX_ONEDNN_H_

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

using Dims = std::vector<int64_t>;

inline dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

inline int64_t Count(const Dims& dims) {
  int64_t count = 1;
  for (int64_t n : dims) count *= n;
  return count;
}

#ifdef ON_XLA_THREADS
// Lets oneDNN run on XLA's threads.
class Threads : public dnnl::threadpool_interop::threadpool_iface {
 public:
  Threads(xla::ffi::ThreadPool* pool, int count) : pool_(pool), count_(count) {}
  int get_num_threads() const override { return count_; }
  bool get_in_parallel() const override { return busy; }
  uint64_t get_flags() const override { return 0; }
  void wait() {}  // later versions of oneDNN ask for it of asynchronous pools
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
  struct One {  // OpenMP starts no team for a thread that wants one thread
    const int before = omp_get_max_threads();
    One() { omp_set_num_threads(1); }
    ~One() { omp_set_num_threads(before); }
  } one;
#endif
  body(stream);
}

#endif  // CNN_JAX_ONEDNN_H_
