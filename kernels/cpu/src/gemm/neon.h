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

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define INFER_GEMM_BF16 1
struct Bf16 : Words {
    typedef f32x16 Sum;
    typedef FinishFloat Finish;
    static Sum dot(Sum sum, Row x, const Weights &w) {
        const auto product = [](i32x4 s, i32x4 a, i32x4 b) { return (i32x4)vbfdotq_f32((float32x4_t)s, (bfloat16x8_t)a, (bfloat16x8_t)b); };
        return as<f32x16>(in_registers(product, as<i32x16>(sum), x, w));
    }
    static void soon(const Gemm &, int64_t) {}
};
#endif

}  // namespace infer
