#pragma once

// Everything in this folder is compiled once for each instruction set, with TORCHWHISPER_ISA as the
// namespace.
#include <cstdint>

#include "csrc/kernels/table.h"

namespace torchwhisper::kernels::TORCHWHISPER_ISA {

// products.cpp
void multiply(const PanelProduct& product, const float* panel);
void multiply_half(const PanelProduct& product, const std::uint16_t* panel);
void multiply_bfloat16(const PanelProduct& product, const std::uint16_t* panel);
void multiply_int8(const PanelProduct& product, const std::int8_t* panel, const float* scale);

// word_products.cpp
float round_row(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* rounded);
void multiply_rounded(const WordProduct& product);
void multiply_shortened(const WordProduct& product);
void multiply_parts(const WordProduct& product);

// short_rows.cpp
void shorten_row(const float* x, std::int64_t n, std::int64_t words, std::uint32_t* shortened);
void split_row(const float* x, std::int64_t n, std::int64_t words, std::int64_t part, std::uint32_t* parts);

// short_attention.cpp
void attend_shortened(const ShortAttention& attention);

// rows.cpp
float dot(const float* x, const float* y, std::int64_t n);
float maximum(const float* x, std::int64_t n);
float log_sum_exp(const float* x, std::int64_t n);
float exponentials(float* x, std::int64_t n, float scale);
void layer_norm(const float* x, std::int64_t n, const float* weight, const float* bias, float epsilon,
                float* y);

}  // namespace torchwhisper::kernels::TORCHWHISPER_ISA
