#include "csrc/kernels/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::kernels {
namespace {

using torchwhisper::testing::relative_error;

TEST(HeadAttention, EqualsTheFormula) {
  for (const std::int64_t rows : {1, 5, 11}) {
    for (const std::int64_t memory : {1, 63, 64, 200, 1500}) {
      for (const std::int64_t dim : {3, 64}) {
        const at::Tensor q = at::randn({rows, dim + 5});
        const at::Tensor key = at::randn({memory, dim});
        const at::Tensor value = at::randn({memory, dim});
        at::Tensor panels = at::empty({panels_size(memory, dim)});
        pack_panels(key.const_data_ptr<float>(), dim, memory, dim, panels.mutable_data_ptr<float>());
        const at::Tensor padded = at::constant_pad_nd(value, {0, kPanelWidth - dim});
        at::Tensor out = at::empty({rows, dim});
        at::Tensor scores = at::empty({rows, memory});
        const HeadAttention head{q.const_data_ptr<float>(),
                                 dim + 5,
                                 rows,
                                 dim,
                                 memory,
                                 panels.const_data_ptr<float>(),
                                 padded.const_data_ptr<float>(),
                                 false,
                                 0.25F,
                                 out.mutable_data_ptr<float>(),
                                 dim};
        const at::Tensor exact =
            at::matmul(q.slice(1, 0, dim).to(at::kDouble), key.to(at::kDouble).t()) * 0.25;
        score(head, scores.mutable_data_ptr<float>());
        EXPECT_LT(relative_error(scores, exact), 2e-6);
        at::Tensor scratch = at::empty({rows, score_stride(memory)});
        attend(head, scratch.mutable_data_ptr<float>());
        EXPECT_LT(relative_error(out, at::matmul(exact.softmax(1), value.to(at::kDouble))), 3e-6);
      }
    }
  }
}

}  // namespace
}  // namespace torchwhisper::kernels
