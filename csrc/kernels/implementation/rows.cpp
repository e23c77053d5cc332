#include "csrc/kernels/implementation/implementation.h"
#include "csrc/kernels/implementation/vectors.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {
namespace {

// exp() of the numbers from `i` on, of which `n - i` are left; the lanes beyond give 0.
inline Floats exp_of_rest(const float* x, std::int64_t i, std::int64_t n, float shift, float scale) {
  float rest[kLanes];
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    rest[lane] = i + lane < n ? (x[i + lane] - shift) * scale : -1000.0F;
  }
  return exp_of(load(rest));
}

}  // namespace

float dot(const float* x, const float* y, std::int64_t n) {
  Floats first = {};
  Floats second = {};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    first += load(x + i) * load(y + i);
    second += load(x + i + kLanes) * load(y + i + kLanes);
  }
  float sum = sum_of(first + second);
  for (; i < n; ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

float maximum(const float* x, std::int64_t n) {
  float best = x[0];
  std::int64_t i = 0;
  if (n >= 2 * kLanes) {
    Floats first = load(x);
    Floats second = load(x + kLanes);
    for (i = 2 * kLanes; i + 2 * kLanes <= n; i += 2 * kLanes) {
      first = larger(first, load(x + i));
      second = larger(second, load(x + i + kLanes));
    }
    best = maximum_of(larger(first, second));
  }
  for (; i < n; ++i) {
    best = x[i] > best ? x[i] : best;
  }
  return best;
}

float log_sum_exp(const float* x, std::int64_t n) {
  // Several sums, so that each stays small beside what is added to it.
  constexpr std::int64_t kSums = 8;
  const float largest = maximum(x, n);
  Floats sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    for (std::int64_t s = 0; s < kSums; ++s) {
      sums[s] += exp_of(load(x + i + s * kLanes) - largest);
    }
  }
  for (; i < n; i += kLanes) {
    sums[0] += exp_of_rest(x, i, n, largest, 1.0F);
  }
  Floats total = {};
  for (const Floats& sum : sums) {
    total += sum;
  }
  return largest + __builtin_logf(sum_of(total));
}

float exponentials(float* x, std::int64_t n, float scale) {
  const float largest = maximum(x, n);
  Floats sums = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats value = exp_of((load(x + i) - largest) * scale);
    store(x + i, value);
    sums += value;
  }
  if (i < n) {
    const Floats value = exp_of_rest(x, i, n, largest, scale);
    for (std::int64_t lane = 0; i + lane < n; ++lane) {
      x[i + lane] = value[lane];
    }
    sums += value;
  }
  return sum_of(sums);
}

// Two passes, so that the variance keeps its digits where the mean is large.
void layer_norm(const float* x, std::int64_t n, const float* weight, const float* bias, float epsilon,
                float* y) {
  Floats sums = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    sums += load(x + i);
  }
  float sum = sum_of(sums);
  for (std::int64_t j = i; j < n; ++j) {
    sum += x[j];
  }
  const float mean = sum / static_cast<float>(n);
  Floats squares = {};
  for (std::int64_t j = 0; j < i; j += kLanes) {
    const Floats distance = load(x + j) - mean;
    squares += distance * distance;
  }
  float square = sum_of(squares);
  for (std::int64_t j = i; j < n; ++j) {
    square += (x[j] - mean) * (x[j] - mean);
  }
  const float factor = 1.0F / __builtin_sqrtf(square / static_cast<float>(n) + epsilon);
  for (std::int64_t j = 0; j < n; ++j) {
    y[j] = (x[j] - mean) * factor * weight[j] + bias[j];
  }
}

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
