// Rows in the model's dtype, multiplied by weights of small integers with scales by groups: a thread widens a panel into memory that stays in its
// cache and multiplies it as gemm.cpp does, so results are those of the widened weight to the bit.

#include <omp.h>

#include "gemm.h"
#include "grouped.h"
#include "widen.h"

namespace infer {
namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__)

// Two words of 16 features each, from their values of 4 input features in order.
inline void put_quad(float *to, const __m512 (&v)[4]) {
    for (int i = 0; i < 4; i++) _mm512_storeu_ps(to + i * PANEL, v[i]);
}

#if defined(__AVX512BF16__)
inline void put_quad(bf16 *to, const __m512 (&v)[4]) {
    alignas(64) static constexpr uint16_t PAIRS[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i pairs = _mm512_load_si512(PAIRS);
    for (int i = 0; i < 2; i++) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(v[2 * i + 1], v[2 * i]);
        _mm512_storeu_si512(to + i * PANEL * 2, _mm512_permutexvar_epi16(pairs, both));
    }
}
#endif

// Panel p as gemm.cpp has it: [words of k][32]. There is room for the panel's factors in `scales` and `minimums`.
template <class T> void widen_panel(const Grouped &g, int64_t p, T *to, float *scales, float *minimums) {
    const int64_t groups = g.groups(), quad_bytes = g.quad_bytes();
    const uint8_t *codes = g.panel(p);
    widen(g.scale, p, groups, scales);
    if (g.minimum.values) widen(g.minimum, p, groups, minimums);
    // By codes of 4 bits: their levels, less the zero where all have the same.
    const int32_t same = g.zero ? 0 : (int32_t)g.offset;
    const __m512i levels = g.levels ? _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)g.levels)) : (__m512i)lane_numbers();
    const __m512 table = _mm512_cvtepi32_ps(_mm512_sub_epi32(levels, _mm512_set1_epi32(same)));
    for (int64_t group = 0; group < groups; group++) {
        const int64_t stop = std::min(g.quads, (group + 1) * g.group);
        for (int half = 0; half < 2; half++) {
            const int64_t column = half * LANES;
            const __m512 scale = _mm512_loadu_ps(scales + group * PANEL + column);
            const __m512 minimum = g.minimum.values ? _mm512_loadu_ps(minimums + group * PANEL + column) : _mm512_setzero_ps();
            __m512 zero = _mm512_setzero_ps();
            if (g.zero) {
                const __m512i own = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(g.zero + (p * groups + group) * PANEL + column)));
                zero = _mm512_cvtepi32_ps(_mm512_add_epi32(own, _mm512_set1_epi32((int32_t)g.offset)));
            }
            for (int64_t quad = group * g.group; quad < stop; quad++) {
                const uint8_t *from = codes + quad * quad_bytes;
                const __m512i four = _mm512_loadu_si512(from + (g.bits == 8 ? half * 64 : 0));
                __m512 v[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    if (g.bits == 4) {
                        v[i] = _mm512_permutexvar_ps(_mm512_srli_epi32(four, 8 * i + 4 * half), table);  // looks at the lowest 4 bits alone
                    } else {
                        const __m512i code = _mm512_and_si512(_mm512_srli_epi32(four, 8 * i), _mm512_set1_epi32(255));
                        v[i] = _mm512_cvtepi32_ps(_mm512_sub_epi32(code, _mm512_set1_epi32(same)));
                    }
                    if (g.zero) v[i] = _mm512_sub_ps(v[i], zero);
                    v[i] = _mm512_mul_ps(v[i], scale);
                    if (g.minimum.values) v[i] = _mm512_add_ps(v[i], minimum);
                }
                put_quad(to + quad * 4 * PANEL + column * (4 / (int64_t)sizeof(T)), v);
            }
        }
    }
}

template <class T> void multiply(const Grouped &g, const Gemm &gemm, int64_t dtype) {
    const int64_t panels = g.panels(), blocks = (gemm.rows + MOST_ROWS - 1) / MOST_ROWS;
    // Blocks at a time: to widen a panel again costs more than to fetch rows from the next cache.
    const int64_t most = std::max<int64_t>(8, ROWS_BYTES / (gemm.row_bytes() * MOST_ROWS));
    const int threads = omp_get_max_threads();
    int64_t chunks = (blocks + most - 1) / most;
    while (chunks * panels < 2 * threads && chunks < blocks) chunks++;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Room room;
        const int64_t factors = g.groups() * PANEL;
        float *scales = room.of<float>(2 * factors + g.quads * PANEL * (int64_t)sizeof(T)), *minimums = scales + factors;
        T *panel = (T *)(minimums + factors);
        const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();
        const int64_t all = chunks * panels, begin = all * id / team, end = all * (id + 1) / team;
        for (int64_t task = begin; task < end; task++) {
            const int64_t chunk = task / panels, p = task % panels;
            widen_panel(g, p, panel, scales, minimums);
            const int64_t first = blocks * chunk / chunks;
            // The next panels' codes come from memory while the first block goes by this one.
            const char *ahead = task + 1 < end && p + 1 < panels ? (const char *)g.panel(p + 1) : nullptr;
            for (int64_t b = first; b < blocks * (chunk + 1) / chunks; b++) {
                const int64_t row = gemm.rows * b / blocks, rows = gemm.rows * (b + 1) / blocks - row;
                multiply_block(dtype, (int)rows, gemm, row, p * PANEL, (const char *)panel, b == first ? ahead : nullptr);
            }
        }
    }
}

#endif

}  // namespace
}  // namespace infer

// out [rows][n] = x [rows][k] * weight + bias, all float32 or all bf16; the bias of any type.
extern "C" void infer_grouped_plain(void *out, const void *x, const infer::Grouped *g, const void *bias, int64_t rows, int64_t dtype,
                                    int64_t bias_dtype) {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    using namespace infer;
    float *buffer = bias && bias_dtype != F32 ? (float *)malloc(g->n * sizeof(float)) : nullptr;
    const int64_t words = g->quads * (dtype == F32 ? 4 : 2);
    const Gemm gemm{out, (const char *)x, nullptr, nullptr, nullptr, widened(bias, bias_dtype, g->n, buffer), nullptr, rows, g->n, words};
    if (dtype == F32) multiply<float>(*g, gemm, dtype);
#if defined(__AVX512BF16__)
    if (dtype == BF16) multiply<bf16>(*g, gemm, dtype);
#endif
    free(buffer);
#endif
}
