#include "csrc/model/checkpoint.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <exception>
#include <fstream>
#include <iterator>
#include <vector>

namespace torchwhisper::model {
namespace {

std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK_VALUE(file.good(), "cannot read the checkpoint '", path, "': no such file, or no permission");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

c10::IValue unpickle(const std::string& path) {
  const std::vector<char> bytes = read_file(path);
  try {
    return torch::jit::pickle_load(bytes);
  } catch (const std::exception&) {
    // torch's own words are a page of its insides.
    TORCH_CHECK_VALUE(false, "'", path,
                      "' is not a checkpoint in torch's zip format, or it is cut off or corrupt");
  }
}

c10::IValue entry(const c10::IValue& dict, const std::string& key, const std::string& path) {
  TORCH_CHECK_VALUE(dict.isGenericDict(), "'", path,
                    "' does not hold a dictionary, as a Whisper checkpoint does");
  const auto entries = dict.toGenericDict();
  const auto found = entries.find(key);
  TORCH_CHECK_VALUE(found != entries.end(), "'", path, "' has no entry '", key,
                    "': this is not a Whisper checkpoint");
  return found->value();
}

ModelDimensions read_dimensions(const c10::IValue& dims, const std::string& path) {
  const auto size = [&](const char* name) {
    const c10::IValue value = entry(dims, name, path);
    TORCH_CHECK_VALUE(value.isInt(), "'", path, "': model dimension ", name, " is not an integer");
    return value.toInt();
  };
  return {size("n_mels"),        size("n_audio_ctx"), size("n_audio_state"), size("n_audio_head"),
          size("n_audio_layer"), size("n_vocab"),     size("n_text_ctx"),    size("n_text_state"),
          size("n_text_head"),   size("n_text_layer")};
}

}  // namespace

Checkpoint read_checkpoint(const std::string& path) {
  const c10::IValue content = unpickle(path);
  Checkpoint checkpoint{read_dimensions(entry(content, "dims", path), path), {}};
  checkpoint.dims.check();
  for (const auto& item : entry(content, "model_state_dict", path).toGenericDict()) {
    checkpoint.state_dict.emplace(item.key().toStringRef(), item.value().toTensor());
  }
  return checkpoint;
}

Whisper load_model(const std::string& path) {
  Checkpoint checkpoint = read_checkpoint(path);
  for (auto& [name, tensor] : checkpoint.state_dict) {
    tensor = tensor.to(at::kFloat);
  }
  return Whisper(checkpoint.dims, checkpoint.state_dict);
}

}  // namespace torchwhisper::model
