// Rows as int8 with one scale a span of at most 128 features, and the sums that zeros and minimums of a weight's groups need.
#pragma once

#include <cfloat>

#include "grouped.h"
#include "laid_out.h"

namespace infer {

#if defined(__AVX512VNNI__)

// Quads of a span, at most.
constexpr int64_t SPAN = 32;

// The cuts of a row in steps, each within a group of the weight and a span. See kernels/grouped.py.
struct Cuts {
    int64_t quads, group, groups;
    int64_t steps_of_span;   // 1 for groups longer than a span
    int64_t spans_of_group;  // 1 for others
    int64_t spans, steps;

    Cuts(int64_t quads, int64_t group) : quads(quads), group(group), groups((quads + group - 1) / group) {
        steps_of_span = std::max<int64_t>(1, SPAN / group);
        spans_of_group = (group + SPAN - 1) / SPAN;
        const int64_t last = quads - (groups - 1) * group;
        spans = group <= SPAN ? (groups + steps_of_span - 1) / steps_of_span : (groups - 1) * spans_of_group + (last + SPAN - 1) / SPAN;
        steps = group <= SPAN ? groups : spans;
    }
    // The first quad of a span, and the one after its last.
    int64_t start(int64_t span) const {
        if (spans_of_group == 1) return span * steps_of_span * group;
        return span / spans_of_group * group + span % spans_of_group * SPAN;
    }
    int64_t end(int64_t span) const { return span + 1 < spans ? std::min(start(span) + SPAN, start(span + 1)) : quads; }
};

// Quantized rows of a block, at most LANES, side by side: a panel reads them one after the other.
struct SpanRows {
    int32_t *words;  // [quad][row]: 4 int8
    float *scale;    // [span][row]: 0 for zeros; infinity or NaN where a value is
    int32_t *start;  // [step][row]: the value its sum starts at: -(its values' sum) times `offset`
    float *sums;     // [step][row]: its values' sum; null if the weight has no minimum
};

template <bool WHOLE, class T> inline f32x16 load_part(const T *x, int64_t i, int64_t size) {
    if (WHOLE) return load(x + i);
    return i < size ? load_n(x + i, (int)std::min<int64_t>(LANES, size - i)) : splat(0.0f);
}

// One span of `rows` rows, `stride` apart, of `size` features: x, and what belongs to it in `to`.
template <bool WHOLE, class T>
void quantize_span(const T *x, int64_t stride, int64_t rows, int64_t size, int64_t group, int64_t offset, int32_t *words, float *scale, int32_t *start,
                   float *sums) {
    alignas(64) int32_t largest[LANES] = {};
    for (int64_t r = 0; r < rows; r++) {
        // As bits, whose order is that of the values, with infinity and NaN on top (see quantized.h).
        __m512i most = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int64_t i = 0; i < SPAN * 4; i += LANES) most = _mm512_max_epi32(most, (__m512i)vabs(load_part<WHOLE>(x + r * stride, i, size)));
        largest[r] = _mm512_reduce_max_epi32(most);
    }
    // All rows' scales at once, as Quantizer does one.
    const __m512 all = _mm512_div_ps((__m512)_mm512_load_si512(largest), _mm512_set1_ps(127.0f));
    const __mmask16 tiny = _mm512_cmp_ps_mask(all, _mm512_set1_ps(FLT_MIN), _CMP_LT_OQ), finite = _mm512_cmp_ps_mask(all, _mm512_set1_ps(FLT_MAX), _CMP_LE_OQ);
    alignas(64) float inverse[LANES];
    _mm512_store_ps(inverse, _mm512_maskz_div_ps((__mmask16)(finite & ~tiny), _mm512_set1_ps(1.0f), all));
    const __mmask16 lanes = (__mmask16)((1u << rows) - 1);
    _mm512_mask_storeu_ps(scale, lanes, _mm512_maskz_mov_ps((__mmask16)~tiny, all));

    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int64_t quads = size / 4;
    alignas(64) int32_t quad_sums[SPAN][LANES];
    for (int64_t half = 0; half < SPAN && half < quads; half += LANES) {
        __m512i four[LANES];
#pragma GCC unroll 16
        for (int64_t r = 0; r < LANES; r++) {
            four[r] = _mm512_setzero_si512();
            if (r >= rows) continue;
            __m512i v[4];
#pragma GCC unroll 4
            for (int64_t i = 0; i < 4; i++)
                v[i] = _mm512_cvtps_epi32((__m512)(load_part<WHOLE>(x + r * stride, half * 4 + i * LANES, size) * inverse[r]));
            const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
            four[r] = _mm512_permutexvar_epi32(order, bytes);
        }
        transpose(four);
#pragma GCC unroll 16
        for (int64_t q = 0; q < LANES; q++) {
            if (WHOLE || half + q < quads) _mm512_mask_storeu_epi32(words + (half + q) * rows, lanes, four[q]);
            _mm512_store_si512(quad_sums[half + q], _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), four[q]));
        }
    }
    for (int64_t q = 0; q < quads; start += rows) {
        __m512i sum = _mm512_setzero_si512();
        for (const int64_t stop = std::min(quads, q + group); q < stop; q++) sum = _mm512_add_epi32(sum, _mm512_load_si512(quad_sums[q]));
        _mm512_mask_storeu_epi32(start, lanes, _mm512_mullo_epi32(sum, _mm512_set1_epi32((int32_t)-offset)));
        if (!sums) continue;
        _mm512_mask_storeu_ps(sums, lanes, _mm512_cvtepi32_ps(sum));
        sums += rows;
    }
}

// Span `span` of a block's rows.
template <class T> void quantize(const T *x, const Cuts &cuts, int64_t span, int64_t rows, int64_t offset, const SpanRows &to) {
    const int64_t first = cuts.start(span), size = (cuts.end(span) - first) * 4, step = span * cuts.steps_of_span * rows;
    const auto one = size == SPAN * 4 ? quantize_span<true, T> : quantize_span<false, T>;
    one(x + first * 4, cuts.quads * 4, rows, size, cuts.group, offset, to.words + first * rows, to.scale + span * rows, to.start + step,
        to.sums ? to.sums + step : nullptr);
}

#endif

}  // namespace infer
