// Used by all handlers: shapes, working memory that is kept between calls, and a parallel
// loop on XLA's threads.
#ifndef CNN_JAX_WORKERS_H_
#define CNN_JAX_WORKERS_H_

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

using Dims = std::vector<int64_t>;

inline int64_t Count(const Dims& dims) {
  int64_t count = 1;
  for (int64_t n : dims) count *= n;
  return count;
}

constexpr size_t kPage = 4 << 10, kHugePage = 2 << 20;

// Whether CNN_JAX_HUGE_PAGES=0 asks for small pages that are given back after a call.
inline bool GivesBack() {
  static const bool gives_back = [] {
    const char* setting = std::getenv("CNN_JAX_HUGE_PAGES");
    return setting && std::strcmp(setting, "0") == 0;
  }();
  return gives_back;
}

// Rounds bytes up to whole lines of the cache.
inline size_t InLines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Working memory in huge pages, unless GivesBack().
class Arena {
 public:
  template <typename T = char>
  T* Reserve(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > size_) {
      const size_t page = GivesBack() ? kPage : kHugePage;
      data_.reset();
      size_ = (bytes + page - 1) / page * page;
      data_.reset(static_cast<char*>(std::aligned_alloc(page, size_)));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
      if (!GivesBack()) madvise(data_.get(), size_, MADV_HUGEPAGE);
    }
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
  size_t size_ = 0;
};

// Takes an idle arena, or a new one, and returns it to the idle ones at its scope's end:
// fresh pages take longer than some layers. If GivesBack(), it is freed instead.
class ScopedArena {
 public:
  ScopedArena() {
    std::lock_guard<std::mutex> lock(Mutex());
    if (Idle().empty()) {
      arena_ = std::make_unique<Arena>();
    } else {
      arena_ = std::move(Idle().back());
      Idle().pop_back();
    }
  }
  ~ScopedArena() {
    if (GivesBack()) return;
    std::lock_guard<std::mutex> lock(Mutex());
    Idle().push_back(std::move(arena_));
  }
  Arena* operator->() { return arena_.get(); }

 private:
  static std::mutex& Mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static std::vector<std::unique_ptr<Arena>>& Idle() {
    static auto* idle = new std::vector<std::unique_ptr<Arena>>;  // outlives exit()
    return *idle;
  }
  std::unique_ptr<Arena> arena_;
};

// Calls body(0) to body(n - 1), each once, on the threads that a method may use.
using Work = std::function<void(int64_t n, const std::function<void(int)>& body)>;

// Calls body(0) to body(n - 1), each once, on this thread and up to `helpers` of XLA's.
// This thread works too, so that no call waits for a thread that the pool does not have.
inline void ParallelFor(xla::ffi::ThreadPool& pool, int n, int helpers,
                        const std::function<void(int)>& body) {
  struct Job {
    std::atomic<int> next{0}, done{0};
    std::mutex mutex;
    std::string error;
  };
  auto job = std::make_shared<Job>();  // helpers may start after this function's end
  auto work = [job, n, &body] {
    for (int i; (i = job->next.fetch_add(1)) < n;) {
      try {
        body(i);
      } catch (const std::exception& error) {
        std::lock_guard<std::mutex> lock(job->mutex);
        job->error = error.what();
      }
      job->done.fetch_add(1, std::memory_order_release);
    }
  };
  try {
    for (int i = 0; i < helpers; i++) pool.Schedule(std::function<void()>(work));
  } catch (const std::bad_alloc&) {  // helpers that have started use `body`: go on
  }
  work();
  while (job->done.load(std::memory_order_acquire) < n) std::this_thread::yield();
  if (!job->error.empty()) throw std::runtime_error(job->error);
}

#endif  // CNN_JAX_WORKERS_H_
