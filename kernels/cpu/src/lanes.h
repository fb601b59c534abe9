// Sixteen lanes, whatever the machine: one register with AVX-512, two of 32 bytes with AVX2, else four of 16 (SSE, NEON).
// What computes with them uses operators and the functions below, and is written once.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INFER_VECTOR(bytes) __attribute__((vector_size(bytes)))
// Where 16 lanes are several registers compilers pass them in memory, and what is called waits for what was just stored there: half
// of attention's time, once GCC found a file too long to put everything in place.
#if defined(__AVX512F__)
#define INFER_INLINE inline
#else
#define INFER_INLINE inline __attribute__((always_inline))
#endif

namespace infer {

constexpr int LANES = 16;

// -- what a compiler's own vectors need beside operators ----------------------------------------------------------
template <class M, class V> INFER_INLINE V select(M mask, V a, V b) { return mask ? a : b; }
// b where either is NaN.
template <class V> INFER_INLINE V vmin(V a, V b) { return a < b ? a : b; }
template <class V> INFER_INLINE V vmax(V a, V b) { return a > b ? a : b; }
// The same bits as another type.
template <class To, class V> INFER_INLINE To as(V v) { return (To)v; }
// The same numbers as another type: towards zero, or the low bits of what is too large.
template <class To, class V> INFER_INLINE To convert(V v) { return __builtin_convertvector(v, To); }
// From and to memory, aligned or not; register by register, since compilers leave a larger copy in memory.
template <class V> INFER_INLINE void read(const void *p, V &v) { memcpy(&v, p, sizeof v); }
template <class V> INFER_INLINE void write(void *p, const V &v) { memcpy(p, &v, sizeof v); }

// Also defined below, for each machine:
//   splat(x), splat_double(x)   x in all lanes
//   lane_numbers()              0 to 15
//   low(v), high(v)             halves of f32x16 and f32x8
//   low_bytes(v)                u32x16 to u8x16
//   to_double(v)                f32x8 to f64x8
//   add_neighbours(a, b)        a[0] + a[1], a[2] + a[3] ... of a and then of b
//   vfma(a, b, c)               a * b + c, rounded once where the machine can. Compiled with -ffp-contract=off, so this is the only
//                               place that fuses: what is rounded where never depends on how a loop happened to be unrolled.
// And where there is no AVX-512, which has instructions of its own for both:
//   widen(v)                    u16x16 to u32x16
//   at_bits(mask)               bit i: whether lane i is set

typedef float f32x4 INFER_VECTOR(16);
#if defined(__AVX512F__) || defined(__AVX2__)
typedef float f32x8 INFER_VECTOR(32);
// Written so that compilers see parts of registers, not memory.
INFER_INLINE f32x4 low(f32x8 v) { return f32x4{v[0], v[1], v[2], v[3]}; }
INFER_INLINE f32x4 high(f32x8 v) { return f32x4{v[4], v[5], v[6], v[7]}; }
#endif

#if defined(__AVX512F__)

typedef float f32x16 INFER_VECTOR(64);
typedef double f64x8 INFER_VECTOR(64);
typedef int32_t i32x16 INFER_VECTOR(64);
typedef uint32_t u32x16 INFER_VECTOR(64);
typedef uint16_t u16x16 INFER_VECTOR(32);
typedef uint8_t u8x16 INFER_VECTOR(16);

INFER_INLINE f32x16 splat(float x) { return f32x16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INFER_INLINE f64x8 splat_double(double x) { return f64x8{x, x, x, x, x, x, x, x}; }
INFER_INLINE i32x16 lane_numbers() { return i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

INFER_INLINE f32x8 low(f32x16 v) { return f32x8{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]}; }
INFER_INLINE f32x8 high(f32x16 v) { return f32x8{v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15]}; }

INFER_INLINE u8x16 low_bytes(u32x16 v) { return convert<u8x16>(v); }
INFER_INLINE f64x8 to_double(f32x8 v) { return convert<f64x8>(v); }

INFER_INLINE f32x16 add_neighbours(f32x16 a, f32x16 b) {
    return f32x16{a[0], a[2], a[4], a[6], a[8], a[10], a[12], a[14], b[0], b[2], b[4], b[6], b[8], b[10], b[12], b[14]} +
           f32x16{a[1], a[3], a[5], a[7], a[9], a[11], a[13], a[15], b[1], b[3], b[5], b[7], b[9], b[11], b[13], b[15]};
}

INFER_INLINE f32x16 vfma(f32x16 a, f32x16 b, f32x16 c) { return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }

#else

// Twice the lanes of V, which is the machine's own or a Two again. GCC does much of what is asked of wider vectors lane by lane.
template <class V> struct Two {
    typedef std::decay_t<decltype(std::declval<V &>()[0])> Lane;
    typedef Two<decltype(std::declval<V>() < std::declval<V>())> Mask;

    V low, high;

    Two() = default;
    INFER_INLINE Two(V low, V high) : low(low), high(high) {}
    INFER_INLINE Two(Lane x) : low(x - V{}), high(low) {}  // x - 0 is x, -0 included

    INFER_INLINE Lane operator[](int i) const {
        constexpr int HALF = sizeof(V) / sizeof(Lane);
        return i < HALF ? low[i] : high[i - HALF];
    }

    friend INFER_INLINE Two operator-(Two a) { return {-a.low, -a.high}; }
    friend INFER_INLINE Two operator<<(Two a, int bits) { return {a.low << bits, a.high << bits}; }
    friend INFER_INLINE Two operator>>(Two a, int bits) { return {a.low >> bits, a.high >> bits}; }
#define INFER_OPERATOR(Result, op) \
    friend INFER_INLINE Result operator op(Two a, Two b) { return {a.low op b.low, a.high op b.high}; }
    INFER_OPERATOR(Two, +)
    INFER_OPERATOR(Two, -)
    INFER_OPERATOR(Two, *)
    INFER_OPERATOR(Two, /)
    INFER_OPERATOR(Two, &)
    INFER_OPERATOR(Two, |)
    INFER_OPERATOR(Two, ^)
    INFER_OPERATOR(Mask, <)
    INFER_OPERATOR(Mask, >)
    INFER_OPERATOR(Mask, >=)
    INFER_OPERATOR(Mask, ==)
    INFER_OPERATOR(Mask, !=)
#undef INFER_OPERATOR
    friend INFER_INLINE Two &operator+=(Two &a, Two b) { return a = a + b; }
    friend INFER_INLINE Two &operator*=(Two &a, Two b) { return a = a * b; }
};

#if defined(__AVX2__)

typedef double f64x4 INFER_VECTOR(32);
typedef int32_t i32x8 INFER_VECTOR(32);
typedef uint32_t u32x8 INFER_VECTOR(32);
typedef uint16_t u16x8 INFER_VECTOR(16);
typedef uint8_t u8x8 INFER_VECTOR(8);
typedef Two<i32x8> i32x16;
typedef Two<u32x8> u32x16;
typedef Two<u16x8> u16x16;
typedef Two<u8x8> u8x16;

INFER_INLINE i32x16 lane_numbers() { return {i32x8{0, 1, 2, 3, 4, 5, 6, 7}, i32x8{8, 9, 10, 11, 12, 13, 14, 15}}; }

INFER_INLINE u32x8 widen(u16x8 v) { return (u32x8)_mm256_cvtepu16_epi32((__m128i)v); }
INFER_INLINE f64x4 to_double(f32x4 v) { return convert<f64x4>(v); }

INFER_INLINE f32x8 add_neighbours(f32x8 a, f32x8 b) {
    const __m256 x = (__m256)a, y = (__m256)b;
    const __m256 sums = _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x88), _mm256_shuffle_ps(x, y, 0xdd));  // two of a, two of b, two of a ...
    return (f32x8)_mm256_permute4x64_pd((__m256d)sums, 0xd8);
}

INFER_INLINE uint32_t at_bits(i32x8 mask) { return (uint32_t)_mm256_movemask_ps((__m256)mask); }

INFER_INLINE f32x8 vfma(f32x8 a, f32x8 b, f32x8 c) {
#if defined(__FMA__)
    return (f32x8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

#else

typedef double f64x2 INFER_VECTOR(16);
typedef int32_t i32x4 INFER_VECTOR(16);
typedef uint32_t u32x4 INFER_VECTOR(16);
typedef uint16_t u16x4 INFER_VECTOR(8);
typedef uint8_t u8x4 INFER_VECTOR(4);
typedef Two<f32x4> f32x8;
typedef Two<f64x2> f64x4;
typedef Two<Two<i32x4>> i32x16;
typedef Two<Two<u32x4>> u32x16;
typedef Two<Two<u16x4>> u16x16;
typedef Two<Two<u8x4>> u8x16;

INFER_INLINE i32x16 lane_numbers() { return {{i32x4{0, 1, 2, 3}, i32x4{4, 5, 6, 7}}, {i32x4{8, 9, 10, 11}, i32x4{12, 13, 14, 15}}}; }

INFER_INLINE u32x4 widen(u16x4 v) { return convert<u32x4>(v); }
INFER_INLINE f64x4 to_double(f32x4 v) { return {f64x2{v[0], v[1]}, f64x2{v[2], v[3]}}; }

INFER_INLINE f32x4 add_neighbours(f32x4 a, f32x4 b) { return f32x4{a[0], a[2], b[0], b[2]} + f32x4{a[1], a[3], b[1], b[3]}; }

INFER_INLINE uint32_t at_bits(i32x4 mask) {
#if defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)mask);
#else
    i32x4 bits = mask & i32x4{1, 2, 4, 8};
    return (uint32_t)((bits[0] | bits[1]) | (bits[2] | bits[3]));
#endif
}

INFER_INLINE f32x4 vfma(f32x4 a, f32x4 b, f32x4 c) {
#if defined(__aarch64__)
    return (f32x4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

#endif

typedef Two<f32x8> f32x16;
typedef Two<f64x4> f64x8;

INFER_INLINE f32x16 splat(float x) { return x; }
INFER_INLINE f64x8 splat_double(double x) { return x; }

template <class V> INFER_INLINE V low(Two<V> v) { return v.low; }
template <class V> INFER_INLINE V high(Two<V> v) { return v.high; }

template <class V> INFER_INLINE void read(const void *p, Two<V> &v) {
    read(p, v.low);
    read((const char *)p + sizeof(V), v.high);
}
template <class V> INFER_INLINE void write(void *p, const Two<V> &v) {
    write(p, v.low);
    write((char *)p + sizeof(V), v.high);
}
template <class M, class V> INFER_INLINE Two<V> select(Two<M> mask, Two<V> a, Two<V> b) {
    return {select(mask.low, a.low, b.low), select(mask.high, a.high, b.high)};
}
template <class V> INFER_INLINE Two<V> vmin(Two<V> a, Two<V> b) { return {vmin(a.low, b.low), vmin(a.high, b.high)}; }
template <class V> INFER_INLINE Two<V> vmax(Two<V> a, Two<V> b) { return {vmax(a.low, b.low), vmax(a.high, b.high)}; }
template <class To, class V> INFER_INLINE To as(Two<V> v) {
    typedef decltype(To::low) Half;
    return {as<Half>(v.low), as<Half>(v.high)};
}
template <class To, class V> INFER_INLINE To convert(Two<V> v) {
    typedef decltype(To::low) Half;
    return {convert<Half>(v.low), convert<Half>(v.high)};
}
template <class V> INFER_INLINE auto widen(Two<V> v) { return Two<decltype(widen(v.low))>(widen(v.low), widen(v.high)); }
INFER_INLINE u8x16 low_bytes(u32x16 v) { return convert<u8x16>(convert<u16x16>(v)); }
INFER_INLINE f64x8 to_double(f32x8 v) { return {to_double(low(v)), to_double(high(v))}; }
template <class V> INFER_INLINE Two<V> add_neighbours(Two<V> a, Two<V> b) { return {add_neighbours(a.low, a.high), add_neighbours(b.low, b.high)}; }
template <class V> INFER_INLINE uint32_t at_bits(Two<V> mask) {
    return at_bits(mask.low) | at_bits(mask.high) << sizeof(V) / sizeof(int32_t);
}
template <class V> INFER_INLINE Two<V> vfma(Two<V> a, Two<V> b, Two<V> c) { return {vfma(a.low, b.low, c.low), vfma(a.high, b.high, c.high)}; }

#endif

}  // namespace infer

#undef INFER_VECTOR
