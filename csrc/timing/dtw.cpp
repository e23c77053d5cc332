#include "csrc/timing/dtw.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace torchwhisper::timing {
namespace {

constexpr double kUnreachable = std::numeric_limits<double>::infinity();

/// Fills one row of accumulated costs and of moves from the row above.
void fill_row(const double* cost, const std::vector<double>& above, std::vector<double>& row,
              std::int8_t* moves) {
  for (std::size_t j = 1; j < row.size(); ++j) {
    const double diagonal = above[j - 1];
    const double down = above[j];
    const double right = row[j - 1];
    double best = right;
    Move move = Move::kRight;
    if (diagonal < down && diagonal < right) {
      best = diagonal;
      move = Move::kDiagonal;
    } else if (down < diagonal && down < right) {
      best = down;
      move = Move::kDown;
    }
    row[j] = cost[j - 1] + best;
    moves[j] = static_cast<std::int8_t>(move);
  }
}

}  // namespace

at::Tensor dtw(const at::Tensor& cost, common::Control& control) {
  TORCH_CHECK_VALUE(cost.dim() == 2, "the costs have shape ", cost.sizes(), ", expected (tokens, frames)");
  const at::Tensor costs = cost.detach().to(at::kCPU, at::kDouble).contiguous();
  const std::int64_t tokens = costs.size(0);
  const std::int64_t frames = costs.size(1);
  const at::Tensor trace = at::empty({tokens + 1, frames + 1}, at::kChar);

  std::vector<double> above(static_cast<std::size_t>(frames) + 1, kUnreachable);
  std::vector<double> row(above.size(), kUnreachable);
  above[0] = 0;
  const auto* next_cost = costs.const_data_ptr<double>();
  auto* next_moves = trace.mutable_data_ptr<std::int8_t>();
  for (std::int64_t i = 0; i < tokens; ++i) {
    next_moves += frames + 1;
    fill_row(next_cost, above, row, next_moves);
    next_cost += frames;
    above.swap(row);
    row[0] = kUnreachable;
    control.step(common::Stage::kAlign, i + 1);
  }
  return backtrace(trace);
}

at::Tensor backtrace(const at::Tensor& trace) {
  TORCH_CHECK_VALUE(trace.dim() == 2 && trace.size(0) > 0 && trace.size(1) > 0, "the trace has shape ",
                    trace.sizes(), ", expected (tokens + 1, frames + 1)");
  TORCH_INTERNAL_ASSERT(trace.scalar_type() == at::kChar);
  const at::Tensor held = trace.contiguous();
  const auto* moves = held.const_data_ptr<std::int8_t>();
  const std::int64_t width = held.size(1);
  std::int64_t i = held.size(0) - 1;
  std::int64_t j = width - 1;
  std::vector<std::int64_t> rows;
  std::vector<std::int64_t> columns;
  while (i > 0 || j > 0) {
    rows.push_back(i - 1);
    columns.push_back(j - 1);
    // Along the first row and column only one way leads back.
    const auto move = i == 0 ? Move::kRight : j == 0 ? Move::kDown : static_cast<Move>(moves[i * width + j]);
    TORCH_CHECK_VALUE(move == Move::kDiagonal || move == Move::kDown || move == Move::kRight,
                      "Unexpected trace[i, j]");
    i -= move != Move::kRight;
    j -= move != Move::kDown;
  }
  const at::Tensor path = at::empty({2, static_cast<std::int64_t>(rows.size())}, at::kLong);
  auto* out = path.mutable_data_ptr<std::int64_t>();
  std::copy(columns.rbegin(), columns.rend(), std::copy(rows.rbegin(), rows.rend(), out));
  return path;
}

}  // namespace torchwhisper::timing
