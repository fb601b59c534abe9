// Matrix multiplication x [rows][k] * weight [n][k]^T: of float32, of bf16 where the CPU has dot products of it, and of int8, exact everywhere.
//
// The weight is laid out in panels of 32 output features, word by word: [panel][k word][32], a word being what one lane of a dot
// product takes (a float32, 2 bf16 or 4 int8). A block of rows goes through a panel, or half of it, with all its sums in registers; every element
// is one sum over k in order, so a row's bits do not depend on the rows beside it. Threads share out panels and row blocks, of one weight or of many.
// What a machine has for that is a folder, gemm/: there is a `Kind` for each type, and the rest is written once.
//
// Why not leave it to oneDNN: with weights that come from memory, as in a model they do, this is faster at every number of
// rows (numbers in the commit that added it). CPUs with tile registers (AMX) are oneDNN's, see gemm.py.

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "activation.h"
#include "gemm.h"
#include "gemm/kinds.h"
#include "gemm/order.h"
#include "parallel.h"
#include "shares.h"
#include "widen.h"

namespace infer {
namespace {

// Where a block's results go: 16 features or twice 16, `apart` from each other, of which `left` are to be written: of both together where they
// follow each other, else of each.
template <class Out> struct Target {
    Out *out;
    int64_t stride, apart, left;
};

// What becomes of the sums of R rows by H halves of a panel.
template <class Kind, class Out, int R, int H>
inline void put_sums(const Gemm &g, int64_t row, int64_t column, const typename Kind::Sum (&sum)[R][H], const Target<Out> &to) {
    f32x16 finished[R][H];
#pragma GCC unroll 2
    for (int h = 0; h < H; h++) {
        const typename Kind::Finish finish(g, h ? g.other(column) : column);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) finished[r][h] = finish(sum[r][h], row + r);
    }
    if (H == 1 || to.apart == LANES)
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) put(to.out + r * to.stride, finished[r], to.left);
    else
        for (int r = 0; r < R; r++)
            for (int h = 0; h < H; h++) store_n(to.out + r * to.stride + h * to.apart, finished[r][h], (int)std::min<int64_t>(LANES, to.left));
}

// R rows by H halves of a panel, from `panel` on. `ahead` is what to have fetched meanwhile: `lines` cache lines a word.
template <class Kind, class Out, int R, int H>
void part(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, const Target<Out> &to) {
    const int64_t stride = g.row_bytes();
    const char *x[(R + 2) / 3];
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) x[i] = g.x + (row + 3 * i) * stride;
    typename Kind::Sum sum[R][H], total[R][H];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) sum[r][h] = total[r][h] = typename Kind::Sum{};
    for (int64_t k = 0; k < g.words; k++, panel += PANEL * 4) {
        if (Kind::STRETCH && k && k % std::max<int64_t>(1, Kind::STRETCH) == 0)
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
#pragma GCC unroll 2
                for (int h = 0; h < H; h++) {
                    total[r][h] = total[r][h] + sum[r][h];
                    sum[r][h] = typename Kind::Sum{};
                }
        typename Kind::Weights w[H];
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) w[h] = Kind::load(panel + h * LANES * 4);
        for (int i = 0; i < lines; i++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const typename Kind::Row v = Kind::spread(x[r / 3] + r % 3 * stride);
#pragma GCC unroll 2
            for (int h = 0; h < H; h++) sum[r][h] = Kind::dot(sum[r][h], v, w[h]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < (R + 2) / 3; i++) x[i] += 4;
    }
    if constexpr (Kind::STRETCH != 0)
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int h = 0; h < H; h++) sum[r][h] = total[r][h] + sum[r][h];
    put_sums<Kind, Out, R, H>(g, row, column, sum, to);
}

// The same with a kind whose sums saturate: words in two runs, see gemm/order.h.
template <class Kind, class Out, int R, int H>
void careful_part(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, const Target<Out> &to) {
    const int64_t stride = g.row_bytes();
    const char *x[(R + 2) / 3];
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) x[i] = g.x + (row + 3 * i) * stride;
    const Order order((void *)g.weight, g.n, g.words);
    typename Kind::Sum sum[R][H];
    const int64_t at = (panel - g.weight) / (LANES * 4), first = at / (2 * g.words) * 2 + at % 2;
    // One half after the other: each has its own order.
#pragma GCC unroll 2
    for (int h = 0; h < H; h++) {
        const int64_t half = first + h, safe = order.safe[half];
        const int32_t *words = order.words + half * g.words;
        i32x16 added;
        read(order.added + half * LANES, added);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) sum[r][h] = added;
        int64_t i = 0;
        const auto run = [&](int64_t stop, auto spread, auto dot) __attribute__((always_inline)) {
            for (; i < stop; i++) {
                const int64_t k = words[i];
                const typename Kind::Weights w = Kind::load(panel + k * PANEL * 4 + h * LANES * 4);
                for (int line = h; line < lines; line += H, ahead += 64) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 12
                for (int r = 0; r < R; r++) sum[r][h] = dot(sum[r][h], spread(x[r / 3] + r % 3 * stride + k * 4), w);
            }
        };
        run(safe, Kind::spread, Kind::dot);
        run(g.words, Kind::spread_signed, Kind::careful_dot);
    }
    put_sums<Kind, Out, R, H>(g, row, column, sum, to);
}

template <class Kind, class Out, int R, int H>
void any_part(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, const Target<Out> &to) {
    if constexpr (Kind::SATURATES) careful_part<Kind, Out, R, H>(g, row, column, panel, ahead, lines, to);
    else part<Kind, Out, R, H>(g, row, column, panel, ahead, lines, to);
}

// R rows by one panel: as much of it at a time as leaves all sums in registers.
template <class Kind, class Out, int R>
void whole(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, const Target<Out> &to) {
    if constexpr (R <= WHOLE_ROWS) return any_part<Kind, Out, R, 2>(g, row, column, panel, ahead, lines, to);
    const Target<Out> other{to.out + to.apart, to.stride, LANES, to.apart == LANES ? to.left - LANES : to.left};
    any_part<Kind, Out, R, 1>(g, row, column, panel, ahead, (lines + 1) / 2, to);
    if (other.left > 0) any_part<Kind, Out, R, 1>(g, row, g.other(column), panel + LANES * 4, ahead + g.words * 64, lines / 2, other);
}

// The same, to where it belongs.
template <class Kind, class Out, int R>
void block(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines) {
    Kind::soon(g, column);
    const int64_t left = (g.half ? g.half : g.n) - column;
    if (g.gate < 0) return whole<Kind, Out, R>(g, row, column, panel, ahead, lines, {(Out *)g.out + row * g.n + column, g.n, g.other(0), left});
    Out both[R * PANEL];  // as they would be without an activation
    whole<Kind, Out, R>(g, row, column, panel, ahead, lines, {both, PANEL, LANES, PANEL});
    gate_rows(g.gate, both, R, (Out *)g.out + row * g.half + column, g.half, std::min<int64_t>(LANES, left));
}

template <class Kind, class Out, int... R>
void block_of(int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, std::integer_sequence<int, R...>) {
    static constexpr decltype(&block<Kind, Out, 1>) all[] = {block<Kind, Out, R + 1>...};
    all[rows - 1](g, row, column, panel, ahead, lines);
}
template <class Kind, class Out> void block_of(int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines) {
    block_of<Kind, Out>(rows, g, row, column, panel, ahead, lines, std::make_integer_sequence<int, MOST_ROWS>());
}

// Products of several weights of one shape, each with rows of its own: threads share out all their panels and chunks of rows.
template <class Kind, class Out> void multiply(const Gemm *gemms, int64_t count) {
    const int64_t words = gemms->words, panels = gemms->panels(), panel_bytes = words * PANEL * 4;
    const int64_t most = std::max<int64_t>(CHUNK_ROWS, ROWS_BYTES / gemms->row_bytes());
    // A panel costs as much as its rows, and where they are few, the time in which it comes from memory.
    Shares shares(count, [&](int64_t i) { return gemms[i].rows; }, panels, most, MOST_ROWS,
                  [&](int64_t rows) { return std::max<int64_t>(rows, MOST_ROWS) * words; });
    const auto task = [&](const Shares::Chunk &chunk, int64_t p, int64_t next, int64_t next_panel) {
        const Gemm &g = gemms[chunk.part];
        const int64_t blocks = (chunk.count + MOST_ROWS - 1) / MOST_ROWS;
        // The next panel comes from memory while this one is in the cache: its lines are spread over the first blocks.
        const int64_t fetching = next < 0 ? 0 : std::min<int64_t>(blocks, 2);
        const int lines = fetching ? (int)(2 / fetching) : 0;
        const char *ahead = next < 0 ? nullptr : gemms[next].weight + next_panel * panel_bytes;
        for (int64_t b = 0; b < blocks; b++, ahead += lines * words * 64) {
            const int64_t row = chunk.count * b / blocks, some = chunk.count * (b + 1) / blocks - row;
            block_of<Kind, Out>((int)some, g, chunk.first + row, g.column(p), g.weight + p * panel_bytes, ahead, b < fetching ? lines : 0);
        }
    };
    shares.in_team([&] { shares.work(task); });
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

}  // namespace

void multiply_block(int64_t dtype, int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead) {
    if (dtype == F32) block_of<Float, float>(rows, g, row, column, panel, ahead, ahead ? 1 : 0);
#if defined(INFER_GEMM_BF16)
    if (dtype == BF16) block_of<Bf16, bf16>(rows, g, row, column, panel, ahead, ahead ? 1 : 0);
#endif
}

}  // namespace infer

// What this build multiplies: 1 bf16, 2 int8, 4 float32; 8: int8 weights have an order.
extern "C" void infer_gemm_kinds(int64_t *kinds) {
    *kinds = 2 | 4 | (infer::Int8::SATURATES ? 8 : 0);
#if defined(INFER_GEMM_BF16)
    *kinds |= 1;
#endif
}

// weight [n][words * 4 bytes] -> panels [panels][words][32] words, zeros beyond n, or beyond each half of n if `half` is not 0 (see Gemm).
extern "C" void infer_gemm_pack(uint32_t *panels, const uint32_t *weight, int64_t n, int64_t words, int64_t half) {
    infer::Gemm g{};
    g.n = n, g.half = half;
    const int64_t count = g.panels(), end = half ? half : n;
    infer::parallel_for(count, 1, [&](int64_t p) {
        for (int64_t k = 0; k < words; k++)
            for (int64_t i = 0; i < infer::PANEL; i++) {
                const int64_t second = i / infer::LANES, in = g.column(p) + (half ? i % infer::LANES : i);
                panels[(p * words + k) * infer::PANEL + i] = in < end ? weight[(half ? second * half + in : in) * words + k] : 0;
            }
    });
}

// Writes the order of an int8 weight's words behind its panels, where kinds say that there is one: see gemm/order.h.
extern "C" void infer_gemm_order(uint32_t *panels, int64_t n, int64_t words) {
    using namespace infer;
    const Order order(panels, n, words);
    for (int64_t half = 0; half < (n + PANEL - 1) / PANEL * 2; half++) {
        const uint32_t *weights = panels + half / 2 * words * PANEL + half % 2 * LANES;
        int32_t *list = order.words + half * words, *added = order.added + half * LANES;
        int64_t first = 0, last = words;
        memset(added, 0, LANES * sizeof *added);
        for (int64_t k = 0; k < words; k++) {
            const uint32_t *word = weights + k * PANEL;
            if (std::all_of(word, word + LANES, is_safe)) {
                list[first++] = (int32_t)k;
                continue;
            }
            list[--last] = (int32_t)k;
            for (int i = 0; i < LANES; i++)
                for (int byte = 0; byte < 4; byte++) added[i] += 128 * (int8_t)(word[i] >> 8 * byte);
        }
        std::reverse(list + last, list + words);
        order.safe[half] = (int32_t)first;
    }
}

// out [rows][n] = x [rows][words * 4 bytes] * weight + bias, all float32 or all bf16; the bias of any type. `half`, `gate`: see Gemm; with a gate
// out [rows][half].
extern "C" void infer_gemm(void *out, const void *x, const void *panels, const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype,
                           int64_t bias_dtype, int64_t half, int64_t gate) {
    const bool narrow = bias && bias_dtype != infer::F32;
    float *buffer = narrow ? (float *)malloc(n * sizeof(float)) : nullptr;
    const infer::Gemm g{out, (const char *)x, (const char *)panels, nullptr, nullptr, infer::widened(bias, bias_dtype, n, buffer), nullptr, rows, n, words, half, gate};
    if (dtype == infer::F32) infer::multiply<infer::Float, float>(&g, 1);
#if defined(INFER_GEMM_BF16)
    if (dtype == infer::BF16) infer::multiply<infer::Bf16, infer::bf16>(&g, 1);
#endif
    free(buffer);
}

// out [rows][n], bf16 or float32, = scale * (x uint8 [rows][4 * words] * weight - sums), or that * row_scale + bias.
extern "C" void infer_gemm_int8(void *out, const void *x, const void *panels, const float *scale, const int32_t *sums, const float *row_scale,
                                const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype) {
    const bool narrow = bias && bias_dtype != infer::F32;
    float *buffer = narrow ? (float *)malloc(n * sizeof(float)) : nullptr;
    const float *wide = infer::widened(bias, bias_dtype, n, buffer);
    const infer::Gemm g{out, (const char *)x, (const char *)panels, scale, sums, wide, row_scale, rows, n, words};
    if (dtype == infer::BF16) infer::multiply<infer::Int8, infer::bf16>(&g, 1);
    else infer::multiply<infer::Int8, float>(&g, 1);
    free(buffer);
}

// `infer_gemm` of rows sorted by expert: rows starts[e] to starts[e + 1] by panels[e], + bias[e]; panels and bias are addresses.
extern "C" void infer_gemm_experts(void *out, const void *x, const int64_t *panels, const int64_t *bias, const int64_t *starts, int64_t experts,
                                   int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype) {
    const infer::Experts all(out, dtype == infer::F32 ? 4 : 2, x, panels, nullptr, nullptr, nullptr, bias, bias_dtype, starts, experts, n, words);
    if (!all.count) return;
    if (dtype == infer::F32) infer::multiply<infer::Float, float>(all.gemms, all.count);
#if defined(INFER_GEMM_BF16)
    if (dtype == infer::BF16) infer::multiply<infer::Bf16, infer::bf16>(all.gemms, all.count);
#endif
}

// The same as `infer_gemm_int8`; panels, scale, sums and bias are addresses.
extern "C" void infer_gemm_int8_experts(void *out, const void *x, const int64_t *panels, const int64_t *scale, const int64_t *sums,
                                        const float *row_scale, const int64_t *bias, const int64_t *starts, int64_t experts, int64_t n,
                                        int64_t words, int64_t dtype, int64_t bias_dtype) {
    const infer::Experts all(out, dtype == infer::F32 ? 4 : 2, x, panels, scale, sums, row_scale, bias, bias_dtype, starts, experts, n, words);
    if (!all.count) return;
    if (dtype == infer::BF16) infer::multiply<infer::Int8, infer::bf16>(all.gemms, all.count);
    else infer::multiply<infer::Int8, float>(all.gemms, all.count);
}
