// A LayerNorm with the bias before it and the Mish or the softmaxes beside it, in one pass over
// memory: forward, and backward from the same input. norms.py has the formulas and the callers.
//
// Rows are contiguous, [G, N, U]: each of G groups has N rows of U entries and parameters [U] of
// its own. Rows come and go as float32 or bfloat16, all else is float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else  // one thread
inline int omp_get_thread_num() { return 0; }
#endif

namespace {

using Index = int64_t;

enum Kind { MISH_THEN_NORM, NORM_THEN_MISH, NORM_THEN_SIMPLEX };

constexpr int SIMPLEX_SIZE = 8;
#ifdef __AVX512F__
constexpr Index LANES = 16;  // float32 of the widest vector
#else
constexpr Index LANES = 8;
#endif
constexpr Index CACHE_LINE = 64 / sizeof(float);  // entries
constexpr Index BLOCK = 1 << 8;  // entries that stay at hand through several loops
constexpr Index CHUNK = 1 << 10;  // entries of rows that are taken together
constexpr Index MOST_ROWS = CHUNK / LANES;
constexpr Index SMALL = 1 << 14;  // entries for which waking other threads takes longer

struct BFloat16 {
  uint16_t bits;
};

inline float get(float value) { return value; }

inline float get(BFloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

inline void put(float& place, float value) { place = value; }

inline void put(BFloat16& place, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  place.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}

// e^x for x in [-88, 80], 0 at -88; the polynomial is Cephes' (expf), of an error below 2e-7.
inline float exponential(float x) {
  const float k = __builtin_rintf(x * 1.44269504f);
  float r = __builtin_fmaf(k, -0.693359375f, x);
  r = __builtin_fmaf(k, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (int32_t(k) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

struct MishParts {
  float value, slope;
};

// x n / (n + 2) with n = u (u + 2), u = e^x; its ratio is 1 in float32 beyond 20, and 0 from -88 down,
// for what was left of it would be much of an x far below.
inline MishParts mish(float x) {
  const float u = exponential(std::max(std::min(x, 20.0f), -88.0f));
  const float n = u * (u + 2.0f), inverse = 1.0f / (n + 2.0f), ratio = n * inverse;
  return {x * ratio, ratio + x * 4.0f * u * (u + 1.0f) * inverse * inverse};
}

// U and what is missing to whole vectors. Mish goes that far: what is left over of a row would be
// computed entry by entry, and could take as long as the rest.
inline Index padded(Index U) { return (U + LANES - 1) / LANES * LANES; }

// A thread's room for several chunks of rows, each row padded. The padding is finite, and nothing
// that is returned depends on it.
class Room {
 public:
  Room(Index num, Index num_rows, Index U)
      : length(num_rows * padded(U)), memory(num * length + CACHE_LINE) {
    const Index past = Index(memory.data()) / sizeof(float) % CACHE_LINE;
    first = memory.data() + (CACHE_LINE - past) % CACHE_LINE;
  }
  float* operator[](Index chunk) const { return first + chunk * length; }

 private:
  Index length;
  std::vector<float> memory;
  float* first;
};

// Call body(group, row, count, room) for chunks of `count` rows of a group, from `row` of all rows
// on, with a thread's room for `num` of them. In a chunk each step goes over all rows before the
// next one: a row by itself would wait for its sums.
template <class Body>
void over_chunks(Index G, Index N, Index U, Index num, int num_threads, Body body) {
  const Index most = std::max(Index(1), std::min(N, CHUNK / padded(U)));
  const Index per_group = (N + most - 1) / most;
#pragma omp parallel num_threads(num_threads) if (G * N * U > SMALL)
  {
    const Room room(num, most, U);
#pragma omp for schedule(static)
    for (Index c = 0; c < G * per_group; c++) {
      const Index group = c / per_group, first = c % per_group * most;
      body(group, group * N + first, std::min(most, N - first), room);
    }
  }
}

// By its bits: the compiler is told that no number is infinite or NaN.
inline bool is_finite(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7f800000) != 0x7f800000;
}

inline void make_nan(float& place) {
  const uint32_t nan = 0x7fc00000;
  std::memcpy(&place, &nan, sizeof nan);
}

inline float dot(const float* x, const float* y, Index U) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < U; i++) sum += x[i] * y[i];
  return sum;
}

// Mean and 1 / standard deviation of a row.
struct Moments {
  float mean, inverse_std;
};

// A row whose squares overflow becomes NaN: by itself it would come out as zeros.
inline Moments moments(const float* x, Index U, float epsilon) {
  float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < U; i++) sum += x[i];
  const float mean = sum / U;
#pragma omp simd reduction(+ : squares)
  for (Index i = 0; i < U; i++) squares += (x[i] - mean) * (x[i] - mean);
  Moments m{mean, 1.0f / std::sqrt(squares / U + epsilon)};
  if (!is_finite(squares)) make_nan(m.inverse_std);
  return m;
}

// Of a group's 8 entries, in pairs: one after the other, each would wait for the one before it.
inline float largest_of_group(const float* x) {
  float four[4];
  for (int i = 0; i < 4; i++) four[i] = std::max(x[i], x[i + 4]);
  return std::max(std::max(four[0], four[2]), std::max(four[1], four[3]));
}

inline float sum_of_group(const float* x) {
  float four[4];
  for (int i = 0; i < 4; i++) four[i] = x[i] + x[i + 4];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// Softmax within each group of 8, in place. A row that is not finite becomes NaN, as it would not
// by itself: what is largest among NaNs is anybody's guess.
inline void onto_simplex(float* x, Index U) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (Index i = 0; i < U; i++) total += x[i];
  if (!is_finite(total)) {
    for (Index i = 0; i < U; i++) make_nan(x[i]);
    return;
  }
  for (Index j = 0; j < U; j += SIMPLEX_SIZE) {
    float powers[SIMPLEX_SIZE];
    const float largest = largest_of_group(x + j);
    for (int i = 0; i < SIMPLEX_SIZE; i++)
      powers[i] = exponential(std::max(x[j + i] - largest, -80.0f));
    const float share = 1.0f / sum_of_group(powers);
    for (int i = 0; i < SIMPLEX_SIZE; i++) x[j + i] = powers[i] * share;
  }
}

// The parameters of one group.
struct Affine {
  const float *bias, *scale, *shift;
};

// Mish in the place of L entries of padded rows and, if wanted, its slope.
template <bool with_slope>
inline void apply_mish(float* x, float* slope, Index L) {
#pragma omp simd
  for (Index i = 0; i < padded(L); i++) {
    const MishParts parts = mish(x[i]);
    x[i] = parts.value;
    if (with_slope) slope[i] = parts.slope;
  }
}

// The slope of Mish in the place of each entry.
inline void slope_of_mish(float* x, Index L) {
#pragma omp simd
  for (Index i = 0; i < padded(L); i++) x[i] = mish(x[i]).slope;
}

// Mish of x + bias into padded rows and, if wanted, its slope: at once where nothing is left over.
template <bool with_slope, class X>
inline void mish_rows(const X* x, const float* bias, float* value, float* slope, Index count,
                      Index U) {
  const Index P = padded(U), lanes = LANES * sizeof(float) / sizeof(X);
  if (U % lanes == 0) {
    for (Index r = 0; r < count; r++)
#pragma omp simd
      for (Index i = 0; i < U; i++) {
        const MishParts parts = mish(get(x[r * U + i]) + bias[i]);
        value[r * P + i] = parts.value;
        if (with_slope) slope[r * P + i] = parts.slope;
      }
    return;
  }
  for (Index r = 0; r < count; r++)
#pragma omp simd
    for (Index i = 0; i < U; i++) value[r * P + i] = get(x[r * U + i]) + bias[i];
  apply_mish<with_slope>(value, slope, count * P);
}

// `count` rows of y, `stride` apart, and their moments from those of x; `room` is for a chunk, and y
// may be in it.
template <Kind kind, class X, class Y>
inline void forward_chunk(const X* x, Y* y, Index stride, Affine p, Moments* m, Index count,
                          float* room, Index U, float epsilon) {
  const Index P = padded(U);
  if (kind == MISH_THEN_NORM) {
    mish_rows<false>(x, p.bias, room, nullptr, count, U);
  } else {
    for (Index r = 0; r < count; r++)
#pragma omp simd
      for (Index i = 0; i < U; i++) room[r * P + i] = get(x[r * U + i]) + p.bias[i];
  }
  for (Index r = 0; r < count; r++) m[r] = moments(room + r * P, U, epsilon);
  for (Index r = 0; r < count; r++) {
    float* row = room + r * P;
    const Moments own = m[r];
#pragma omp simd
    for (Index i = 0; i < U; i++) {
      const float h = (row[i] - own.mean) * own.inverse_std * p.scale[i] + p.shift[i];
      if (kind == MISH_THEN_NORM)
        put(y[r * stride + i], h);
      else
        row[i] = h;
    }
    if (kind == NORM_THEN_SIMPLEX) onto_simplex(row, U);
  }
  if (kind == MISH_THEN_NORM) return;
  if (kind == NORM_THEN_MISH) apply_mish<false>(room, nullptr, count * P);
  for (Index r = 0; r < count; r++)
#pragma omp simd
    for (Index i = 0; i < U; i++) put(y[r * stride + i], room[r * P + i]);
}

// What a thread adds up over its rows for the gradients of one group's parameters.
struct Sums {
  float *bias, *scale, *shift;
};

// One row of the gradient of x from one of y's; `room` is for 3 rows. In chunks, 128 float32 a row
// and more would take a tenth longer. Whether the parameters are trained is a constant: with a
// variable gcc 12 leaves a loop scalar, at a tenth of the speed.
template <Kind kind, bool trained, class X, class Y>
inline void backward_row(const Y* gy, const X* x, X* gx, Affine p, Moments m, Sums sums,
                         const Room& room, Index U) {
  float *h = room[0], *gh = room[1], *slope = room[2];
  if (kind == NORM_THEN_SIMPLEX) {
    float* y = slope;
#pragma omp simd
    for (Index i = 0; i < U; i++)
      y[i] = (get(x[i]) + p.bias[i] - m.mean) * m.inverse_std * p.scale[i] + p.shift[i];
    onto_simplex(y, U);
    for (Index j = 0; j < U; j += SIMPLEX_SIZE) {
      float weighted[SIMPLEX_SIZE];
      for (int i = 0; i < SIMPLEX_SIZE; i++) weighted[i] = y[j + i] * get(gy[j + i]);
      const float sum = sum_of_group(weighted);
      for (int i = 0; i < SIMPLEX_SIZE; i++) gh[j + i] = weighted[i] - y[j + i] * sum;
    }
  }
  float sum = 0.0f, product = 0.0f;
  for (Index first = 0; first < U; first += BLOCK) {
    const Index end = std::min(first + BLOCK, U);
    if (kind == MISH_THEN_NORM)
      mish_rows<true>(x + first, p.bias + first, h + first, slope + first, 1, end - first);
    if (kind == NORM_THEN_MISH) {
#pragma omp simd
      for (Index i = first; i < end; i++)
        gh[i] = (get(x[i]) + p.bias[i] - m.mean) * m.inverse_std * p.scale[i] + p.shift[i];
      slope_of_mish(gh + first, end - first);
    }
#pragma omp simd reduction(+ : sum, product)
    for (Index i = first; i < end; i++) {
      const float v = kind == MISH_THEN_NORM ? h[i] : get(x[i]) + p.bias[i];
      h[i] = (v - m.mean) * m.inverse_std;
      float g = kind == NORM_THEN_SIMPLEX ? gh[i] : get(gy[i]);
      if (kind == NORM_THEN_MISH) g *= gh[i];
      if (trained) {
        sums.scale[i] += g * h[i];
        sums.shift[i] += g;
      }
      gh[i] = g * p.scale[i];
      sum += gh[i];
      product += gh[i] * h[i];
    }
  }
  sum /= U;
  product /= U;
#pragma omp simd
  for (Index i = 0; i < U; i++) {
    float g = m.inverse_std * (gh[i] - sum - h[i] * product);
    if (kind == MISH_THEN_NORM) g *= slope[i];
    if (trained) sums.bias[i] += g;
    put(gx[i], g);
  }
}

template <Kind kind, class X, class Y>
void forward(const X* x, const float* bias, const float* scale, const float* shift, Y* y,
             Moments* statistics, Index G, Index N, Index U, float epsilon, int num_threads) {
  over_chunks(G, N, U, 1, num_threads, [=](Index group, Index row, Index count, const Room& room) {
    const Affine p{bias + group * U, scale + group * U, shift + group * U};
    forward_chunk<kind>(x + row * U, y + row * U, U, p, statistics + row, count, room[0], U,
                        epsilon);
  });
}

// y = weight . row + offset: what a linear layer with one output makes of the rows, [G, N].
template <class X>
void value_forward(const X* x, const float* bias, const float* scale, const float* shift,
                   const float* weight, const float* offset, float* y, Moments* statistics,
                   Index G, Index N, Index U, float epsilon, int num_threads) {
  const Index P = padded(U);
  over_chunks(G, N, U, 1, num_threads, [=](Index group, Index row, Index count, const Room& room) {
    const Affine p{bias + group * U, scale + group * U, shift + group * U};
    float* normed = room[0];
    forward_chunk<MISH_THEN_NORM>(x + row * U, normed, P, p, statistics + row, count, room[0], U,
                                  epsilon);
    for (Index r = 0; r < count; r++)
      y[row + r] = dot(normed + r * P, weight + group * U, U) + offset[group];
  });
}

// The sum over threads of what each added up.
void add_up(const std::vector<float>& parts, float* sums, Index size, int num_threads) {
  std::fill(sums, sums + size, 0.0f);
  for (int t = 0; t < num_threads; t++)
    for (Index i = 0; i < size; i++) sums[i] += parts[size * t + i];
}

// `sums` [3, G, U] are the gradients of bias, scale and shift; null where nobody wants them.
template <Kind kind, bool trained, class X, class Y>
void backward(const Y* gy, const X* x, const float* bias, const float* scale, const float* shift,
              const Moments* statistics, X* gx, float* sums, Index G, Index N, Index U,
              int num_threads) {
  const Index size = G * U;
  std::vector<float> parts(trained ? 3 * size * num_threads : 0, 0.0f);
#pragma omp parallel num_threads(num_threads) if (G * N * U > SMALL)
  {
    const Room room(3, 1, U);
    float* part = parts.data() + (trained ? 3 * size * omp_get_thread_num() : 0);
#pragma omp for schedule(static)
    for (Index r = 0; r < G * N; r++) {
      const Index first = r / N * U;
      const Affine p{bias + first, scale + first, shift + first};
      const Sums own{part + first, part + size + first, part + 2 * size + first};
      backward_row<kind, trained>(gy + r * U, x + r * U, gx + r * U, p, statistics[r], own,
                                  room, U);
    }
  }
  if (trained) add_up(parts, sums, 3 * size, num_threads);
}

// The gradient of x [G, N, U] from one of y [G, N].
template <class X>
void value_backward(const float* gy, const X* x, const float* bias, const float* scale,
                    const float* shift, const float* weight, const Moments* statistics, X* gx,
                    Index G, Index N, Index U, int num_threads) {
#pragma omp parallel num_threads(num_threads) if (G * N * U > SMALL)
  {
    const Room room(4, 1, U);
    float* g = room[3];
#pragma omp for schedule(static)
    for (Index r = 0; r < G * N; r++) {
      const Index first = r / N * U;
      const Affine p{bias + first, scale + first, shift + first};
#pragma omp simd
      for (Index i = 0; i < U; i++) g[i] = gy[r] * weight[first + i];
      backward_row<MISH_THEN_NORM, false>(g, x + r * U, gx + r * U, p, statistics[r], Sums{},
                                          room, U);
    }
  }
}

// What a thread adds up over the rows of one group: with normed rows h and gradients g of y, all
// that the parameters' gradients need.
struct FitSums {
  float *bias, *normed;  // [U]: the gradient of bias, the sum of g h
  float *value, *square;  // the sum of g, of squared errors
};

// Of one group: `factor` is weight * scale, `level` its mean, `base` what y is where h is 0.
struct Line {
  const float *bias, *factor;
  float level, base;
};

// `count` rows of x become their gradients of the squared error times `gain` / 2, with room for 2
// chunks.
template <class X>
inline void fit_chunk(X* x, Line line, const float* target, float gain, FitSums sums, Index count,
                      const Room& room, Index U, float epsilon) {
  const Index P = padded(U);
  Moments m[MOST_ROWS];
  float error[MOST_ROWS], product[MOST_ROWS];
  mish_rows<true>(x, line.bias, room[0], room[1], count, U);
  for (Index r = 0; r < count; r++) m[r] = moments(room[0] + r * P, U, epsilon);
  for (Index r = 0; r < count; r++) {
    float *h = room[0] + r * P, along = 0.0f;
    const Moments own = m[r];
#pragma omp simd reduction(+ : along)
    for (Index i = 0; i < U; i++) {
      h[i] = (h[i] - own.mean) * own.inverse_std;
      along += h[i] * line.factor[i];
    }
    error[r] = line.base + along - target[r];
    product[r] = along / U;
  }
  for (Index r = 0; r < count; r++) {
    const float *h = room[0] + r * P, *slope = room[1] + r * P;
    const float g = gain * error[r], share = g * m[r].inverse_std, along = product[r];
#pragma omp simd
    for (Index i = 0; i < U; i++) {
      const float gx = share * slope[i] * (line.factor[i] - line.level - h[i] * along);
      sums.bias[i] += gx;
      sums.normed[i] += g * h[i];
      put(x[r * U + i], gx);
    }
    *sums.value += g;
    *sums.square += error[r] * error[r];
  }
}

// The mean squared error of `value_forward`'s y against targets [N], and its gradients: that of x
// in its place, in `found` those of bias, scale, shift and weight [4, G, U] and of offset [G], and
// behind them the mean squared error of each group [G].
template <class X>
void value_fit(X* x, const float* bias, const float* scale, const float* shift,
               const float* weight, const float* offset, const float* target, float* found,
               Index G, Index N, Index U, float epsilon, int num_threads) {
  const Index size = G * U, length = 2 * (size + G);
  std::vector<float> factor(size), level(G, 0.0f), base(offset, offset + G);
  for (Index r = 0; r < size; r++) {
    factor[r] = weight[r] * scale[r];
    level[r / U] += factor[r] / U;
    base[r / U] += weight[r] * shift[r];
  }
  std::vector<float> parts(length * num_threads, 0.0f);
  over_chunks(G, N, U, 2, num_threads, [&](Index group, Index row, Index count, const Room& room) {
    const Index start = group * U;
    float* part = parts.data() + length * omp_get_thread_num();
    float* value = part + 2 * size + group;
    const FitSums own{part + start, part + size + start, value, value + G};
    const Line line{bias + start, factor.data() + start, level[group], base[group]};
    fit_chunk(x + row * U, line, target + row % N, 2.0f / (G * N), own, count, room, U, epsilon);
  });
  std::vector<float> total(length);
  add_up(parts, total.data(), length, num_threads);
  for (Index r = 0; r < size; r++) {
    const float normed = total[size + r], value = total[2 * size + r / U];
    found[r] = total[r];
    found[size + r] = weight[r] * normed;
    found[2 * size + r] = weight[r] * value;
    found[3 * size + r] = scale[r] * normed + shift[r] * value;
  }
  for (Index group = 0; group < G; group++) {
    found[4 * size + group] = total[2 * size + group];
    found[4 * size + G + group] = total[2 * size + G + group] / N;
  }
}

}  // namespace

#define EXPORT(name, kind, X, Y)                                                                  \
  extern "C" void name##_forward(const X* x, const float* bias, const float* scale,              \
                                 const float* shift, Y* y, Moments* statistics, Index G, Index N, \
                                 Index U, float epsilon, int num_threads) {                       \
    forward<kind>(x, bias, scale, shift, y, statistics, G, N, U, epsilon, num_threads);           \
  }                                                                                               \
  extern "C" void name##_backward(const Y* gy, const X* x, const float* bias, const float* scale, \
                                  const float* shift, const Moments* statistics, X* gx,           \
                                  float* sums, Index G, Index N, Index U, float,                  \
                                  int num_threads) {                                              \
    if (sums)                                                                                     \
      backward<kind, true>(gy, x, bias, scale, shift, statistics, gx, sums, G, N, U,              \
                           num_threads);                                                          \
    else                                                                                          \
      backward<kind, false>(gy, x, bias, scale, shift, statistics, gx, sums, G, N, U,             \
                            num_threads);                                                         \
  }

#define EXPORT_VALUE(name, X)                                                                     \
  extern "C" void name##_forward(const X* x, const float* bias, const float* scale,              \
                                 const float* shift, const float* weight, const float* offset,   \
                                 float* y, Moments* statistics, Index G, Index N, Index U,        \
                                 float epsilon, int num_threads) {                                \
    value_forward(x, bias, scale, shift, weight, offset, y, statistics, G, N, U, epsilon,         \
                  num_threads);                                                                   \
  }                                                                                               \
  extern "C" void name##_backward(const float* gy, const X* x, const float* bias,                 \
                                  const float* scale, const float* shift, const float* weight,    \
                                  const Moments* statistics, X* gx, Index G, Index N, Index U,    \
                                  float, int num_threads) {                                       \
    value_backward(gy, x, bias, scale, shift, weight, statistics, gx, G, N, U, num_threads);      \
  }                                                                                               \
  extern "C" void name##_fit(X* x, const float* bias, const float* scale, const float* shift,     \
                             const float* weight, const float* offset, const float* target,       \
                             float* found, Index G, Index N, Index U, float epsilon,              \
                             int num_threads) {                                                   \
    value_fit(x, bias, scale, shift, weight, offset, target, found, G, N, U, epsilon,             \
              num_threads);                                                                       \
  }

EXPORT(mish_norm_float32, MISH_THEN_NORM, float, float)
EXPORT(mish_norm_bfloat16, MISH_THEN_NORM, BFloat16, BFloat16)
EXPORT(norm_mish_float32, NORM_THEN_MISH, float, float)
EXPORT(norm_mish_bfloat16, NORM_THEN_MISH, BFloat16, BFloat16)
EXPORT(norm_simplex_float32, NORM_THEN_SIMPLEX, float, float)
EXPORT(norm_simplex_bfloat16, NORM_THEN_SIMPLEX, BFloat16, float)
EXPORT_VALUE(mish_norm_value_float32, float)
EXPORT_VALUE(mish_norm_value_bfloat16, BFloat16)
