#include "csrc/timing/median_filter.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace torchwhisper::timing {
namespace {

constexpr std::int64_t kLanes = 32;
// Above this width sorting networks do more work than a selection.
constexpr std::int64_t kWidestNetwork = 31;
constexpr std::int64_t kValuesPerTask = 1 << 14;

template <typename T>
using Lanes = std::array<T, kLanes>;

/// Sorts the pair of numbers in every lane. std::min and std::max become vector code, ?: does not.
template <typename T>
void order(Lanes<T>& low, Lanes<T>& high) {
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const T a = low[lane];
    const T b = high[lane];
    low[lane] = std::min(a, b);
    high[lane] = std::max(a, b);
  }
}

/// Medians of kLanes neighbouring windows; `padded` holds kLanes + width - 1 numbers, none of them NaN.
template <typename T>
void network_medians(const T* padded, std::int64_t width, Lanes<T>& medians) {
  std::array<Lanes<T>, kWidestNetwork> window;
  for (std::int64_t k = 0; k < width; ++k) {
    std::copy_n(padded + k, kLanes, window[k].begin());
  }
  // Bubble the largest up until the middle one is found.
  for (std::int64_t last = width - 1; last >= width / 2; --last) {
    for (std::int64_t k = 0; k < last; ++k) {
      order(window[k], window[k + 1]);
    }
  }
  medians = window[width / 2];
}

template <typename T>
T selected_median(const T* window, std::int64_t width, std::vector<T>& scratch) {
  scratch.assign(window, window + width);
  const auto middle = scratch.begin() + width / 2;
  std::nth_element(scratch.begin(), middle, scratch.end(),
                   [](T a, T b) { return a < b || (std::isnan(b) && !std::isnan(a)); });
  return *middle;
}

/// Filters rows of one length, keeping its buffers from row to row.
template <typename T>
class RowFilter {
 public:
  // The last block of lanes reaches beyond the row; what it finds there is dropped.
  RowFilter(std::int64_t length, std::int64_t width)
      : length_(length),
        width_(width),
        padded_(static_cast<std::size_t>((length + kLanes - 1) / kLanes * kLanes + width - 1)) {}

  void operator()(const T* row, T* out) {
    pad(row);
    for (std::int64_t at = 0; at < length_; at += kLanes) {
      const T* block = padded_.data() + at;
      const std::int64_t count = std::min(kLanes, length_ - at);
      if (width_ <= kWidestNetwork && !has_nan(block)) {
        Lanes<T> medians;
        network_medians(block, width_, medians);
        std::copy_n(medians.begin(), count, out + at);
        continue;
      }
      for (std::int64_t k = 0; k < count; ++k) {
        out[at + k] = selected_median(block + k, width_, scratch_);
      }
    }
  }

 private:
  bool has_nan(const T* block) const {
    bool found = false;
    for (std::int64_t k = 0; k < kLanes + width_ - 1; ++k) {
      found |= std::isnan(block[k]);
    }
    return found;
  }

  void pad(const T* row) {
    const std::int64_t side = width_ / 2;
    std::copy_n(row, length_, padded_.begin() + side);
    for (std::int64_t k = 0; k < side; ++k) {
      padded_[side - 1 - k] = row[k + 1];
      padded_[side + length_ + k] = row[length_ - 2 - k];
    }
  }

  std::int64_t length_;
  std::int64_t width_;
  std::vector<T> padded_;
  std::vector<T> scratch_;
};

template <typename T>
void filter_rows(const at::Tensor& x, at::Tensor& result, std::int64_t width) {
  const std::int64_t length = x.size(-1);
  const T* in = x.const_data_ptr<T>();
  T* out = result.mutable_data_ptr<T>();
  const std::int64_t grain = std::max<std::int64_t>(1, kValuesPerTask / length);
  at::parallel_for(0, x.numel() / length, grain, [&](std::int64_t begin, std::int64_t end) {
    RowFilter<T> filter(length, width);
    for (std::int64_t row = begin; row < end; ++row) {
      filter(in + row * length, out + row * length);
    }
  });
}

}  // namespace

at::Tensor median_filter(const at::Tensor& x, std::int64_t width) {
  TORCH_CHECK_VALUE(x.dim() > 0, "a median filter needs at least one dimension, got a scalar");
  if (x.size(-1) <= width / 2) {
    return x;
  }
  TORCH_CHECK_VALUE(width > 0 && width % 2 == 1, "the filter width is ", width, ", expected an odd number");
  TORCH_CHECK_VALUE(x.is_cpu() && x.is_floating_point(), "got a ", x.scalar_type(), " tensor on ", x.device(),
                    ", expected floating point on the CPU");
  const auto type = x.scalar_type();
  if (type != at::kFloat && type != at::kDouble) {
    return median_filter(x.to(at::kFloat), width).to(type);
  }
  const at::Tensor values = x.detach().contiguous();
  at::Tensor result = at::empty_like(values);
  if (type == at::kFloat) {
    filter_rows<float>(values, result, width);
  } else {
    filter_rows<double>(values, result, width);
  }
  return result;
}

}  // namespace torchwhisper::timing
