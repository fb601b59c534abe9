// Weights of small integers with scales by groups of input features, in panels of 32 output features.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "gemm.h"
#include "vectors.h"
#include "widen.h"

namespace infer {

// As in grouped.py, beside those of DType.
enum ByteType : int64_t { U8 = 3, I8 = 4 };

// Factors [panels][groups][32], or values times a factor [panels][blocks][32], `per_block` groups a block.
struct Scales {
    const void *values, *factor;
    int64_t dtype, factor_dtype, per_block;
};

// As in grouped.py, field by field.
struct Grouped {
    const uint8_t *codes;   // [panels][quads of k][64], 4 codes of a feature side by side: in low nibbles those of features 0 to 15, in high
                            // ones of 16 to 31; or [panels][quads][128], a byte a code
    const uint8_t *levels;  // [16] or null: what stands for a code
    const uint8_t *zero;    // [panels][groups][32] or null
    Scales scale, minimum;  // the minimum's values may be null
    int64_t n, quads;       // output features; input features / 4
    int64_t bits, group;    // quads of a group
    int64_t offset;         // zero of all features, or what is to be added to `zero`
    int64_t lifted;         // 1: codes of 4 bits without levels, and zeros of at most 128

    int64_t groups() const { return (quads + group - 1) / group; }
    int64_t panels() const { return (n + PANEL - 1) / PANEL; }
    int64_t quad_bytes() const { return bits == 4 ? 64 : 128; }
    const uint8_t *panel(int64_t p) const { return codes + p * quads * quad_bytes(); }
};

// Rows [first, first + rows) of x and out, by a weight of their own.
struct GroupedPart {
    const Grouped *g;
    const float *bias;  // or null
    int64_t first, rows;
};

// The parts of rows sorted by expert: expert e's are starts[e] to starts[e + 1]; those that have none are left out. Weights and biases come as arrays
// of addresses, the latter perhaps as null.
struct GroupedExperts {
    GroupedPart *parts;
    float *biases;  // as float32, where they come as something else
    int64_t count = 0;

    GroupedExperts(const int64_t *weights, const int64_t *bias, int64_t bias_dtype, const int64_t *starts, int64_t experts)
        : parts((GroupedPart *)malloc(experts * sizeof(GroupedPart))) {
        const int64_t n = experts ? ((const Grouped *)weights[0])->n : 0;
        biases = bias && bias_dtype != F32 ? (float *)malloc(experts * n * sizeof(float)) : nullptr;
        for (int64_t e = 0; e < experts; e++) {
            if (starts[e + 1] <= starts[e]) continue;
            const float *wide = bias ? widened((const void *)bias[e], bias_dtype, n, biases ? biases + e * n : nullptr) : nullptr;
            parts[count++] = GroupedPart{(const Grouped *)weights[e], wide, starts[e], starts[e + 1] - starts[e]};
        }
    }
    ~GroupedExperts() {
        free(biases);
        free(parts);
    }
    GroupedExperts(const GroupedExperts &) = delete;
    GroupedExperts &operator=(const GroupedExperts &) = delete;
};

#if defined(__AVX512F__) && defined(__AVX512BW__)

// Memory of a thread that it keeps for the next call: it may be as large as the L2 cache, and would come as fresh pages each time.
struct Room {
    char *start = nullptr;
    size_t size = 0;
    ~Room() { free(start); }

    template <class T> T *of(int64_t count) {
        const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (bytes > size) {
            free(start);
            start = (char *)aligned_alloc(64, bytes);
            size = bytes;
        }
        return (T *)start;
    }
};

// LANES bytes as float32.
inline f32x16 load(const uint8_t *p) { return convert<f32x16>(as<i32x16>(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)))); }
inline f32x16 load(const int8_t *p) { return convert<f32x16>(as<i32x16>(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)))); }

// Calls BODY with T naming the element type of factors.
#define INFER_FACTORS(dtype, T, ...)                              \
    if (dtype == infer::U8) { using T = uint8_t; __VA_ARGS__; }   \
    else if (dtype == infer::I8) { using T = int8_t; __VA_ARGS__; } \
    else INFER_DISPATCH(dtype, T, __VA_ARGS__)

// Values of groups times the factors of their blocks.
template <class T, class F> void widen_blocks(const T *values, const F *factors, int64_t per_block, int64_t groups, float *to) {
    for (int64_t g = 0; g < groups; factors += PANEL) {
        const f32x16 low = load(factors), high = load(factors + LANES);
        for (const int64_t stop = std::min(groups, g + per_block); g < stop; g++) {
            store(to + g * PANEL, load(values + g * PANEL) * low);
            store(to + g * PANEL + LANES, load(values + g * PANEL + LANES) * high);
        }
    }
}

// A panel's factors as float32 [groups][32].
inline void widen(const Scales &s, int64_t panel, int64_t groups, float *to) {
    INFER_FACTORS(s.dtype, T, {
        const T *values = (const T *)s.values + panel * groups * PANEL;
        if (!s.factor) {
            for (int64_t i = 0; i < groups * PANEL; i += LANES) store(to + i, load(values + i));
            return;
        }
        const int64_t first = panel * ((groups + s.per_block - 1) / s.per_block) * PANEL;
        INFER_DISPATCH(s.factor_dtype, F, widen_blocks(values, (const F *)s.factor + first, s.per_block, groups, to));
    });
}

#endif

}  // namespace infer
