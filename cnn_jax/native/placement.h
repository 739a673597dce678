// Where values lie in one piece of memory, one after another where they can.
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

// Gives each value the lowest place that no other value holds at the same time, the
// largest first.
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
    size_t place = 0;
    for (auto [from, to] : taken) {
      if (place + value.bytes <= from) break;
      place = std::max(place, to);
    }
    placed.offsets[order[i]] = place;
    placed.bytes = std::max(placed.bytes, place + InLines(value.bytes));
  }
  return placed;
}

#endif  // CNN_JAX_PLACEMENT_H_
