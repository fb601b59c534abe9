// LoRA: rows of y get what pairs of small matrices make of rows of x, y += ((x A^T) * factor) B^T, each row by its own adapter's pair.
//
// A and B lie in panels of 16 output features, word by word: [panel][k word][16], a word being a float32 or two bf16 (where the CPU
// multiplies pairs of those). Blocks of up to 12 rows of one adapter go through one panel or two with their sums in registers; every element is
// one sum over k in order, so a row's bits depend on nothing but the row. Rows are where the model has them: a block's are copied side by side.
// Threads share out blocks; where there are fewer blocks than threads, panels too.

#include <algorithm>
#include <cstdlib>

#include "parallel.h"
#include "vectors.h"

namespace infer {
namespace {

constexpr int MOST = 12;
// What stands for 0 in quantized rows.
constexpr int ZERO = 128;
// x is quantized.
constexpr int64_t UINT8 = 4;

// Output features [out, out + width) of y, from words [from, from + words) of a row of x A^T.
struct Part {
    int64_t out, width, from, words;
    const char *panels;
};

// As `pack_lora` lays it out.
struct Weight {
    const char *a;
    int64_t panels;  // of A
    int64_t parts;
    int64_t tasks;  // pairs of panels of all parts
    const Part *part() const { return (const Part *)(this + 1); }
};

struct Block {
    const Weight *weight;
    const int32_t *rows;
    int count;
};

struct Call {
    char *y;
    const char *x;
    const float *factor;
    int64_t features, size;  // of y and x
    int64_t words;           // of a row of x
    int64_t stride;          // bytes of a row of x A^T
    char *inner;             // all rows of x A^T, block by block
};

struct Floats {
    typedef float Element;
    typedef f32x16 Word;
    static constexpr int64_t PER = 1;
    static Word load(const char *p) { return infer::load((const float *)p); }
    static Word spread(const char *p) {
        float x;
        memcpy(&x, p, sizeof x);
        return splat(x);
    }
    static f32x16 dot(f32x16 sum, Word x, Word w) { return vfma(x, w, sum); }
};

#if defined(__AVX512BF16__)
struct Pairs {
    typedef bf16 Element;
    typedef __m512i Word;
    static constexpr int64_t PER = 2;
    static Word load(const char *p) { return _mm512_loadu_si512(p); }
    static Word spread(const char *p) {
        int x;
        memcpy(&x, p, sizeof x);
        return _mm512_set1_epi32(x);
    }
    static f32x16 dot(f32x16 sum, Word x, Word w) { return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w); }
};
#endif

// R rows, `stride` bytes apart, by P panels, `step` bytes apart.
template <class Kind, int R, int P, class Finish>
inline void multiply(const char *rows, int64_t stride, int64_t words, const char *panel, int64_t step, const Finish &finish) {
    const char *x[(R + 2) / 3];
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) x[i] = rows + 3 * i * stride;
    f32x16 sum[R][P];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) sum[r][p] = splat(0.0f);
    for (int64_t k = 0; k < words; k++, panel += 64) {
        typename Kind::Word w[P];
        for (int p = 0; p < P; p++) w[p] = Kind::load(panel + p * step);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const typename Kind::Word v = Kind::spread(x[r / 3] + r % 3 * stride);
#pragma GCC unroll 2
            for (int p = 0; p < P; p++) sum[r][p] = Kind::dot(sum[r][p], v, w[p]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < (R + 2) / 3; i++) x[i] += 4;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) finish(r, p, sum[r][p]);
}

template <class Kind, int P, class Finish>
void multiply_of(int count, const char *rows, int64_t stride, int64_t words, const char *panel, int64_t step, const Finish &finish) {
    switch (count) {
#define INFER_ROWS(R) \
    case R: return multiply<Kind, R, P>(rows, stride, words, panel, step, finish);
        INFER_ROWS(1) INFER_ROWS(2) INFER_ROWS(3) INFER_ROWS(4) INFER_ROWS(5) INFER_ROWS(6)
        INFER_ROWS(7) INFER_ROWS(8) INFER_ROWS(9) INFER_ROWS(10) INFER_ROWS(11) INFER_ROWS(12)
#undef INFER_ROWS
    }
}

template <class T> f32x16 rounded(f32x16 v) {
    T buffer[LANES];
    store(buffer, v);
    return load(buffer);
}
template <> inline f32x16 rounded<float>(f32x16 v) { return v; }

// 16 quantized values, without their scale.
inline f32x16 numbers(const uint8_t *p) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))) - splat((float)ZERO);
#else
    f32x16 wide;
    float values[LANES];
    for (int lane = 0; lane < LANES; lane++) values[lane] = (float)p[lane];
    read(values, wide);
    return wide - splat((float)ZERO);
#endif
}

// A block's rows of x side by side, as elements of the kind.
template <class Kind, class X> void gather(const Call &call, const Block &block, char *to) {
    typedef typename Kind::Element E;
    for (int r = 0; r < block.count; r++) {
        const X *from = (const X *)call.x + block.rows[r] * call.size;
        E *row = (E *)(to + r * call.words * 4);
        if constexpr (std::is_same_v<E, X>) memcpy(row, from, call.size * sizeof(E));
        else if constexpr (std::is_same_v<X, uint8_t>)
            for (int64_t i = 0; i < call.size; i += LANES) {
                const int n = (int)std::min<int64_t>(LANES, call.size - i);
                uint8_t part[LANES] = {};
                if (n < LANES) memcpy(part, from + i, n);
                store_n(row + i, numbers(n < LANES ? part : from + i), n);
            }
        else over_row(call.size, [&](int64_t i, int n) { store_n(row + i, load_n(from + i, n), n); });
        if (call.size % Kind::PER) row[call.size] = E{};
    }
}

// x A^T of a block, panels [first, last).
template <class Kind, class T> void shrink(const Call &call, const Block &block, const char *rows, char *inner, int64_t first, int64_t last) {
    typedef typename Kind::Element E;
    const int64_t step = call.words * 64;
    float factor[MOST];
    for (int r = 0; r < block.count; r++) factor[r] = call.factor ? call.factor[block.rows[r]] : 1.0f;
    for (int64_t p = first; p < last; p += 2) {
        const auto finish = [&](int r, int half, f32x16 sum) {
            store((E *)(inner + r * call.stride) + (p + half) * LANES, rounded<T>(sum * splat(factor[r])));
        };
        const char *panel = block.weight->a + p * step;
        if (p + 1 < last) multiply_of<Kind, 2>(block.count, rows, call.words * 4, call.words, panel, step, finish);
        else multiply_of<Kind, 1>(block.count, rows, call.words * 4, call.words, panel, step, finish);
    }
}

// Adds what pairs of panels [first, last), counted over all parts, make of a block's x A^T.
template <class Kind, class T> void expand(const Call &call, const Block &block, const char *inner, int64_t first, int64_t last) {
    const Part *part = block.weight->part();
    int64_t before = 0;
    for (int64_t i = 0; i < block.weight->parts && before < last; i++, part++) {
        const int64_t pairs = (part->width + 2 * LANES - 1) / (2 * LANES), step = part->words * 64;
        for (int64_t p = std::max<int64_t>(0, first - before); p < std::min(pairs, last - before); p++) {
            const int64_t column = p * 2 * LANES, left = part->width - column;
            const auto finish = [&](int r, int half, f32x16 sum) {
                T *to = (T *)call.y + block.rows[r] * call.features + part->out + column + half * LANES;
                const int n = (int)std::min<int64_t>(LANES, left - half * LANES);
                store_n(to, load_n(to, n) + sum, n);
            };
            const char *rows = inner + part->from * 4, *panel = part->panels + p * 2 * step;
            if (left > LANES) multiply_of<Kind, 2>(block.count, rows, call.stride, part->words, panel, step, finish);
            else multiply_of<Kind, 1>(block.count, rows, call.stride, part->words, panel, step, finish);
        }
        before += pairs;
    }
}

template <class Kind, class T, class X> void add(const Call &call, const Block *blocks, int64_t count) {
    const int team = threads();
    const int64_t cuts = count >= team ? 1 : (team + count - 1) / count;  // of each block's panels
    Pieces pieces(count * cuts);
    in_team([&] {
        char *rows = (char *)aligned_alloc(64, (MOST * call.words * 4 + 63) / 64 * 64);
        pieces.work([&](int64_t i) {
            const Block &block = blocks[i / cuts];
            char *inner = call.inner + i / cuts * MOST * call.stride;
            const int64_t panels = block.weight->panels, cut = i % cuts;
            // By twos, as they are multiplied.
            const int64_t twos = (panels + 1) / 2, first = twos * cut / cuts * 2, last = std::min(panels, twos * (cut + 1) / cuts * 2);
            if (first >= last) return;
            gather<Kind, X>(call, block, rows);
            shrink<Kind, T>(call, block, rows, inner, first, last);
            if (cuts == 1) expand<Kind, T>(call, block, inner, 0, block.weight->tasks);
        });
        free(rows);
    });
    if (cuts == 1) return;
    parallel_for(count * cuts, 1, [&](int64_t i) {
        const Block &block = blocks[i / cuts];
        const int64_t tasks = block.weight->tasks, cut = i % cuts;
        expand<Kind, T>(call, block, call.inner + i / cuts * MOST * call.stride, tasks * cut / cuts, tasks * (cut + 1) / cuts);
    });
}

template <class Kind, class T> void add_of(const Call &call, const Block *blocks, int64_t count, bool quantized) {
    if (quantized) add<Kind, T, uint8_t>(call, blocks, count);
    else add<Kind, T, T>(call, blocks, count);
}

}  // namespace
}  // namespace infer

// Bytes of an element of A, B and x A^T for a model of that dtype: 2 where pairs of bf16 are multiplied.
extern "C" void infer_lora_bytes(int64_t *bytes, int64_t dtype) {
#if defined(__AVX512BF16__)
    *bytes = dtype == infer::BF16 ? 2 : 4;
#else
    *bytes = 4;
#endif
}

// y [N][features] of `dtype`, x [N][size] of the same or UINT8. Adapter g has rows order[starts[g]] to order[starts[g + 1]] and the Weight
// at weights[g], which may be 0; `stride`: the most bytes of a row of x A^T, over all weights.
extern "C" void infer_lora(void *y, const void *x, const float *factor, const int32_t *order, const int64_t *starts, const int64_t *weights,
                           int64_t adapters, int64_t features, int64_t size, int64_t stride, int64_t dtype, int64_t x_dtype) {
    using namespace infer;
    int64_t count = 0;
    for (int64_t g = 0; g < adapters; g++)
        if (weights[g]) count += (starts[g + 1] - starts[g] + MOST - 1) / MOST;
    if (!count) return;
    Block *blocks = (Block *)malloc(count * sizeof(Block));
    int64_t at = 0;
    for (int64_t g = 0; g < adapters; g++) {
        const int64_t rows = starts[g + 1] - starts[g], own = (rows + MOST - 1) / MOST;
        for (int64_t b = 0; weights[g] && b < own; b++) {
            const int64_t first = rows * b / own;
            blocks[at++] = Block{(const Weight *)weights[g], order + starts[g] + first, (int)(rows * (b + 1) / own - first)};
        }
    }
    Call call{(char *)y, (const char *)x, factor, features, size, 0, stride, (char *)aligned_alloc(64, (count * MOST * stride + 63) / 64 * 64)};
    const bool quantized = x_dtype == UINT8;
#if defined(__AVX512BF16__)
    if (dtype == BF16) {
        call.words = (size + 1) / 2;
        add_of<Pairs, bf16>(call, blocks, count, quantized);
    } else
#endif
    {
        call.words = size;
        INFER_DISPATCH(dtype, T, add_of<Floats, T>(call, blocks, count, quantized));
    }
    free(call.inner);
    free(blocks);
}
