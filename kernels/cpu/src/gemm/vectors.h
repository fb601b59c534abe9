// Kinds of products by the registers of lanes.h, see kinds.h: what a machine has no better one for.
#pragma once

#include "../products16.h"
#include "finish.h"

namespace infer {

#if !defined(__AVX512F__)

#if defined(__AVX2__)
typedef f32x8 Register;
#else
typedef f32x4 Register;
#endif

inline Register fused(Register x, Register w, Register sum) { return vfma(x, w, sum); }
template <class V> inline Two<V> fused(Register x, const Two<V> &w, const Two<V> &sum) { return {fused(x, w.low, sum.low), fused(x, w.high, sum.high)}; }

struct Float {
    typedef f32x16 Sum, Weights;
    typedef Register Row;
    typedef FinishFloat Finish;
    static constexpr int64_t STRETCH = 256;
    static Row spread(const char *x) {
        float word;
        memcpy(&word, x, sizeof word);
        return word - Register{};
    }
    static Weights load(const char *panel) { return infer::load((const float *)panel); }
    static Sum dot(Sum sum, Row x, const Weights &w) { return fused(x, w, sum); }
    static void soon(const Gemm &, int64_t) {}
};

#endif

#if !defined(INFER_GEMM_INT8)

// By products of 16 bits: the first and the third byte of a word, and the second and the fourth.
struct Int8 {
    typedef i32x16 Sum;
    struct Row {
        i32x16 even, odd;
    };
    typedef Row Weights;
    typedef FinishInt8 Finish;
    static constexpr int64_t STRETCH = 0;
    static Row spread(const char *x) {
        uint32_t word;
        memcpy(&word, x, sizeof word);
        return {i32x16{} + (int32_t)(word & 0x00ff00ff), i32x16{} + (int32_t)(word >> 8 & 0x00ff00ff)};
    }
    static Weights load(const char *panel) {
        u32x16 words;
        read(panel, words);
        // Bytes get their signs in 16 bits: with the upper half's in 32, and the lower one's by what is carried over from 0x80 on.
        const u32x16 even = words & 0x00ff00ffu, odd = words >> 8 & 0x00ff00ffu;
        return {with_signs(even), with_signs(odd)};
    }
    static Sum dot(Sum sum, const Row &x, const Weights &w) { return sum + products16(x.even, w.even) + products16(x.odd, w.odd); }
    static void soon(const Gemm &g, int64_t column) { factors_soon(g, column); }

  private:
    // Two bytes with signs, each in 16 bits: b - 256 where b is 128 or more, that is b | 0xff00.
    static i32x16 with_signs(u32x16 bytes) { return as<i32x16>(bytes | (bytes & 0x00800080u) * 0x1feu); }
};

#endif

}  // namespace infer
