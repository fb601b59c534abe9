// The last step of a product: sums of 16 features become what is written. Written once for all machines, and in the same order on all.
// And, ahead of it, what kinds say of themselves beside kinds.h's members.
#pragma once

#include <algorithm>

#include "../activation.h"
#include "../gemm.h"
#include "../vectors.h"

namespace infer {

// From how many rows on a kind multiplies pairs of rows by pairs of features, see neon.h; 0: never.
template <class Kind> inline constexpr int TILED_FROM = 0;
// Adds the products of R rows, `stride` apart, by `words` of H halves of a panel, `other` bytes apart; `ahead` as in stretches.h.
template <class Kind, int R, int H>
void add_tiles(typename Kind::Sum (&sum)[R][H], const char *x, int64_t stride, const char *panel, int64_t other, int64_t words, const char *ahead, int64_t step);

// The 16 values of a per-feature array from `column` on; zeros beyond n.
inline f32x16 features(const float *values, int64_t column, int64_t n) {
    if (!values || column >= n) return splat(0.0f);
    return load_n(values + column, (int)std::min<int64_t>(LANES, n - column));
}

// Of float32 and bf16: + bias.
struct FinishFloat {
    f32x16 bias;
    FinishFloat(const Gemm &g, int64_t column) : bias(features(g.bias, column, g.n)) {}
    f32x16 operator()(f32x16 sum, int64_t) const { return sum + bias; }
};

// Of int8: less what the offset of x adds, * scale, and where there are scales of rows * those + bias.
struct FinishInt8 {
    f32x16 scale, bias;
    i32x16 offset;
    const float *row_scale;
    FinishInt8(const Gemm &g, int64_t column)
        : scale(features(g.scale, column, g.n)),
          bias(features(g.bias, column, g.n)),
          offset(as<i32x16>(features((const float *)g.sums, column, g.n))),  // bits, not numbers
          row_scale(g.row_scale) {}
    f32x16 operator()(i32x16 sum, int64_t row) const {
        const f32x16 product = convert<f32x16>(sum - offset) * scale;
        return row_scale ? product * splat(row_scale[row]) + bias : product;  // two roundings, as in the reference
    }
};

// Of int8 by products that take the offset from x themselves.
struct FinishSigned : FinishInt8 {
    FinishSigned(const Gemm &g, int64_t column) : FinishInt8(g, column) { offset = i32x16{}; }
};

// Has it fetched meanwhile what FinishInt8 reads of 32 features: a cache line or two each.
inline void factors_soon(const Gemm &g, int64_t column) {
    for (int64_t i = column; i < std::min(g.n, column + PANEL); i += LANES) {
        __builtin_prefetch(g.scale + i);
        __builtin_prefetch(g.sums + i);
    }
}

// H times 16 features, of which `left` are the weight's, rounded to nearest.
template <int H, class Out> inline void put(Out *out, const f32x16 (&values)[H], int64_t left) {
#pragma GCC unroll 2
    for (int h = 0; h < H; h++)
        if (left > h * LANES) store_n(out + h * LANES, values[h], (int)std::min<int64_t>(LANES, left - h * LANES));
}

#if defined(__AVX512BF16__)
inline void put(bf16 *out, const f32x16 (&values)[2], int64_t left) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)values[1], (__m512)values[0]);
    if (left >= PANEL) _mm512_storeu_si512(out, both);
    else _mm512_mask_storeu_epi16(out, (__mmask32)((1u << left) - 1), both);
}
#endif

// What becomes of halves side by side [count][2][16], rows from `first` on, behind a gate: `left` features of each half, 16 at most, to their place.
template <class T> inline void put_gated(const Gemm &g, const T *both, int64_t first, int64_t count, int64_t column, int64_t left) {
    const float *factors = g.gate_scale ? g.gate_scale + first : nullptr;
    const int64_t place = first * g.half + column, features = std::min<int64_t>(LANES, left);
    if (g.gate_wide) gate_rows(g.gate, both, factors, count, (float *)g.out + place, g.half, features);
    else gate_rows(g.gate, both, factors, count, (T *)g.out + place, g.half, features);
}

// Where a block's results go: 16 features or twice 16, `apart` from each other, of which `left` are to be written: of both together where they
// follow each other, else of each.
template <class Out> struct Target {
    Out *out;
    int64_t stride, apart, left;
};

// What becomes of the sums of R rows by H halves of a panel.
template <class Kind, class Out, int R, int H>
inline void put_sums(const Gemm &g, int64_t row, int64_t column, const typename Kind::Sum (&sum)[R][H], const Target<Out> &to) {
    f32x16 finished[R][H];
#pragma GCC unroll 2
    for (int h = 0; h < H; h++) {
        const typename Kind::Finish finish(g, h ? g.other(column) : column);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) finished[r][h] = finish(sum[r][h], row + r);
    }
    if (H == 1 || to.apart == LANES)
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) put(to.out + r * to.stride, finished[r], to.left);
    else
        for (int r = 0; r < R; r++)
            for (int h = 0; h < H; h++) store_n(to.out + r * to.stride + h * to.apart, finished[r][h], (int)std::min<int64_t>(LANES, to.left));
}

}  // namespace infer
