// Exact sums of products of small integers where there are no dot products of bytes.
#pragma once

#include "lanes.h"

namespace infer {

// Two products of 16 bits, added: of each lane's low and high half.
#if defined(__AVX512BW__)
inline i32x16 products16(i32x16 a, i32x16 b) { return (i32x16)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
inline i32x8 products16(i32x8 a, i32x8 b) { return (i32x8)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
template <class V> inline Two<V> products16(Two<V> a, Two<V> b) { return {products16(a.low, b.low), products16(a.high, b.high)}; }
#elif defined(__SSE2__)
inline i32x4 products16(i32x4 a, i32x4 b) { return (i32x4)_mm_madd_epi16((__m128i)a, (__m128i)b); }
template <class V> inline Two<V> products16(Two<V> a, Two<V> b) { return {products16(a.low, b.low), products16(a.high, b.high)}; }
#else
inline i32x16 products16(i32x16 a, i32x16 b) { return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16); }
#endif

}  // namespace infer
