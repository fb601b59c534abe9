// Kinds of products with NEON, see kinds.h: sixteen words in four registers; 6 rows by half a panel take 24 of the 32 there are. float32 is in vectors.h.
#pragma once

#include <arm_neon.h>

#include "finish.h"

namespace infer {

// product(sum, x, w), a register at a time.
template <class Product> inline i32x4 in_registers(const Product &product, i32x4 sum, i32x4 x, i32x4 w) { return product(sum, x, w); }
template <class Product, class V> inline Two<V> in_registers(const Product &product, const Two<V> &sum, i32x4 x, const Two<V> &w) {
    return {in_registers(product, sum.low, x, w.low), in_registers(product, sum.high, x, w.high)};
}

// Words of bits.
struct Words {
    typedef i32x4 Row;
    typedef i32x16 Weights;
    static constexpr int VALUES = 1;
    static Row spread(const char *x) { return (i32x4)vld1q_dup_s32((const int32_t *)x); }
    static Weights load(const char *panel, int = 0) {
        Weights words;
        read(panel, words);
        return words;
    }
};

#define INFER_GEMM_INT8 1
struct Int8 : Words {
    typedef i32x16 Sum;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    typedef FinishInt8 Finish;
    static i32x4 product(i32x4 sum, i32x4 x, i32x4 w) { return (i32x4)vusdotq_s32((int32x4_t)sum, (uint8x16_t)x, (int8x16_t)w); }
    static i32x4 tile(i32x4 sums, i32x4 x, i32x4 w) { return (i32x4)vusmmlaq_s32((int32x4_t)sums, (uint8x16_t)x, (int8x16_t)w); }
#else
    typedef FinishSigned Finish;
    static Row spread(const char *x) { return (i32x4)((u32x4)Words::spread(x) ^ 0x80808080u); }
#if defined(__ARM_FEATURE_DOTPROD)
    static i32x4 product(i32x4 sum, i32x4 x, i32x4 w) { return (i32x4)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w); }
#else
    // Two products of bytes fit in 16 bits: rows are from -127 to 127.
    static i32x4 product(i32x4 sum, i32x4 x, i32x4 w) {
        const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)x), vget_low_s8((int8x16_t)w)), high = vmull_high_s8((int8x16_t)x, (int8x16_t)w);
        return (i32x4)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
    }
#endif
#endif
    static Sum dot(Sum sum, Row x, const Weights &w) {
        return in_registers([](i32x4 s, i32x4 a, i32x4 b) { return product(s, a, b); }, sum, x, w);
    }
    static void soon(const Gemm &g, int64_t column) { factors_soon(g, column); }
};
#if defined(__ARM_FEATURE_MATMUL_INT8)
template <> inline constexpr int TILED_FROM<Int8> = 2;
#endif

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define INFER_GEMM_BF16 1
struct Bf16 : Words {
    typedef f32x16 Sum;
    typedef FinishFloat Finish;
    static Sum dot(Sum sum, Row x, const Weights &w) {
        const auto product = [](i32x4 s, i32x4 a, i32x4 b) { return (i32x4)vbfdotq_f32((float32x4_t)s, (bfloat16x8_t)a, (bfloat16x8_t)b); };
        return as<f32x16>(in_registers(product, as<i32x16>(sum), x, w));
    }
    static i32x4 tile(i32x4 sums, i32x4 x, i32x4 w) { return (i32x4)vbfmmlaq_f32((float32x4_t)sums, (bfloat16x8_t)x, (bfloat16x8_t)w); }
    static void soon(const Gemm &, int64_t) {}
};
// A row alone too, so that its bits do not depend on others if a machine rounds between two words of a tile in another way than between dot products.
template <> inline constexpr int TILED_FROM<Bf16> = 1;
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

// Two words of a row, or one and zero.
inline uint64_t words_of(const char *x, bool two) {
    uint64_t words = 0;
    if (two) memcpy(&words, x, 8);
    else memcpy(&words, x, 4);
    return words;
}

// By matrix products: two words of two rows by those of two features make four sums at once. A last row without another is its own other one.
template <class Kind, int R, int H>
void add_tiles(typename Kind::Sum (&sum)[R][H], const char *x, int64_t stride, const char *panel, int64_t other, int64_t words, const char *ahead, int64_t step) {
    constexpr int PAIRS = (R + 1) / 2;
#pragma GCC unroll 2
    for (int h = 0; h < H; h++, panel += other, ahead += other) {
        i32x4 tile[PAIRS][LANES / 2];
#pragma GCC unroll 3
        for (int p = 0; p < PAIRS; p++)
#pragma GCC unroll 8
            for (int f = 0; f < LANES / 2; f++) tile[p][f] = i32x4{};
        for (int64_t k = 0; k < words; k += 2) {
            const bool two = k + 1 < words;
            const char *at = panel + k * LANES * 4;
            __builtin_prefetch(ahead + k * step, 0, 2);
            if (two) __builtin_prefetch(ahead + (k + 1) * step, 0, 2);
            i32x4 rows[PAIRS];
#pragma GCC unroll 3
            for (int p = 0; p < PAIRS; p++) {
                const int second = 2 * p + 1 < R ? 2 * p + 1 : 2 * p;
                rows[p] = (i32x4)vcombine_u64(vcreate_u64(words_of(x + 2 * p * stride + k * 4, two)), vcreate_u64(words_of(x + second * stride + k * 4, two)));
            }
#pragma GCC unroll 4
            for (int q = 0; q < LANES / 4; q++) {
                const int32x4_t a = vld1q_s32((const int32_t *)at + q * 4);
                const int32x4_t b = two ? vld1q_s32((const int32_t *)at + LANES + q * 4) : vdupq_n_s32(0);
                const i32x4 low = (i32x4)vzip1q_s32(a, b), high = (i32x4)vzip2q_s32(a, b);
#pragma GCC unroll 3
                for (int p = 0; p < PAIRS; p++) {
                    tile[p][2 * q] = Kind::tile(tile[p][2 * q], rows[p], low);
                    tile[p][2 * q + 1] = Kind::tile(tile[p][2 * q + 1], rows[p], high);
                }
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            const auto four = [&](int q) {
                const int64x2_t a = (int64x2_t)tile[r / 2][2 * q], b = (int64x2_t)tile[r / 2][2 * q + 1];
                return (i32x4)(r % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
            };
            sum[r][h] = as<typename Kind::Sum>(i32x16{{four(0), four(1)}, {four(2), four(3)}});
        }
    }
}

#endif

}  // namespace infer
