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
    static constexpr int VALUES = 1;
    static Row spread(const char *x) {
        float word;
        memcpy(&word, x, sizeof word);
        return word - Register{};
    }
    static Weights load(const char *panel, int = 0) { return infer::load((const float *)panel); }
    static Sum dot(Sum sum, Row x, const Weights &w) { return fused(x, w, sum); }
    static void soon(const Gemm &, int64_t) {}
};

// float32 rows by weights that are kept as bf16, two to a word: the bits are those of `Float` by the same weights.
#define INFER_GEMM_WIDENED 1
struct Widened : Float {
    static constexpr int VALUES = 2;
    static Weights load(const char *panel, int value) {
        u32x16 words;
        read(panel, words);
        return as<f32x16>(value ? words & 0xffff0000u : words << 16);
    }
};
#endif

#if !defined(INFER_GEMM_INT8) && defined(__AVXVNNI__) && !defined(__AVX512F__)

inline i32x8 dot_product(i32x8 sum, i32x8 x, i32x8 w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
    return sum;
}
inline i32x16 dot_product(const i32x16 &sum, i32x8 x, const i32x16 &w) { return {dot_product(sum.low, x, w.low), dot_product(sum.high, x, w.high)}; }

// By dot products of bytes in registers of 32.
struct Int8 {
    typedef i32x16 Sum, Weights;
    typedef i32x8 Row;
    typedef FinishInt8 Finish;
    static constexpr int64_t STRETCH = 0;
    static constexpr int VALUES = 1;
    static Row spread(const char *x) {
        int32_t word;
        memcpy(&word, x, sizeof word);
        return Row{} + word;
    }
    static Weights load(const char *panel, int = 0) {
        Weights words;
        read(panel, words);
        return words;
    }
    static Sum dot(const Sum &sum, Row x, const Weights &w) { return dot_product(sum, x, w); }
    static void soon(const Gemm &g, int64_t column) { factors_soon(g, column); }
};

#elif !defined(INFER_GEMM_INT8) && !defined(INFER_GEMM_PAIRS) && (defined(__AVX512BW__) || defined(__SSSE3__))

// Products of bytes without a sign and bytes with one, added by pairs in 16 bits, where they saturate, and those by pairs in 32.
#if defined(__AVX512BW__)
typedef i32x16 Integers;
inline Integers quads(Integers w, Integers x) { return (Integers)_mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)w, (__m512i)x), _mm512_set1_epi16(1)); }
inline Integers magnitudes(Integers w) { return (Integers)_mm512_abs_epi8((__m512i)w); }
inline Integers signs(Integers w) { return (Integers)_mm512_movm_epi8(_mm512_movepi8_mask((__m512i)w)); }
#else
typedef i32x4 Integers;
inline Integers quads(Integers w, Integers x) { return (Integers)_mm_madd_epi16(_mm_maddubs_epi16((__m128i)w, (__m128i)x), _mm_set1_epi16(1)); }
inline Integers magnitudes(Integers w) { return (Integers)_mm_abs_epi8((__m128i)w); }
inline Integers signs(Integers w) { return (Integers)_mm_cmpgt_epi8(_mm_setzero_si128(), (__m128i)w); }
#endif
inline Integers flipped(Integers x, Integers flips) { return x ^ flips; }
#if !defined(__AVX512F__)
template <class V> inline Two<V> magnitudes(const Two<V> &w) { return {magnitudes(w.low), magnitudes(w.high)}; }
template <class V> inline Two<V> signs(const Two<V> &w) { return {signs(w.low), signs(w.high)}; }
template <class V> inline Two<V> quads(const Two<V> &w, const Two<V> &x) { return {quads(w.low, x.low), quads(w.high, x.high)}; }
template <class V> inline Two<V> flipped(Integers x, const Two<V> &flips) { return {flipped(x, flips.low), flipped(x, flips.high)}; }
#endif

// w * x is |w| * x, or |w| * -x where w is negative; there ~x = -x - 1 stands for -x, so that of a pair of products none leaves 16 bits: they are from
// -128 * 128 to 128 * 127 each. What is lacking then is the sum of the negative weights, which is taken off in the end with `Gemm::sums`.
#define INFER_GEMM_FLIPS 1
struct Int8 {
    typedef i32x16 Sum;
    typedef Integers Row;
    struct Weights {
        i32x16 magnitude, flips;
    };
    typedef FinishInt8 Finish;
    static constexpr int64_t STRETCH = 0;
    static constexpr int VALUES = 1;
    static Row spread(const char *x) {
        int32_t word;
        memcpy(&word, x, sizeof word);
        return Row{} + word;
    }
    static Weights load(const char *panel, int = 0) {
        i32x16 words;
        read(panel, words);
        // The offset of x is a flip of its own.
        return {magnitudes(words), signs(words) ^ (int32_t)0x80808080};
    }
    static Sum dot(Sum sum, Row x, const Weights &w) { return sum + quads(w.magnitude, flipped(x, w.flips)); }
    static void soon(const Gemm &g, int64_t column) { factors_soon(g, column); }
};

#elif !defined(INFER_GEMM_INT8) && !defined(INFER_GEMM_PAIRS)

// By products of 16 bits: the first and the third byte of a word, and the second and the fourth.
struct Int8 {
    typedef i32x16 Sum;
    struct Row {
        i32x16 even, odd;
    };
    typedef Row Weights;
    typedef FinishInt8 Finish;
    static constexpr int64_t STRETCH = 0;
    static constexpr int VALUES = 1;
    static Row spread(const char *x) {
        uint32_t word;
        memcpy(&word, x, sizeof word);
        return {i32x16{} + (int32_t)(word & 0x00ff00ff), i32x16{} + (int32_t)(word >> 8 & 0x00ff00ff)};
    }
    static Weights load(const char *panel, int = 0) {
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
