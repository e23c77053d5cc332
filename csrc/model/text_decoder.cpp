#include "csrc/model/text_decoder.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "csrc/model/block_list.h"
#include "csrc/nn/functional.h"

namespace torchwhisper::model {
namespace {

at::Tensor register_embedding(torch::nn::Module& parent, const nn::Weights& given, at::IntArrayRef shape) {
  const auto embedding = parent.register_module("token_embedding", std::make_shared<torch::nn::Module>());
  const at::Tensor weight = given.take("weight", shape);
  return embedding->register_parameter("weight", weight, weight.requires_grad());
}

void check_sequences(const at::Tensor& tokens, const at::Tensor& features, std::int64_t n_state) {
  TORCH_CHECK_VALUE(tokens.dim() == 2, "tokens have shape ", tokens.sizes(), ", expected [batch, time]");
  TORCH_CHECK_VALUE(features.dim() == 3 && features.size(2) == n_state, "audio features have shape ",
                    features.sizes(), ", expected [batch, frames, ", n_state, "]");
  const std::int64_t n_sequence = tokens.size(0);
  const std::int64_t n_audio = features.size(0);
  TORCH_CHECK_VALUE(n_sequence == n_audio || n_sequence == 1 || n_audio == 1, "got ", n_sequence,
                    " token sequences and ", n_audio,
                    " audio features, expected as many of one as of the other");
}

// y += table[row]. table: [row, n], of floats or shorter ones on a CPU.
void add_row(const at::Tensor& table, std::int64_t row, float* y) {
  TORCH_CHECK_INDEX(row >= 0 && row < table.size(0), "token ", row, " is out of range, expected 0 to ",
                    table.size(0) - 1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, table.scalar_type(), "add_row", [&] {
    const auto* from = table.const_data_ptr<scalar_t>() + row * table.stride(0);
    for (std::int64_t i = 0; i < table.size(1); ++i) {
      y[i] += static_cast<float>(from[i * table.stride(1)]);
    }
  });
}

}  // namespace

void DecoderState::reorder(const std::vector<std::int64_t>& sources) {
  for (nn::KeyValueCache& cache : caches) {
    cache.reorder(sources);
  }
}

void DecoderState::repeat_rows(std::int64_t times) {
  for (nn::KeyValueCache& cache : caches) {
    cache = cache.repeat_rows(times);
  }
}

TextDecoderImpl::TextDecoderImpl(const ModelDimensions& dims, const nn::Weights& given)
    : positional_embedding(given.take("positional_embedding", {dims.n_text_ctx, dims.n_text_state})),
      mask(nn::functional::causal_mask(dims.n_text_ctx).to(positional_embedding.device())) {
  register_parameter("positional_embedding", positional_embedding, positional_embedding.requires_grad());
  token_embedding = register_embedding(*this, given["token_embedding"], {dims.n_vocab, dims.n_text_state});
  blocks = register_blocks(*this, given["blocks"], dims.n_text_layer, dims.n_text_state, dims.n_text_head,
                           /*cross_attention=*/true);
  ln = register_module("ln", nn::LayerNorm(given["ln"], dims.n_text_state));
}

void TextDecoderImpl::check_length(std::int64_t n_token) const {
  TORCH_CHECK_VALUE(n_token <= positional_embedding.size(0), "the sequence has ", n_token,
                    " tokens, the model takes at most ", positional_embedding.size(0));
}

at::Tensor TextDecoderImpl::embed(const at::Tensor& tokens, std::int64_t offset, at::ScalarType dtype) {
  const std::int64_t end = offset + tokens.size(-1);
  check_length(end);
  // Prepared weights may come in a shorter type than what is computed in; the sum should not be rounded.
  const at::ScalarType wide =
      head_ ? at::promote_types(token_embedding.scalar_type(), dtype) : token_embedding.scalar_type();
  return (at::embedding(token_embedding, tokens).to(wide) +
          positional_embedding.slice(0, offset, end).to(wide))
      .to(dtype);
}

at::Tensor TextDecoderImpl::forward(const at::Tensor& tokens, const at::Tensor& features,
                                    common::Control& control, const nn::BlockTraining& training) {
  return project(hidden(tokens, features, control, training));
}

at::Tensor TextDecoderImpl::hidden(const at::Tensor& tokens, const at::Tensor& features,
                                   common::Control& control, const nn::BlockTraining& training) {
  check_sequences(tokens, features, token_embedding.size(1));
  const bool one_text = tokens.size(0) == 1 && features.size(0) > 1;
  at::Tensor x = embed(one_text ? tokens.expand({features.size(0), -1}) : tokens, 0, features.scalar_type());
  const bool trains = at::GradMode::is_enabled() || training.changes_blocks();
  std::int64_t done = 0;
  for (nn::ResidualAttentionBlock& block : blocks) {
    x = trains ? block->forward_training(x, features, training.of_block(done)) : block->decode(x, features);
    control.step(common::Stage::kDecode, ++done);
  }
  return ln(x);
}

// Those of each layer, each head once.
std::vector<std::vector<std::int64_t>> TextDecoderImpl::heads_of_layers(
    const std::vector<std::pair<std::int64_t, std::int64_t>>& heads) const {
  TORCH_CHECK_VALUE(!heads.empty(), "the model has no alignment heads");
  const auto n_layer = static_cast<std::int64_t>(blocks.size());
  const std::int64_t n_head = blocks.front()->attn->n_head;
  std::vector<std::vector<std::int64_t>> wanted(blocks.size());
  for (const auto& [layer, head] : heads) {
    TORCH_CHECK_VALUE(layer >= 0 && layer < n_layer && head >= 0 && head < n_head, "alignment head (", layer,
                      ", ", head, ") does not exist in a decoder of ", n_layer, " layers with ", n_head,
                      " heads");
    auto& of_layer = wanted[static_cast<std::size_t>(layer)];
    if (std::find(of_layer.begin(), of_layer.end(), head) == of_layer.end()) {
      of_layer.push_back(head);
    }
  }
  return wanted;
}

TextDecoderImpl::Aligned TextDecoderImpl::forward_with_scores(
    const at::Tensor& tokens, const AudioMemory& memory,
    const std::vector<std::pair<std::int64_t, std::int64_t>>& heads, common::Control& control) {
  TORCH_CHECK_VALUE(tokens.dim() == 2 && tokens.size(0) == 1 && memory.n_audio() == 1,
                    "alignment takes one sequence, got tokens of shape ", tokens.sizes(), " and ",
                    memory.n_audio(), " audio features");
  const std::vector<std::vector<std::int64_t>> wanted = heads_of_layers(heads);
  const at::Tensor visible = mask.slice(0, 0, tokens.size(1)).slice(1, 0, tokens.size(1));
  at::Tensor x = embed(tokens, 0, memory.dtype);
  std::vector<at::Tensor> layers;  // [wanted head, time, frame] each
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto scored = blocks[i]->decode_with_scores(x, memory.layers[i], visible, wanted[i]);
    x = scored.out;
    layers.push_back(scored.scores[0]);
    control.step(common::Stage::kAlign, static_cast<std::int64_t>(layers.size()));
  }
  std::vector<at::Tensor> scores;
  for (const auto& [layer, head] : heads) {
    const auto& of_layer = wanted[static_cast<std::size_t>(layer)];
    const auto place = std::find(of_layer.begin(), of_layer.end(), head) - of_layer.begin();
    scores.push_back(layers[static_cast<std::size_t>(layer)][place]);
  }
  return {ln(x)[0], at::stack(scores)};
}

AudioMemory TextDecoderImpl::remember(const at::Tensor& features, common::Control& control) {
  TORCH_CHECK_VALUE(features.dim() == 3 && features.size(2) == token_embedding.size(1),
                    "audio features have shape ", features.sizes(), ", expected [batch, frames, ",
                    token_embedding.size(1), "]");
  AudioMemory memory{{}, features.scalar_type()};
  for (nn::ResidualAttentionBlock& block : blocks) {
    memory.layers.push_back(block->cross_attn->remember(features));
    control.step(common::Stage::kPrepare, static_cast<std::int64_t>(memory.layers.size()));
  }
  return memory;
}

DecoderState TextDecoderImpl::start(const AudioMemory& memory) {
  DecoderState state;
  const std::int64_t n_ctx = positional_embedding.size(0);
  const at::Tensor like = at::empty({0}, positional_embedding.options().dtype(memory.dtype));
  for (nn::ResidualAttentionBlock& block : blocks) {
    const std::int64_t n_head = block->attn->n_head;
    state.caches.emplace_back(memory.n_audio(), n_head, n_ctx, token_embedding.size(1) / n_head, like,
                              shortens_caches_);
  }
  return state;
}

bool TextDecoderImpl::steps(const DecoderState& state) const {
  return head_ && token_embedding.is_cpu() && token_embedding.scalar_type() != at::kDouble &&
         state.caches.front().in_panels() && blocks.front()->takes_rows();
}

// x: [row, n_state] -> the hidden states, without a tensor in between.
at::Tensor TextDecoderImpl::step(const at::Tensor& x, const AudioMemory& memory, DecoderState& state) {
  if (!state.buffers.fit(x.size(0), x.size(1))) {
    state.buffers = nn::StepBuffers(x.size(0), x.size(1));
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    blocks[i]->step(x.mutable_data_ptr<float>(), state.caches[i], memory.layers[i], state.buffers);
  }
  return ln(x);
}

at::Tensor TextDecoderImpl::advance_by_one(const std::vector<std::int64_t>& tokens, const AudioMemory& memory,
                                           DecoderState& state) {
  const auto n_row = static_cast<std::int64_t>(tokens.size());
  if (!steps(state)) {
    return advance(at::tensor(tokens, at::kLong).view({n_row, 1}).to(token_embedding.device()), memory, state)
        .select(1, 0);
  }
  check_length(state.length() + 1);
  at::Tensor x = at::zeros({n_row, token_embedding.size(1)}, at::kFloat);
  for (std::int64_t row = 0; row < n_row; ++row) {
    float* to = x.mutable_data_ptr<float>() + row * x.size(1);
    add_row(token_embedding, tokens[static_cast<std::size_t>(row)], to);
    add_row(positional_embedding, state.length(), to);
  }
  return step(x, memory, state);
}

at::Tensor TextDecoderImpl::advance(const at::Tensor& tokens, const AudioMemory& memory, DecoderState& state,
                                    common::Control& control) {
  at::Tensor x = embed(tokens, state.length(), memory.dtype);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    x = blocks[i]->decode_cached(x, state.caches[i], memory.layers[i]);
    control.step(common::Stage::kPrepare, static_cast<std::int64_t>(i) + 1);
  }
  return ln(x);
}

const nn::VocabularyHead* TextDecoderImpl::prepared_head(const at::Tensor& hidden) const {
  return head_ && head_->serves(hidden) ? head_.get() : nullptr;
}

at::Tensor TextDecoderImpl::project(const at::Tensor& hidden) {
  if (const nn::VocabularyHead* head = prepared_head(hidden)) {
    return head->forward(hidden);
  }
  return nn::functional::linear(hidden, token_embedding, /*bias=*/{}).to(at::kFloat);
}

void TextDecoderImpl::prepare(nn::Precision precision, nn::WeightArena& arena, common::Control& control) {
  std::int64_t done = 0;
  for (nn::ResidualAttentionBlock& block : blocks) {
    block->prepare(precision, arena);
    control.step(common::Stage::kPrepare, ++done);
  }
  ln->prepare();
  shortens_caches_ = precision.products != nn::ComputeType::kFloat32;
  head_ = std::make_unique<const nn::VocabularyHead>(token_embedding, precision, arena);
}

}  // namespace torchwhisper::model
