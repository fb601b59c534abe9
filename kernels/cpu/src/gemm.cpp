// Matrix multiplication x [rows][k] * weight [n][k]^T by the CPU's dot products of bf16 pairs and int8 quads, and of float32.
//
// The weight is laid out in panels of 32 output features, word by word: [panel][k word][32], a word being what one lane of a dot
// product takes (a float32, 2 bf16 or 4 int8). A block of up to 12 rows goes through a panel with all its sums in registers; every element is one
// sum over k in order, so a row's bits do not depend on the rows beside it. Threads share out panels and row blocks, of one weight or of many.
//
// Why not leave it to oneDNN: with weights that come from memory, as in a model they do, this is faster at every number of
// rows (numbers in the commit that added it). CPUs with tile registers (AMX) are oneDNN's, see gemm.py.

#include <algorithm>
#include <cstdlib>

#include <omp.h>

#include "gemm.h"
#include "shares.h"
#include "vectors.h"
#include "widen.h"

#if defined(__AVX512F__)
#define INFER_GEMM_F32 4
#endif
#if defined(__AVX512BF16__)
#define INFER_GEMM_BF16 1
#endif
#if defined(__AVX512VNNI__)
#define INFER_GEMM_INT8 2
#endif

namespace infer {
namespace {

#if defined(INFER_GEMM_F32)

inline void put(bf16 *out, __m512 a, __m512 b, int64_t left) {
#if defined(__AVX512BF16__)
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    if (left >= PANEL) _mm512_storeu_si512(out, both);
    else _mm512_mask_storeu_epi16(out, (__mmask32)((1u << left) - 1), both);
#else
    for (int half = 0; half < 2; half++)
        if (left > half * LANES) store_n(out + half * LANES, (f32x16)(half ? b : a), (int)std::min<int64_t>(LANES, left - half * LANES));
#endif
}

inline void put(float *out, __m512 a, __m512 b, int64_t left) {
    for (int half = 0; half < 2; half++)
        if (left > half * LANES) store_n(out + half * LANES, (f32x16)(half ? b : a), (int)std::min<int64_t>(LANES, left - half * LANES));
}

// The 16 values of a per-feature array from `column` on; zeros beyond n.
inline __m512 features(const float *values, int64_t column, int64_t n) {
    if (!values || column >= n) return _mm512_setzero_ps();
    return (__m512)load_n(values + column, (int)std::min<int64_t>(LANES, n - column));
}

struct Float {
    typedef __m512 Sum;
    // Words that are summed before they join the rest: one long sum would lose a digit of float32.
    static constexpr int64_t STRETCH = 256;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum dot(Sum sum, __m512i x, __m512i w) { return _mm512_fmadd_ps((__m512)x, (__m512)w, sum); }
    static void soon(const Gemm &, int64_t) {}
    struct Finish {
        __m512 bias[2];
        Finish(const Gemm &g, int64_t column) : bias{features(g.bias, column, g.n), features(g.bias, column + LANES, g.n)} {}
        __m512 operator()(Sum sum, int half, int64_t) const { return _mm512_add_ps(sum, bias[half]); }
    };
};

#if defined(INFER_GEMM_BF16)
struct Bf16 : Float {
    static constexpr int64_t STRETCH = 0;  // bf16 has no such digit
    static Sum dot(Sum sum, __m512i x, __m512i w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }
};
#endif

#if defined(INFER_GEMM_INT8)
struct Int8 {
    typedef __m512i Sum;
    static constexpr int64_t STRETCH = 0;  // integers are exact
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum dot(Sum sum, __m512i x, __m512i w) {
        // As assembly because GCC 12 spills the sums around its own intrinsic: 230 in place of 440 GOP/s.
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
        return sum;
    }
    // What `Finish` reads of 32 features, a cache line or two each.
    static void soon(const Gemm &g, int64_t column) {
        for (int64_t i = column; i < std::min(g.n, column + PANEL); i += LANES) {
            __builtin_prefetch(g.scale + i);
            __builtin_prefetch(g.sums + i);
        }
    }
    struct Finish {
        __m512 scale[2], bias[2];
        __m512i offset[2];
        const float *row_scale;
        Finish(const Gemm &g, int64_t column) : row_scale(g.row_scale) {
            for (int half = 0; half < 2; half++) {
                scale[half] = features(g.scale, column + half * LANES, g.n);
                bias[half] = features(g.bias, column + half * LANES, g.n);
                offset[half] = (__m512i)features((const float *)g.sums, column + half * LANES, g.n);  // bits, not numbers
            }
        }
        __m512 operator()(Sum sum, int half, int64_t row) const {
            const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, offset[half])), scale[half]);
            // Two roundings, as in the reference.
            return row_scale ? _mm512_add_ps(_mm512_mul_ps(product, _mm512_set1_ps(row_scale[row])), bias[half]) : product;
        }
    };
};
#endif

// R rows by one panel. `ahead` is what to have fetched meanwhile: `lines` cache lines a word.
template <class Kind, class Out, int R>
void block(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines) {
    const int64_t stride = g.row_bytes();
    Kind::soon(g, column);
    const char *x[(R + 2) / 3];
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) x[i] = g.x + (row + 3 * i) * stride;
    typename Kind::Sum sum[R][2], total[R][2];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = total[r][0] = total[r][1] = Kind::zero();
    for (int64_t k = 0; k < g.words; k++, panel += PANEL * 4) {
        if (Kind::STRETCH && k && k % std::max<int64_t>(1, Kind::STRETCH) == 0)
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int half = 0; half < 2; half++) {
                    total[r][half] = total[r][half] + sum[r][half];
                    sum[r][half] = Kind::zero();
                }
        const __m512i w0 = _mm512_loadu_si512(panel), w1 = _mm512_loadu_si512(panel + 64);
        for (int i = 0; i < lines; i++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int word;
            memcpy(&word, x[r / 3] + r % 3 * stride, sizeof word);
            const __m512i v = _mm512_set1_epi32(word);
            sum[r][0] = Kind::dot(sum[r][0], v, w0);
            sum[r][1] = Kind::dot(sum[r][1], v, w1);
        }
#pragma GCC unroll 4
        for (int i = 0; i < (R + 2) / 3; i++) x[i] += 4;
    }
    const typename Kind::Finish finish(g, column);
    Out *out = (Out *)g.out + row * g.n + column;
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        if (Kind::STRETCH)
            for (int half = 0; half < 2; half++) sum[r][half] = total[r][half] + sum[r][half];
        put(out + r * g.n, finish(sum[r][0], 0, row + r), finish(sum[r][1], 1, row + r), g.n - column);
    }
}

template <class Kind, class Out> void block_of(int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines) {
    switch (rows) {
#define INFER_ROWS(R) \
    case R: return block<Kind, Out, R>(g, row, column, panel, ahead, lines);
        INFER_ROWS(1) INFER_ROWS(2) INFER_ROWS(3) INFER_ROWS(4) INFER_ROWS(5) INFER_ROWS(6)
        INFER_ROWS(7) INFER_ROWS(8) INFER_ROWS(9) INFER_ROWS(10) INFER_ROWS(11) INFER_ROWS(12)
#undef INFER_ROWS
    }
}

// Products of several weights of one shape, each with rows of its own: threads share out all their panels and chunks of rows.
template <class Kind, class Out> void multiply(const Gemm *gemms, int64_t count) {
    const int64_t words = gemms->words, panels = (gemms->n + PANEL - 1) / PANEL, panel_bytes = words * PANEL * 4;
    const int64_t most = std::max<int64_t>(MOST_ROWS, ROWS_BYTES / gemms->row_bytes());
    const int threads = omp_get_max_threads();
    // A panel costs as much as its rows, and where they are few, the time in which it comes from memory.
    const Shares shares(count, [&](int64_t i) { return gemms[i].rows; }, panels, most, MOST_ROWS, 4 * threads,
                        [](int64_t rows) { return std::max<int64_t>(rows, MOST_ROWS); });
#pragma omp parallel num_threads(threads)
    shares.of_thread(omp_get_thread_num(), omp_get_num_threads(), [&](const Shares::Chunk &chunk, int64_t p, int64_t next, int64_t next_panel) {
        const Gemm &g = gemms[chunk.part];
        const int64_t blocks = (chunk.count + MOST_ROWS - 1) / MOST_ROWS;
        // The next panel comes from memory while this one is in the cache: its lines are spread over the first blocks.
        const int64_t fetching = next < 0 ? 0 : std::min<int64_t>(blocks, 2);
        const int lines = fetching ? (int)(2 / fetching) : 0;
        const char *ahead = next < 0 ? nullptr : gemms[next].weight + next_panel * panel_bytes;
        for (int64_t b = 0; b < blocks; b++, ahead += lines * words * 64) {
            const int64_t row = chunk.count * b / blocks, some = chunk.count * (b + 1) / blocks - row;
            block_of<Kind, Out>((int)some, g, chunk.first + row, p * PANEL, g.weight + p * panel_bytes, ahead, b < fetching ? lines : 0);
        }
    });
}

// The weights, as Gemms, of experts that have rows: expert e's are starts[e] to starts[e + 1] of x and out. What differs between them
// comes as an array of addresses, or as null. The memory is the caller's to free.
struct Experts {
    Gemm *gemms;
    float *biases;  // as float32, where they come as something else
    int64_t count = 0;

    Experts(void *out, int64_t out_size, const void *x, const int64_t *panels, const int64_t *scale, const int64_t *sums, const float *row_scale,
            const int64_t *bias, int64_t bias_dtype, const int64_t *starts, int64_t experts, int64_t n, int64_t words)
        : gemms((Gemm *)malloc(experts * sizeof(Gemm))), biases(bias && bias_dtype != F32 ? (float *)malloc(experts * n * sizeof(float)) : nullptr) {
        for (int64_t e = 0; e < experts; e++) {
            const int64_t start = starts[e], rows = starts[e + 1] - start;
            if (rows <= 0) continue;
            const float *wide = bias ? widened((const void *)bias[e], bias_dtype, n, biases ? biases + e * n : nullptr) : nullptr;
            gemms[count++] = Gemm{(char *)out + start * n * out_size,
                                  (const char *)x + start * words * 4,
                                  (const char *)panels[e],
                                  scale ? (const float *)scale[e] : nullptr,
                                  sums ? (const int32_t *)sums[e] : nullptr,
                                  wide,
                                  row_scale ? row_scale + start : nullptr,
                                  rows,
                                  n,
                                  words};
        }
    }
    ~Experts() {
        free(biases);
        free(gemms);
    }
};

#endif

}  // namespace

void multiply_block(int64_t dtype, int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead) {
#if defined(INFER_GEMM_F32)
    if (dtype == F32) block_of<Float, float>(rows, g, row, column, panel, ahead, ahead ? 1 : 0);
#if defined(INFER_GEMM_BF16)
    if (dtype == BF16) block_of<Bf16, bf16>(rows, g, row, column, panel, ahead, ahead ? 1 : 0);
#endif
#endif
}

}  // namespace infer

// What this build multiplies: 1 bf16, 2 int8, 4 float32.
extern "C" void infer_gemm_kinds(int64_t *kinds) {
    *kinds = 0;
#if defined(INFER_GEMM_F32)
    *kinds |= INFER_GEMM_F32;
#endif
#if defined(INFER_GEMM_BF16)
    *kinds |= INFER_GEMM_BF16;
#endif
#if defined(INFER_GEMM_INT8)
    *kinds |= INFER_GEMM_INT8;
#endif
}

// weight [n][words * 4 bytes] -> panels [ceil(n / 32)][words][32] words, zeros beyond n.
extern "C" void infer_gemm_pack(uint32_t *panels, const uint32_t *weight, int64_t n, int64_t words) {
    const int64_t count = (n + infer::PANEL - 1) / infer::PANEL;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < count; p++)
        for (int64_t k = 0; k < words; k++)
            for (int64_t i = 0; i < infer::PANEL; i++) {
                const int64_t feature = p * infer::PANEL + i;
                panels[(p * words + k) * infer::PANEL + i] = feature < n ? weight[feature * words + k] : 0;
            }
}

// out [rows][n] = x [rows][words * 4 bytes] * weight + bias, all float32 or all bf16; the bias of any type.
extern "C" void infer_gemm(void *out, const void *x, const void *panels, const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype,
                           int64_t bias_dtype) {
#if defined(INFER_GEMM_F32)
    const bool narrow = bias && bias_dtype != infer::F32;
    float *buffer = narrow ? (float *)malloc(n * sizeof(float)) : nullptr;
    const infer::Gemm g{out, (const char *)x, (const char *)panels, nullptr, nullptr, infer::widened(bias, bias_dtype, n, buffer), nullptr, rows, n, words};
    if (dtype == infer::F32) infer::multiply<infer::Float, float>(&g, 1);
#if defined(INFER_GEMM_BF16)
    if (dtype == infer::BF16) infer::multiply<infer::Bf16, infer::bf16>(&g, 1);
#endif
    free(buffer);
#endif
}

// out [rows][n], bf16 or float32, = scale * (x uint8 [rows][4 * words] * weight - sums), or that * row_scale + bias.
extern "C" void infer_gemm_int8(void *out, const void *x, const void *panels, const float *scale, const int32_t *sums, const float *row_scale,
                                const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype) {
#if defined(INFER_GEMM_INT8)
    const bool narrow = bias && bias_dtype != infer::F32;
    float *buffer = narrow ? (float *)malloc(n * sizeof(float)) : nullptr;
    const float *wide = infer::widened(bias, bias_dtype, n, buffer);
    const infer::Gemm g{out, (const char *)x, (const char *)panels, scale, sums, wide, row_scale, rows, n, words};
    if (dtype == infer::BF16) infer::multiply<infer::Int8, infer::bf16>(&g, 1);
    else infer::multiply<infer::Int8, float>(&g, 1);
    free(buffer);
#endif
}

// `infer_gemm` of rows sorted by expert: rows starts[e] to starts[e + 1] by panels[e], + bias[e]; panels and bias are addresses.
extern "C" void infer_gemm_experts(void *out, const void *x, const int64_t *panels, const int64_t *bias, const int64_t *starts, int64_t experts,
                                   int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype) {
#if defined(INFER_GEMM_F32)
    const infer::Experts all(out, dtype == infer::F32 ? 4 : 2, x, panels, nullptr, nullptr, nullptr, bias, bias_dtype, starts, experts, n, words);
    if (!all.count) return;
    if (dtype == infer::F32) infer::multiply<infer::Float, float>(all.gemms, all.count);
#if defined(INFER_GEMM_BF16)
    if (dtype == infer::BF16) infer::multiply<infer::Bf16, infer::bf16>(all.gemms, all.count);
#endif
#endif
}

// The same as `infer_gemm_int8`; panels, scale, sums and bias are addresses.
extern "C" void infer_gemm_int8_experts(void *out, const void *x, const int64_t *panels, const int64_t *scale, const int64_t *sums,
                                        const float *row_scale, const int64_t *bias, const int64_t *starts, int64_t experts, int64_t n,
                                        int64_t words, int64_t dtype, int64_t bias_dtype) {
#if defined(INFER_GEMM_INT8)
    const infer::Experts all(out, dtype == infer::F32 ? 4 : 2, x, panels, scale, sums, row_scale, bias, bias_dtype, starts, experts, n, words);
    if (!all.count) return;
    if (dtype == infer::BF16) infer::multiply<infer::Int8, infer::bf16>(all.gemms, all.count);
    else infer::multiply<infer::Int8, float>(all.gemms, all.count);
#endif
}
