#include "csrc/kernels/select.h"

#include <algorithm>
#include <limits>

#include "csrc/kernels/table.h"

namespace torchwhisper::kernels {
namespace {

// Few numbers are ever wanted: most blocks are passed over by their maximum alone.
constexpr std::int64_t kBlock = 512;

// Calls look(index) for the numbers of every block whose maximum passes.
template <typename Passes, typename Look>
void scan(const float* x, std::int64_t n, Passes passes, Look look) {
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    if (!passes(kernels().maximum(x + begin, count))) {
      continue;
    }
    for (std::int64_t i = begin; i < begin + count; ++i) {
      look(i);
    }
  }
}

}  // namespace

std::vector<Ranked> largest(const float* x, std::int64_t n, std::int64_t k) {
  std::vector<Ranked> best;
  const auto wanted = static_cast<std::size_t>(std::min(n, k));
  if (wanted == 0) {
    return best;
  }
  best.reserve(wanted + 1);
  const auto passes = [&](float value) { return best.size() < wanted || value > best.back().value; };
  scan(x, n, passes, [&](std::int64_t i) {
    if (!passes(x[i])) {
      return;
    }
    const auto place = std::upper_bound(best.begin(), best.end(), x[i],
                                        [](float value, const Ranked& other) { return value > other.value; });
    best.insert(place, {x[i], i});
    if (best.size() > wanted) {
      best.pop_back();
    }
  });
  return best;
}

std::vector<std::int64_t> at_least(const float* x, std::int64_t n, float least) {
  const float bound = std::max(least, std::numeric_limits<float>::lowest());
  std::vector<std::int64_t> found;
  const auto passes = [&](float value) { return value >= bound; };
  scan(x, n, passes, [&](std::int64_t i) {
    if (passes(x[i])) {
      found.push_back(i);
    }
  });
  return found;
}

}  // namespace torchwhisper::kernels
