#include "csrc/model/dimensions.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

using torchwhisper::testing::small_dimensions;

TEST(ModelDimensions, AcceptsAModel) { EXPECT_NO_THROW(small_dimensions().check()); }

TEST(ModelDimensions, RefusesImpossibleSizes) {
  for (std::int64_t ModelDimensions::*size :
       {&ModelDimensions::n_mels, &ModelDimensions::n_audio_ctx, &ModelDimensions::n_vocab,
        &ModelDimensions::n_text_layer, &ModelDimensions::n_audio_head}) {
    for (const std::int64_t bad : {0, -3}) {
      ModelDimensions dims = small_dimensions();
      dims.*size = bad;
      EXPECT_THROW(dims.check(), c10::ValueError);
    }
  }
  ModelDimensions dims = small_dimensions();
  dims.n_text_head = 3;  // 16 is not a multiple of 3
  EXPECT_THROW(dims.check(), c10::ValueError);
  dims = small_dimensions();
  dims.n_text_state = 32;
  EXPECT_THROW(dims.check(), c10::ValueError);
}

TEST(ModelDimensions, KnowsMultilingualVocabularies) {
  ModelDimensions dims = small_dimensions();
  dims.n_vocab = 51864;
  EXPECT_FALSE(dims.is_multilingual());
  dims.n_vocab = 51865;
  EXPECT_TRUE(dims.is_multilingual());
}

}  // namespace
}  // namespace torchwhisper::model
