#include "csrc/nn/fused_attention.h"

#include <ATen/ATen.h>

#include <cmath>
#include <tuple>

#include "csrc/nn/functional.h"

namespace torchwhisper::nn {
namespace {

using at::SDPBackend;

constexpr std::int64_t kAlignment = 8;  // of dim, without which torch pads for the CUDA kernels

SDPBackend kernel_for(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
  if (q.is_cuda() && q.size(3) % kAlignment != 0) {
    return SDPBackend::math;
  }
  return static_cast<SDPBackend>(at::_fused_sdp_choice(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, causal));
}

std::array<at::Tensor, 3> to_array(std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients) {
  return {std::get<0>(gradients), std::get<1>(gradients), std::get<2>(gradients)};
}

// For a kernel that leaves nothing behind: the weights of the keys once more, and through the softmax.
std::array<at::Tensor, 3> backward_by_products(const at::Tensor& grad, const at::Tensor& q,
                                               const at::Tensor& k, const at::Tensor& v, bool causal) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  at::Tensor scores = at::matmul(q * scale, k.transpose(-1, -2));
  if (causal) {
    scores = scores + functional::causal_mask(q.size(2)).to(scores.options());
  }
  const at::Tensor weights = at::softmax(scores, -1);
  const at::Tensor of_weights = at::matmul(grad, v.transpose(-1, -2));
  const at::Tensor of_scores =
      at::_softmax_backward_data(of_weights, weights, -1, scores.scalar_type()) * scale;
  return {at::matmul(of_scores, k), at::matmul(of_scores.transpose(-1, -2), q),
          at::matmul(weights.transpose(-1, -2), grad)};
}

}  // namespace

Attended attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
  Attended made;
  made.kernel = kernel_for(q, k, v, causal);
  switch (made.kernel) {
    case SDPBackend::flash_attention:
      if (q.is_cpu()) {
        std::tie(made.out, made.logsumexp) =
            at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, /*dropout_p=*/0.0, causal);
      } else {
        auto all = at::_scaled_dot_product_flash_attention(q, k, v, /*dropout_p=*/0.0, causal);
        made.out = std::get<0>(all);
        made.logsumexp = std::get<1>(all);
        made.seed = std::get<6>(all);
        made.offset = std::get<7>(all);
      }
      break;
    case SDPBackend::efficient_attention:
      std::tie(made.out, made.logsumexp, made.seed, made.offset) =
          at::_scaled_dot_product_efficient_attention(q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/true,
                                                      /*dropout_p=*/0.0, causal);
      break;
    case SDPBackend::cudnn_attention: {
      auto all =
          at::_scaled_dot_product_cudnn_attention(q, k, v, /*attn_bias=*/{},
                                                  /*compute_log_sumexp=*/true, /*dropout_p=*/0.0, causal);
      made.out = std::get<0>(all);
      made.logsumexp = std::get<1>(all);
      made.seed = std::get<6>(all);
      made.offset = std::get<7>(all);
      break;
    }
    default:
      made.kernel = SDPBackend::math;
      made.out = functional::attention(q, k, v, causal);
  }
  return made;
}

std::array<at::Tensor, 3> attend_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const Attended& attended, bool causal) {
  const std::int64_t n_q = q.size(2);
  const std::int64_t n_k = k.size(2);
  switch (attended.kernel) {
    case SDPBackend::flash_attention:
      if (q.is_cpu()) {
        return to_array(at::_scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, attended.out, attended.logsumexp, /*dropout_p=*/0.0, causal));
      }
      return to_array(at::_scaled_dot_product_flash_attention_backward(
          grad, q, k, v, attended.out, attended.logsumexp, /*cum_seq_q=*/{}, /*cum_seq_k=*/{}, n_q, n_k,
          /*dropout_p=*/0.0, causal, attended.seed, attended.offset));
    case SDPBackend::efficient_attention: {
      const auto all = at::_scaled_dot_product_efficient_attention_backward(
          grad, q, k, v, /*attn_bias=*/{}, attended.out, attended.logsumexp, attended.seed, attended.offset,
          /*dropout_p=*/0.0, {true, true, true, false}, causal);
      return {std::get<0>(all), std::get<1>(all), std::get<2>(all)};
    }
    case SDPBackend::cudnn_attention:
      return to_array(at::_scaled_dot_product_cudnn_attention_backward(
          grad, q, k, v, attended.out, attended.logsumexp, attended.seed, attended.offset, /*attn_bias=*/{},
          /*cum_seq_q=*/{}, /*cum_seq_k=*/{}, n_q, n_k, /*dropout_p=*/0.0, causal));
    default:
      return backward_by_products(grad, q, k, v, causal);
  }
}

}  // namespace torchwhisper::nn
