#include "csrc/model/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/cpp/random_model.h"

namespace torchwhisper::model {
namespace {

namespace fs = std::filesystem;
using torchwhisper::testing::random_weights;
using torchwhisper::testing::relative_error;
using torchwhisper::testing::small_dimensions;
using IntDict = c10::Dict<std::string, std::int64_t>;
using TensorDict = c10::Dict<std::string, at::Tensor>;

IntDict dims_dict(const ModelDimensions& dims) {
  IntDict dict;
  dict.insert("n_mels", dims.n_mels);
  dict.insert("n_audio_ctx", dims.n_audio_ctx);
  dict.insert("n_audio_state", dims.n_audio_state);
  dict.insert("n_audio_head", dims.n_audio_head);
  dict.insert("n_audio_layer", dims.n_audio_layer);
  dict.insert("n_vocab", dims.n_vocab);
  dict.insert("n_text_ctx", dims.n_text_ctx);
  dict.insert("n_text_state", dims.n_text_state);
  dict.insert("n_text_head", dims.n_text_head);
  dict.insert("n_text_layer", dims.n_text_layer);
  return dict;
}

class CheckpointFile : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove(path_); }

  void write(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }

  void write(const IntDict& dims, const nn::NamedTensors& tensors) {
    TensorDict state_dict;
    for (const auto& [name, tensor] : tensors) {
      state_dict.insert(name, tensor);
    }
    c10::Dict<c10::IValue, c10::IValue> content(c10::StringType::get(), c10::AnyType::get());
    content.insert(c10::IValue("dims"), c10::IValue(dims));
    content.insert(c10::IValue("model_state_dict"), c10::IValue(state_dict));
    const std::vector<char> bytes = torch::jit::pickle_save(c10::IValue(content));
    write(std::string(bytes.begin(), bytes.end()));
  }

  void expect_error(const std::string& words) {
    try {
      load_model(path_);
      FAIL() << "expected an error about " << words;
    } catch (const c10::ValueError& error) {
      EXPECT_THAT(error.what_without_backtrace(), ::testing::HasSubstr(words));
      EXPECT_THAT(error.what_without_backtrace(), ::testing::Not(::testing::HasSubstr("frame #")));
    }
  }

  std::string path_ = fs::temp_directory_path() / ("torchwhisper_" + std::to_string(::getpid()) + ".pt");
};

TEST_F(CheckpointFile, MakesAModelThatRuns) {
  nn::NamedTensors tensors = random_weights(small_dimensions());
  Whisper original(small_dimensions(), tensors);
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.clone();
  }
  write(dims_dict(small_dimensions()), tensors);
  Whisper loaded = load_model(path_);
  const at::Tensor mel = at::randn({1, 6, 40});
  const at::Tensor tokens = at::randint(60, {1, 5}, at::kLong);
  EXPECT_TRUE(loaded->forward(mel, tokens).equal(original->forward(mel, tokens)));
}

TEST_F(CheckpointFile, BecomesFloat32) {
  nn::NamedTensors tensors = random_weights(small_dimensions());
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(at::kHalf);
  }
  write(dims_dict(small_dimensions()), tensors);
  for (const at::Tensor& parameter : load_model(path_)->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), at::kFloat);
  }
}

TEST_F(CheckpointFile, SaysWhatIsWrong) {
  expect_error("no such file");
  write("not a checkpoint");
  expect_error("not a checkpoint in torch's zip format");
  write("PK\x03\x04 and no more");
  expect_error("not a checkpoint in torch's zip format");
  nn::NamedTensors tensors = random_weights(small_dimensions());
  IntDict dims = dims_dict(small_dimensions());
  ASSERT_EQ(dims.erase("n_vocab"), 1U);
  write(dims, tensors);
  expect_error("n_vocab");
  dims.insert("n_vocab", -1);
  write(dims, tensors);
  expect_error("expected a positive number");
  tensors.erase("encoder.conv1.bias");
  write(dims_dict(small_dimensions()), tensors);
  expect_error("encoder.conv1.bias");
}

TEST(Checkpoint, ReadsFilesWrittenByPython) {
  const char* shared = std::getenv("TORCHWHISPER_SHARED");
  const fs::path path = fs::path(shared == nullptr ? "../shared" : shared) / "models" / "demo.pt";
  if (!fs::exists(path)) {
    GTEST_SKIP() << path << " is absent: reading a checkpoint that Python wrote is not tested";
  }
  const at::NoGradGuard no_grad;
  Whisper whisper = load_model(path);
  EXPECT_EQ(whisper->dims.n_audio_state, 256);
  const at::Tensor logits =
      whisper->forward(at::zeros({1, 80, 3000}), at::tensor({50258}, at::kLong).unsqueeze(0));
  EXPECT_TRUE(logits.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace torchwhisper::model
