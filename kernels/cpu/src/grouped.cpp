// Rows quantized as they come, multiplied by weights of small integers with scales by groups.
//
// Codes are the unsigned side of the dot products, as they are or from a table of 16, and rows the signed one; so zeros need no sums over
// the weight: a step's sum starts at -zero * (sum of the row's values), known once a row. Zeros of codes of 4 bits are taken off as these are
// unpacked, by an addition where that start would need a multiplication for each row: multiplications share their ports with dot products.
// A code of 4 bits is widened in registers, by 3 instructions for 2 vectors that all rows of a block then share, on other ports; 8-bit copies of
// panels would only take up cache. A step's integer sum is exact; scales join in float32, in order of k, a product and its sum rounded once, as in
// the reference.

#include "grouped.h"
#include "parallel.h"
#include "shares.h"
#include "spans.h"

namespace infer {
namespace {

#if defined(__AVX512VNNI__)

// Rows of a block: as many as keep their integer sums and their float32 ones in registers. A few more in one block, whose float32 sums then go by
// memory, are still faster than two blocks while a panel comes from memory.
constexpr int BLOCK_ROWS = 6, MOST_ALONE = 8;
// Bytes of quantized rows that go by a panel before the next one: more than of plain ones, as panels are smaller and dearer to start with.
constexpr int64_t ROWS_IN_CACHE = 640 << 10;
// What codes are lifted by: no less than any zero of such a weight.
constexpr int64_t LIFT = 128;
inline __m512i dot(__m512i sum, __m512i codes, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));  // see gemm.cpp
    return sum;
}

struct Nibbles {
    static constexpr int BYTES = 64;
    static constexpr bool LIFTED = false;
    const __m512i low = _mm512_set1_epi8(15);
    explicit Nibbles(const uint8_t *) {}
    void load(const uint8_t *codes, __m512i &a, __m512i &b) const {
        const __m512i both = _mm512_loadu_si512(codes);
        a = _mm512_and_si512(both, low);
        b = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
};

// Codes less their groups' zeros, lifted so that none is negative: then all a row's sums start alike.
struct Lifted : Nibbles {
    static constexpr bool LIFTED = true;
    alignas(64) static constexpr uint32_t FOUR_TIMES[LANES] = {0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c,
                                                                0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c};
    __m512i to_a, to_b;
    explicit Lifted(const uint8_t *levels) : Nibbles(levels) {}
    void start(const uint8_t *zero) {
        const uint32_t *constant = FOUR_TIMES;
        char lift = (char)LIFT;
        asm("" : "+r"(constant), "+r"(lift));  // else both take registers that the sums need
        const auto of = [&](const uint8_t *from) {
            const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
            return _mm512_sub_epi8(_mm512_set1_epi8(lift), _mm512_shuffle_epi8(wide, _mm512_load_si512(constant)));
        };
        to_a = of(zero);
        to_b = of(zero + LANES);
    }
    void load(const uint8_t *codes, __m512i &a, __m512i &b) const {
        Nibbles::load(codes, a, b);
        a = _mm512_add_epi8(a, to_a);
        b = _mm512_add_epi8(b, to_b);
    }
};

struct Levels : Nibbles {
    __m512i table;
    explicit Levels(const uint8_t *levels) : Nibbles(levels), table(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)levels))) {}
    void load(const uint8_t *codes, __m512i &a, __m512i &b) const {
        Nibbles::load(codes, a, b);
        a = _mm512_shuffle_epi8(table, a);
        b = _mm512_shuffle_epi8(table, b);
    }
};

struct Bytes {
    static constexpr int BYTES = 128;
    static constexpr bool LIFTED = false;
    explicit Bytes(const uint8_t *) {}
    void load(const uint8_t *codes, __m512i &a, __m512i &b) const {
        a = _mm512_loadu_si512(codes);
        b = _mm512_loadu_si512(codes + 64);
    }
};

struct Panel {
    const uint8_t *codes, *zero;
    const float *scale, *minimum;  // [groups][32]
};

// A panel to have fetched meanwhile: so many bytes of its codes with each quad, and its factors with each group.
struct Ahead {
    const uint8_t *codes = nullptr;
    int64_t code_bytes = 0;
    struct Factors {
        const char *values;
        int64_t bytes;  // of a group
    } factors[5];
    int count = 0;

    void add(const void *values, int64_t panel, int64_t groups, int64_t bytes) {
        if (values) factors[count++] = Factors{(const char *)values + panel * groups * bytes, bytes};
    }
    void add(const Scales &s, int64_t panel, int64_t groups) {
        const auto size = [](int64_t dtype) { return dtype == F32 ? 4 : dtype <= F16 ? 2 : 1; };
        add(s.values, panel, groups, PANEL * size(s.dtype));
        add(s.factor, panel, (groups + s.per_block - 1) / s.per_block, PANEL * size(s.factor_dtype));
        if (s.factor) factors[count - 1].bytes /= s.per_block;
    }
};

// R rows by one panel -> total [R][32].
template <class Codes, int R>
__attribute__((noinline)) void block(const Grouped &g, const Cuts &cuts, const Panel &panel, const SpanRows &x, float *total, Ahead &ahead) {
    Codes kind(g.levels);
    const uint8_t *codes = panel.codes;
    const int32_t *words = x.words, *start = x.start;
    const float *sums = x.sums, *row_scale = x.scale;
    const int64_t spans = cuts.spans, code_bytes = ahead.code_bytes;
    const uint8_t *to_fetch = ahead.codes, *fetched = to_fetch;
    for (int i = 0; i < R * PANEL; i += LANES) _mm512_store_ps(total + i, _mm512_setzero_ps());
    int64_t group = -1, end = 0, quad = 0;  // of the group
    for (int64_t span = 0; span < spans; span++, row_scale += R) {
        __m512 part[R][2];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) part[r][0] = part[r][1] = _mm512_setzero_ps();
        for (int64_t step = 0; step < cuts.steps_of_span && quad < g.quads; step++, start += R) {
            if (quad == end) {
                group++;
                for (int i = 0; i < ahead.count; i++) {
                    __builtin_prefetch(ahead.factors[i].values, 0, 2);
                    ahead.factors[i].values += ahead.factors[i].bytes;
                }
                end = std::min(g.quads, end + g.group);
            }
            const int64_t stop = std::min(end, quad + SPAN), column = group * PANEL;
            fetched += (stop - quad) * code_bytes;
            for (; to_fetch < fetched; to_fetch += 64) __builtin_prefetch(to_fetch, 0, 2);
            __m512i sum[R][2];
            if constexpr (Codes::LIFTED) kind.start(panel.zero + column);
            if (!Codes::LIFTED && panel.zero) {
                const __m512i offset = _mm512_set1_epi32((int32_t)g.offset);
                const __m512i a = _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(panel.zero + column))), offset);
                const __m512i b = _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(panel.zero + column + LANES))), offset);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    // Products of the low halves: both fit in 16 bits, and the zero's high half is 0.
                    const __m512i v = _mm512_set1_epi32(start[r]);
                    sum[r][0] = _mm512_madd_epi16(a, v);
                    sum[r][1] = _mm512_madd_epi16(b, v);
                }
            } else {
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(start[r]);
            }
            const auto dots = [&](int64_t i) __attribute__((always_inline)) {
                __m512i a, b;
                kind.load(codes + i * Codes::BYTES, a, b);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    const __m512i v = _mm512_set1_epi32(words[i * R + r]);
                    sum[r][0] = dot(sum[r][0], a, v);
                    sum[r][1] = dot(sum[r][1], b, v);
                }
            };
#define INFER_QUADS(COUNT) /* so many without a jump */                                            \
    for (; quad + COUNT <= stop; quad += COUNT, codes += COUNT * Codes::BYTES, words += COUNT * R) \
        _Pragma("GCC unroll 8") for (int64_t i = 0; i < COUNT; i++) dots(i);
            INFER_QUADS(8)
            INFER_QUADS(4)
            INFER_QUADS(1)
#undef INFER_QUADS
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m512 scale = _mm512_loadu_ps(panel.scale + column + half * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) part[r][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][half]), scale, part[r][half]);
            }
            if (!panel.minimum) continue;
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m512 minimum = _mm512_loadu_ps(panel.minimum + column + half * LANES);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) part[r][half] = _mm512_fmadd_ps(_mm512_set1_ps(sums[r]), minimum, part[r][half]);
            }
            sums += R;
        }
        asm("" : "+r"(total));  // else compilers keep it in registers that there are not, and spill them around every span
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                float *to = total + r * PANEL + half * LANES;
                _mm512_store_ps(to, _mm512_fmadd_ps(part[r][half], _mm512_set1_ps(row_scale[r]), _mm512_load_ps(to)));
            }
    }
}

template <class Codes> auto block_of(int64_t rows) -> decltype(&block<Codes, 1>) {
    static constexpr decltype(&block<Codes, 1>) all[] = {block<Codes, 1>, block<Codes, 2>, block<Codes, 3>, block<Codes, 4>,
                                                         block<Codes, 5>, block<Codes, 6>, block<Codes, 7>, block<Codes, 8>};
    return all[rows - 1];
}

// The blocks that a part's rows are divided in.
struct Blocks {
    int64_t first, count, size, longer;

    explicit Blocks(const GroupedPart &part) : first(part.first), count(part.rows <= MOST_ALONE ? 1 : (part.rows + BLOCK_ROWS - 1) / BLOCK_ROWS) {
        size = count ? part.rows / count : 0;
        longer = count ? part.rows % count : 0;
    }
    int64_t first_of(int64_t block) const { return first + block * size + std::min(block, longer); }
    int64_t rows_of(int64_t block) const { return size + (block < longer); }
};

template <class T> void finish(T *out, const float *total, const float *bias, int64_t rows, int64_t n, int64_t column) {
    for (int64_t half = 0; half < PANEL && column + half < n; half += LANES) {
        const int count = (int)std::min<int64_t>(LANES, n - column - half);
        const f32x16 added = bias ? load_n(bias + column + half, count) : splat(0.0f);
        for (int64_t r = 0; r < rows; r++) {
            const f32x16 value = load(total + r * PANEL + half);
            store_n(out + r * n + column + half, bias ? value + added : value, count);
        }
    }
}

// Where quantized rows lie in memory for so many.
inline SpanRows rows_in(int32_t *room, int64_t rows, const Cuts &cuts, bool sums) {
    int32_t *start = room + rows * (cuts.quads + cuts.spans);
    return SpanRows{room, (float *)(room + rows * cuts.quads), start, sums ? (float *)(start + rows * cuts.steps) : nullptr};
}

// All of x's `rows` rows quantized, then multiplied, each part's by its weight, all of one shape and form. All threads take part in both, or, where
// there is no `room` for what they quantize together, each quantizes all rows for itself: a few are done sooner than threads have met.
template <class Codes, class T> void multiply(const GroupedPart *parts, int64_t count, T *out, const T *x, int32_t *room, int64_t rows) {
    const Grouped &any = *parts->g;
    const Cuts cuts(any.quads, any.group);
    const int64_t n = any.n, quads = any.quads, spans = cuts.spans, steps = cuts.steps, groups = cuts.groups, panels = any.panels();
    const auto blocks_of = [&](int64_t i) { return Blocks(parts[i]).count; };
    const int64_t most = std::max<int64_t>(1, ROWS_IN_CACHE / (quads * 4 * BLOCK_ROWS));
    const auto rows_from = [&](const SpanRows &to, int64_t row) {
        return SpanRows{to.words + row * quads, to.scale + row * spans, to.start + row * steps, to.sums ? to.sums + row * steps : nullptr};
    };
    // Spans [from, until), counted over the blocks of all parts.
    const auto quantize_spans = [&](const SpanRows &to, int64_t from, int64_t until) {
        for (int64_t i = 0; i < count && until > 0; i++) {
            const GroupedPart &part = parts[i];
            const Blocks divided(part);
            const int64_t all = divided.count * spans;
            for (int64_t task = std::max<int64_t>(0, from); task < std::min(all, until); task++) {
                const int64_t offset = Codes::LIFTED ? LIFT : part.g->zero ? 1 : part.g->offset;
                const int64_t b = task / spans, row = divided.first_of(b);
                quantize(x + row * quads * 4, cuts, task % spans, divided.rows_of(b), offset, rows_from(to, row));
            }
            from -= all, until -= all;
        }
    };
    int64_t tasks = 0;
    for (int64_t i = 0; i < count; i++) tasks += blocks_of(i) * spans;
    if (room) {
        Pieces pieces(tasks, PIECE / (BLOCK_ROWS * quads * 4 / spans));
        in_team(
            [&] {
                for (int64_t first, last; pieces.take(first, last);) quantize_spans(rows_in(room, rows, cuts, any.minimum.values), first, last);
            },
            !pieces.are_one());
    }
    Shares shares(count, blocks_of, panels, most, 1, [&](int64_t size) { return size * BLOCK_ROWS * quads; });
    shares.in_team([&] {
        static thread_local Room memory;
        const int64_t factors = groups * PANEL * 2 + MOST_ALONE * PANEL;
        float *scale = memory.of<float>(factors + (room ? 0 : rows * (quads + spans + 2 * steps)));
        float *minimum = scale + groups * PANEL, *total = minimum + groups * PANEL;
        const SpanRows to = rows_in(room ? room : (int32_t *)(scale + factors), rows, cuts, any.minimum.values);
        if (!room) quantize_spans(to, 0, tasks);
        shares.work([&](const Shares::Chunk &chunk, int64_t p, int64_t next, int64_t next_panel) {
            const Grouped &g = *parts[chunk.part].g;
            widen(g.scale, p, groups, scale);
            if (g.minimum.values) widen(g.minimum, p, groups, minimum);
            const Panel panel{g.panel(p), g.zero ? g.zero + p * groups * PANEL : nullptr, scale, g.minimum.values ? minimum : nullptr};
            const Blocks divided(parts[chunk.part]);
            for (int64_t b = 0; b < chunk.count; b++) {
                // The next panel comes from memory while blocks go by this one, an equal share with each: the first ones would wait for it.
                const int64_t row = divided.first_of(chunk.first + b), rows = divided.rows_of(chunk.first + b);
                Ahead ahead;
                if (next >= 0) {
                    const Grouped &after = *parts[next].g;
                    const int64_t bytes = (Codes::BYTES + chunk.count - 1) / chunk.count;
                    ahead.codes = after.panel(next_panel) + b * quads * bytes;
                    ahead.code_bytes = b * bytes < Codes::BYTES ? bytes : 0;
                    if (b == 0) {
                        ahead.add(after.scale, next_panel, groups);
                        ahead.add(after.minimum, next_panel, groups);
                        ahead.add(after.zero, next_panel, groups, PANEL);
                    }
                }
                block_of<Codes>(rows)(g, cuts, panel, rows_from(to, row), total, ahead);
                finish(out + row * n, total, parts[chunk.part].bias, rows, n, p * PANEL);
            }
        });
    });
}

// All parts, which have `rows` rows together.
void multiply_all(void *out, const void *x, const GroupedPart *parts, int64_t count, int32_t *room, int64_t rows, int64_t dtype) {
    const Grouped &any = *parts->g;
    // Blocks of more than BLOCK_ROWS have no registers left for what lifts codes; sums are the same integers either way.
    const bool lifted = any.lifted && (rows <= BLOCK_ROWS || rows > MOST_ALONE);
    INFER_DISPATCH(dtype, T, {
        if (any.bits == 8) multiply<Bytes, T>(parts, count, (T *)out, (const T *)x, room, rows);
        else if (any.levels) multiply<Levels, T>(parts, count, (T *)out, (const T *)x, room, rows);
        else if (lifted) multiply<Lifted, T>(parts, count, (T *)out, (const T *)x, room, rows);
        else multiply<Nibbles, T>(parts, count, (T *)out, (const T *)x, room, rows);
    });
}

#endif

}  // namespace
}  // namespace infer

// What this build multiplies by such weights: 1 quantized rows, 2 plain ones.
extern "C" void infer_grouped_kinds(int64_t *kinds) {
    *kinds = 0;
#if defined(__AVX512VNNI__)
    *kinds |= 1;
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__)
    *kinds |= 2;
#endif
}

// out [rows][n] = x [rows][k] * weight + bias. `room`, for quantized rows: 4 bytes for each quad, span and step of a row, and once more for each
// step if there is a minimum; null: each thread has its own.
extern "C" void infer_grouped(void *out, const void *x, const infer::Grouped *g, const void *bias, int32_t *room, int64_t rows, int64_t dtype,
                              int64_t bias_dtype) {
#if defined(__AVX512VNNI__)
    using namespace infer;
    if (!rows) return;
    float *buffer = bias && bias_dtype != F32 ? (float *)malloc(g->n * sizeof(float)) : nullptr;
    const GroupedPart part{g, widened(bias, bias_dtype, g->n, buffer), 0, rows};
    multiply_all(out, x, &part, 1, room, rows, dtype);
    free(buffer);
#endif
}

// The same of rows sorted by expert: rows starts[e] to starts[e + 1] by weights[e], + bias[e], which are addresses; weights of one shape and form.
extern "C" void infer_grouped_experts(void *out, const void *x, const int64_t *weights, const int64_t *bias, int32_t *room, const int64_t *starts,
                                      int64_t experts, int64_t dtype, int64_t bias_dtype) {
#if defined(__AVX512VNNI__)
    using namespace infer;
    const GroupedExperts all(weights, bias, bias_dtype, starts, experts);
    if (all.count) multiply_all(out, x, all.parts, all.count, room, starts[experts], dtype);
#endif
}
