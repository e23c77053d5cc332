#pragma once

#include <string>

#include "csrc/common/api.h"
#include "csrc/model/dimensions.h"
#include "csrc/model/whisper.h"
#include "csrc/nn/weights.h"

namespace torchwhisper::model {

/// What a checkpoint in OpenAI's format holds: {"dims": ..., "model_state_dict": ...}.
struct TORCHWHISPER_API Checkpoint {
  ModelDimensions dims;
  nn::NamedTensors state_dict;  // in the types of the file
};

/// Reads an OpenAI .pt file without Python. Only tensors, numbers, strings and containers are unpickled.
/// Throws ValueError naming the file and what is wrong with it.
TORCHWHISPER_API Checkpoint read_checkpoint(const std::string& path);

/// A model of a checkpoint's weights in float32, on the CPU.
TORCHWHISPER_API Whisper load_model(const std::string& path);

}  // namespace torchwhisper::model
