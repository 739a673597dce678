// Places values in one piece of memory. Values that are not alive together may share it.
#ifndef CNN_JAX_PLACEMENT_H_
#define CNN_JAX_PLACEMENT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "workers.h"

// A value that is alive from one step to another, both included.
struct Lifetime {
  int64_t first, last;
  size_t bytes;
};

struct Placement {
  std::vector<size_t> offsets;
  size_t bytes = 0;
};

// Gives each value, the largest first, the lowest offset at which no value that is alive
// at the same time lies.
inline Placement Place(const std::vector<Lifetime>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return values[a].bytes > values[b].bytes;
  });
  Placement placed{std::vector<size_t>(values.size())};
  for (size_t i = 0; i < order.size(); i++) {
    const Lifetime& value = values[order[i]];
    std::vector<std::pair<size_t, size_t>> taken;  // from, to
    for (size_t j = 0; j < i; j++) {
      const Lifetime& other = values[order[j]];
      const size_t from = placed.offsets[order[j]];
      if (value.first <= other.last && other.first <= value.last)
        taken.emplace_back(from, from + InLines(other.bytes));
    }
    std::sort(taken.begin(), taken.end());
    size_t offset = 0;
    for (auto [from, to] : taken) {
      if (offset + value.bytes <= from) break;
      offset = std::max(offset, to);
    }
    placed.offsets[order[i]] = offset;
    placed.bytes = std::max(placed.bytes, offset + InLines(value.bytes));
  }
  return placed;
}

#endif  // CNN_JAX_PLACEMENT_H_
