#include "csrc/kernels/dense_attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "csrc/kernels/attention.h"
#include "csrc/kernels/panels.h"
#include "csrc/kernels/words.h"

namespace torchwhisper::kernels {
namespace {

/// Where one head's rows begin.
struct Head {
  const float* q;
  const float* k;
  const float* v;
  float* y;  // [time][y_stride]
  std::int64_t y_stride;

  Head(const DenseAttention& a, std::int64_t index) {
    const std::int64_t row = index / a.n_head * a.time;
    const std::int64_t column = index % a.n_head * a.dim;
    q = a.q + row * a.stride + column;
    k = a.k + row * a.stride + column;
    v = a.v + row * a.stride + column;
    y_stride = a.n_head * a.dim;
    y = a.y + row * y_stride + column;
  }
};

/// Keys and values of every head in float32, as attend() reads them.
class FloatMemory {
 public:
  static constexpr std::int64_t kQueries = kMostQueries;

  explicit FloatMemory(const DenseAttention& a)
      : a_(a),
        key_size_(panels_size(a.time, a.dim)),
        value_size_(a.time * kPanelWidth),
        keys_(static_cast<std::size_t>(a.batch * a.n_head * key_size_)),
        values_(static_cast<std::size_t>(a.batch * a.n_head * value_size_)) {}

  void take(std::int64_t index) {
    const Head head(a_, index);
    pack_panels(head.k, a_.stride, a_.time, a_.dim, keys_.data() + index * key_size_);
    float* value = values_.data() + index * value_size_;
    for (std::int64_t t = 0; t < a_.time; ++t, value += kPanelWidth) {
      std::copy_n(head.v + t * a_.stride, a_.dim, value);
    }
  }

  struct Scratch {
    std::vector<float> scores;
    explicit Scratch(const FloatMemory& memory)
        : scores(static_cast<std::size_t>(kQueries * score_stride(memory.a_.time))) {}
  };

  void attend(std::int64_t index, std::int64_t first, std::int64_t rows, Scratch& scratch) const {
    const Head head(a_, index);
    kernels::attend({head.q + first * a_.stride, a_.stride, rows, a_.dim, a_.time,
                     keys_.data() + index * key_size_, values_.data() + index * value_size_, false, a_.scale,
                     head.y + first * head.y_stride, head.y_stride},
                    scratch.scores.data());
  }

 private:
  const DenseAttention& a_;
  std::int64_t key_size_;
  std::int64_t value_size_;
  std::vector<float> keys_;
  std::vector<float> values_;
};

/// The same in bfloat16: keys are the columns of one product, values the rows of another.
class Bfloat16Memory {
 public:
  static constexpr std::int64_t kQueries = kShortQueries;

  explicit Bfloat16Memory(const DenseAttention& a)
      : a_(a),
        dim_words_(words_of(a.dim, WordType::kBfloat16)),
        time_words_(words_of(a.time, WordType::kBfloat16)),
        key_size_(panel_count(a.time) * dim_words_ * kPanelWidth),
        value_size_(time_words_ * kPanelWidth),
        keys_(at::empty({a.batch * a.n_head, key_size_}, at::kInt)),
        values_(at::empty({a.batch * a.n_head, value_size_}, at::kInt)) {}

  void take(std::int64_t index) {
    const Head head(a_, index);
    take_keys(head, keys() + index * key_size_);
    take_values(head, values() + index * value_size_);
  }

  struct Scratch {
    at::Tensor all;
    explicit Scratch(const Bfloat16Memory& memory) : all(at::empty({3 * kQueries * memory.time_words_})) {}
  };

  void attend(std::int64_t index, std::int64_t first, std::int64_t rows, Scratch& scratch) const {
    const Head head(a_, index);
    kernels().attend_shortened({head.q + first * a_.stride, a_.stride, rows, a_.dim, dim_words_, a_.time,
                                time_words_, keys() + index * key_size_, values() + index * value_size_,
                                a_.scale, head.y + first * head.y_stride, head.y_stride,
                                scratch.all.mutable_data_ptr<float>()});
  }

 private:
  std::uint32_t* keys() const { return static_cast<std::uint32_t*>(keys_.mutable_data_ptr()); }
  std::uint32_t* values() const { return static_cast<std::uint32_t*>(values_.mutable_data_ptr()); }

  // Rows lie far apart, so that the processor does not guess the next one.
  static constexpr std::int64_t kAhead = 8;
  void ask_for(const float* row) const {
    constexpr std::int64_t kCacheLine = 16;  // numbers
    for (std::int64_t d = 0; d < a_.dim; d += kCacheLine) {
      __builtin_prefetch(row + d);
    }
  }

  void take_keys(const Head& head, std::uint32_t* to) const {
    std::uint32_t key[kPanelWidth];
    for (std::int64_t t = 0; t < panel_count(a_.time) * kPanelWidth; ++t) {
      ask_for(head.k + (t + kAhead) * a_.stride);
      kernels().shorten_row(head.k + t * a_.stride, t < a_.time ? a_.dim : 0, dim_words_, key);
      std::uint32_t* column = to + t / kPanelWidth * dim_words_ * kPanelWidth + t % kPanelWidth;
      for (std::int64_t w = 0; w < dim_words_; ++w) {
        column[w * kPanelWidth] = key[w];
      }
    }
  }

  void take_values(const Head& head, std::uint32_t* to) const {
    constexpr std::int64_t kWords = kPanelWidth / 2;
    std::uint16_t pair[2][kPanelWidth] = {};
    for (std::int64_t t = 0; t < 2 * time_words_; t += 2, to += kPanelWidth) {
      for (std::int64_t i = 0; i < 2; ++i) {
        std::uint32_t row[kWords] = {};
        if (t + i < a_.time) {
          ask_for(head.v + (t + i + kAhead) * a_.stride);
          kernels().shorten_row(head.v + (t + i) * a_.stride, a_.dim, kWords, row);
        }
        std::memcpy(pair[i], row, sizeof(row));
      }
      for (std::int64_t d = 0; d < kPanelWidth; ++d) {
        to[d] = pair[0][d] | static_cast<std::uint32_t>(pair[1][d]) << 16U;
      }
    }
  }

  const DenseAttention& a_;
  std::int64_t dim_words_;
  std::int64_t time_words_;
  std::int64_t key_size_;
  std::int64_t value_size_;
  at::Tensor keys_;
  at::Tensor values_;
};

template <typename Memory>
void attend_with(const DenseAttention& a) {
  Memory memory(a);
  const std::int64_t n_head = a.batch * a.n_head;
  at::parallel_for(0, n_head, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t index = begin; index < end; ++index) {
      memory.take(index);
    }
  });
  const std::int64_t groups = (a.time + Memory::kQueries - 1) / Memory::kQueries;
  at::parallel_for(0, n_head * groups, 1, [&](std::int64_t begin, std::int64_t end) {
    typename Memory::Scratch scratch(memory);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t first = i % groups * Memory::kQueries;
      memory.attend(i / groups, first, std::min(Memory::kQueries, a.time - first), scratch);
    }
  });
}

}  // namespace

void attend_densely(const DenseAttention& attention, bool in_bfloat16) {
  if (in_bfloat16) {
    attend_with<Bfloat16Memory>(attention);
  } else {
    attend_with<FloatMemory>(attention);
  }
}

}  // namespace torchwhisper::kernels
