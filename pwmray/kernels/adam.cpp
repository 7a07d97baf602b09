// A clipped step of Adam: all tensors of an optimizer in two passes over memory. adam.py calls it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using Index = int64_t;

constexpr Index BLOCK = 1 << 12;  // entries that a thread takes at a time
constexpr Index SMALL = 1 << 16;  // entries for which waking other threads takes longer

struct Block {
  Index tensor, first, end;
};

std::vector<Block> blocks(const Index* sizes, Index num) {
  std::vector<Block> found;
  for (Index t = 0; t < num; t++)
    for (Index first = 0; first < sizes[t]; first += BLOCK)
      found.push_back({t, first, std::min(first + BLOCK, sizes[t])});
  return found;
}

}  // namespace

// The sum of the squares of all entries, in an order that does not depend on the threads.
extern "C" double adam_sum_squares(const float* const* gradients, const Index* sizes, Index num,
                                   int num_threads) {
  const std::vector<Block> all = blocks(sizes, num);
  const Index count = all.size();
  std::vector<float> parts(count);
#pragma omp parallel for schedule(static) num_threads(num_threads) if (count * BLOCK > SMALL)
  for (Index b = 0; b < count; b++) {
    const float* g = gradients[all[b].tensor];
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (Index i = all[b].first; i < all[b].end; i++) sum += g[i] * g[i];
    parts[b] = sum;
  }
  double total = 0.0;
  for (float part : parts) total += part;
  return total;
}

// The step with gradients times `share`; `steps` counts those of each tensor.
extern "C" void adam_step(float* const* parameters, const float* const* gradients,
                          float* const* means, float* const* squares, float* const* steps,
                          const Index* sizes, Index num, float share, double rate, double beta1,
                          double beta2, double epsilon, int num_threads) {
  std::vector<float> rates(num), roots(num);
  for (Index t = 0; t < num; t++) {
    *steps[t] += 1.0f;
    rates[t] = float(rate / (1.0 - std::pow(beta1, double(*steps[t]))));
    roots[t] = float(1.0 / std::sqrt(1.0 - std::pow(beta2, double(*steps[t]))));
  }
  const float keep = float(1.0 - beta1), decay = float(beta2), add = float(1.0 - beta2);
  const float least = float(epsilon);
  const std::vector<Block> all = blocks(sizes, num);
  const Index count = all.size();
#pragma omp parallel for schedule(static) num_threads(num_threads) if (count * BLOCK > SMALL)
  for (Index b = 0; b < count; b++) {
    const Index t = all[b].tensor;
    float *p = parameters[t], *m = means[t], *v = squares[t];
    const float *g = gradients[t], step = rates[t], root = roots[t];
#pragma omp simd
    for (Index i = all[b].first; i < all[b].end; i++) {
      const float h = g[i] * share;
      m[i] += keep * (h - m[i]);
      v[i] = decay * v[i] + add * h * h;
      p[i] -= step * m[i] / (std::sqrt(v[i]) * root + least);
    }
  }
}
