// Kinds of products with AVX-512, see kinds.h: a vector of 16 words in a register; 12 rows by a whole panel take 24 of the 32 there are.
#pragma once

#include "finish.h"

namespace infer {

struct Float {
    typedef f32x16 Sum;
    typedef __m512i Row, Weights;
    typedef FinishFloat Finish;
    static constexpr int64_t STRETCH = 256;
    static Row spread(const char *x) {
        int word;
        memcpy(&word, x, sizeof word);
        return _mm512_set1_epi32(word);
    }
    static Weights load(const char *panel) { return _mm512_loadu_si512(panel); }
    static Sum dot(Sum sum, Row x, Weights w) { return (Sum)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sum); }
    static void soon(const Gemm &, int64_t) {}
};

#if defined(__AVX512BF16__)
#define INFER_GEMM_BF16 1
struct Bf16 : Float {
    static constexpr int64_t STRETCH = 0;
    static Sum dot(Sum sum, Row x, Weights w) { return (Sum)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w); }
};
#endif

#if defined(__AVX512VNNI__)
#define INFER_GEMM_INT8 1
struct Int8 : Float {
    typedef i32x16 Sum;
    typedef FinishInt8 Finish;
    static constexpr int64_t STRETCH = 0;
    static Sum dot(Sum sum, Row x, Weights w) {
        // As assembly because GCC 12 spills the sums around its own intrinsic: 230 in place of 440 GOP/s.
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
        return sum;
    }
    static void soon(const Gemm &g, int64_t column) { factors_soon(g, column); }
};
#endif

}  // namespace infer
