#include "csrc/nn/fused_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "csrc/nn/functional.h"
#include "tests/cpp/random_model.h"

namespace torchwhisper::nn {
namespace {

at::Tensor heads(std::int64_t time, std::int64_t dim) {
  return at::randn({2, 3, time, dim}).requires_grad_();
}

// dim 12 is one that no kernel of CUDA takes as it is.
TEST(FusedAttention, EqualsAutograd) {
  for (const bool causal : {false, true}) {
    for (const std::int64_t dim : {8, 12}) {
      const at::Tensor q = heads(7, dim);
      const at::Tensor k = heads(causal ? 7 : 13, dim);
      const at::Tensor v = heads(causal ? 7 : 13, dim);
      const at::Tensor grad = at::randn(q.sizes());
      const at::Tensor out = functional::attention(q, k, v, causal);
      const auto expected = torch::autograd::grad({out}, {q, k, v}, {grad});
      const at::NoGradGuard as_in_backward;
      Attended attended = attend(q, k, v, causal);
      EXPECT_TRUE(attended.out.allclose(out));
      const auto found = attend_backward(grad, q, k, v, attended, causal);
      attended.kernel = at::SDPBackend::math;  // which leaves nothing behind
      const auto again = attend_backward(grad, q, k, v, attended, causal);
      for (std::size_t i = 0; i < found.size(); ++i) {
        EXPECT_TRUE(found[i].equal(expected[i])) << i;
        EXPECT_LT(torchwhisper::testing::relative_error(again[i], expected[i]), 1e-5) << i;
      }
    }
  }
}

}  // namespace
}  // namespace torchwhisper::nn
