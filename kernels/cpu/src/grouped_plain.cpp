// Rows in the model's dtype, multiplied by weights of small integers with scales by groups: a thread widens a panel into memory that stays in its
// cache and multiplies it as gemm.cpp does, so results are those of the widened weight to the bit.

#include "gemm.h"
#include "grouped.h"
#include "parallel.h"
#include "shares.h"

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

// Rows to which widening a panel compares: it is shared out as so many.
constexpr int64_t WIDENING = 40;

// As in grouped.cpp; `form` is what all parts' products have in common.
template <class T> void multiply(const GroupedPart *parts, int64_t count, const Gemm &form, int64_t dtype) {
    const Grouped &any = *parts->g;
    const int64_t panels = any.panels(), factors = any.groups() * PANEL;
    // Blocks at a time: to widen a panel again costs more than to fetch rows from the next cache.
    const int64_t most = std::max<int64_t>(8, ROWS_BYTES / (form.row_bytes() * MOST_ROWS));
    const auto blocks_of = [&](int64_t i) { return (parts[i].rows + MOST_ROWS - 1) / MOST_ROWS; };
    Shares shares(count, blocks_of, panels, most, 1, [&](int64_t blocks) { return (blocks * MOST_ROWS + WIDENING) * form.words; });
    shares.in_team([&] {
        static thread_local Room room;
        float *scales = room.of<float>(2 * factors + any.quads * PANEL * (int64_t)sizeof(T)), *minimums = scales + factors;
        T *panel = (T *)(minimums + factors);
        shares.work([&](const Shares::Chunk &chunk, int64_t p, int64_t next, int64_t next_panel) {
            const GroupedPart &part = parts[chunk.part];
            widen_panel(*part.g, p, panel, scales, minimums);
            Gemm gemm = form;
            gemm.bias = part.bias;
            // The next panel's codes come from memory while the first block goes by this one.
            const char *ahead = next < 0 ? nullptr : (const char *)parts[next].g->panel(next_panel);
            const int64_t blocks = blocks_of(chunk.part);
            for (int64_t b = chunk.first; b < chunk.first + chunk.count; b++) {
                const int64_t row = part.rows * b / blocks, rows = part.rows * (b + 1) / blocks - row;
                multiply_block(dtype, (int)rows, gemm, part.first + row, p * PANEL, (const char *)panel, b == chunk.first ? ahead : nullptr);
            }
        });
    });
}

void multiply_all(void *out, const void *x, const GroupedPart *parts, int64_t count, int64_t rows, int64_t dtype) {
    const Grouped &any = *parts->g;
    const Gemm form{out, (const char *)x, nullptr, nullptr, nullptr, nullptr, nullptr, rows, any.n, any.quads * (dtype == F32 ? 4 : 2)};
    if (dtype == F32) multiply<float>(parts, count, form, dtype);
#if defined(__AVX512BF16__)
    if (dtype == BF16) multiply<bf16>(parts, count, form, dtype);
#endif
}

#endif

}  // namespace
}  // namespace infer

// out [rows][n] = x [rows][k] * weight + bias, all float32 or all bf16; the bias of any type.
extern "C" void infer_grouped_plain(void *out, const void *x, const infer::Grouped *g, const void *bias, int64_t rows, int64_t dtype,
                                    int64_t bias_dtype) {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    using namespace infer;
    if (!rows) return;
    float *buffer = bias && bias_dtype != F32 ? (float *)malloc(g->n * sizeof(float)) : nullptr;
    const GroupedPart part{g, widened(bias, bias_dtype, g->n, buffer), 0, rows};
    multiply_all(out, x, &part, 1, rows, dtype);
    free(buffer);
#endif
}

// The same of rows sorted by expert; arguments as of `infer_grouped_experts`.
extern "C" void infer_grouped_plain_experts(void *out, const void *x, const int64_t *weights, const int64_t *bias, const int64_t *starts,
                                            int64_t experts, int64_t dtype, int64_t bias_dtype) {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    using namespace infer;
    const GroupedExperts all(weights, bias, bias_dtype, starts, experts);
    if (all.count) multiply_all(out, x, all.parts, all.count, starts[experts], dtype);
#endif
}
