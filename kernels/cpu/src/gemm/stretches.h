// Rows by a panel where there are 16 registers, or as many words in four: one half of the panel after the other, and of that a stretch of words at a
// time, which stays in the first cache while all rows go by it.
//
// Each stretch is summed by itself and its sums are added in turn: so a row's bits depend on nothing but the row and the weight.
#pragma once

#include <utility>

#include "finish.h"

namespace infer {

// Values of a stretch at most.
constexpr int64_t STRETCH = 320;

// A stretch of words of H halves of a panel, and what becomes of the sums of `rows` from `row` on.
template <class Out> struct Stretch {
    const Gemm &g;
    int64_t row, column;        // of the product
    const char *panel;          // the first half's
    int64_t from, words;        // of the stretch
    const char *ahead;          // what to have fetched meanwhile, 64 bytes a word, shared out among blocks: `step` bytes a word each
    int64_t step;
    bool first, last;
    char *sums;                 // [rows][H][16] of 4 bytes: of the stretches before
    Target<Out> to;
};

// R rows from `at` on of a stretch's.
template <class Kind, class Out, int R, int H> void block(const Stretch<Out> &s, int64_t at) {
    const Gemm &g = s.g;
    const int64_t stride = g.row_bytes(), other = g.words * LANES * 4;
    const char *x[(R + 2) / 3], *panel = s.panel + s.from * LANES * 4, *ahead = s.ahead;
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) x[i] = g.x + (s.row + at + 3 * i) * stride + s.from * Kind::VALUES * 4;
    typename Kind::Sum sum[R][H];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) sum[r][h] = typename Kind::Sum{};
    if constexpr (TILED_FROM<Kind> && R >= TILED_FROM<Kind>) add_tiles<Kind>(sum, x[0], stride, panel, other, s.words, ahead, s.step);
    else for (int64_t k = 0; k < s.words; k++, panel += LANES * 4, ahead += s.step) {
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) __builtin_prefetch(ahead + h * other, 0, 2);
#pragma GCC unroll 2
        for (int value = 0; value < Kind::VALUES; value++) {
            typename Kind::Weights w[H];
#pragma GCC unroll 2
            for (int h = 0; h < H; h++) w[h] = Kind::load(panel + h * other, value);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                const typename Kind::Row v = Kind::spread(x[r / 3] + r % 3 * stride + value * 4);
#pragma GCC unroll 2
                for (int h = 0; h < H; h++) sum[r][h] = Kind::dot(sum[r][h], v, w[h]);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < (R + 2) / 3; i++) x[i] += Kind::VALUES * 4;
    }
    char *const sums = s.sums + at * H * LANES * 4;
    if (!s.first)
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int h = 0; h < H; h++) {
                typename Kind::Sum before;
                read(sums + (r * H + h) * LANES * 4, before);
                sum[r][h] = before + sum[r][h];
            }
    if (s.last) {
        const Target<Out> to{s.to.out + at * s.to.stride, s.to.stride, s.to.apart, s.to.left};
        put_sums<Kind, Out, R, H>(g, s.row + at, s.column, sum, to);
        return;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) write(sums + (r * H + h) * LANES * 4, sum[r][h]);
}

template <class Kind, class Out, int H, int... R> void block_of(int rows, const Stretch<Out> &s, int64_t at, std::integer_sequence<int, R...>) {
    static constexpr decltype(&block<Kind, Out, 1, H>) all[] = {block<Kind, Out, R + 1, H>...};
    all[rows - 1](s, at);
}

// All rows of `s` by H halves of a panel of weights; `next` is the half, or panel, to come.
template <class Kind, class Out, int H> void all_stretches(Stretch<Out> s, int64_t rows, const char *next) {
    constexpr int MOST = H == 2 ? WHOLE_ROWS : MOST_ROWS;
    const int64_t blocks = (rows + MOST - 1) / MOST, words = s.g.words, ends = words * LANES * 4;
    // Of even length, so that they are the same for a weight of one value a word and of two.
    const int64_t values = (words * Kind::VALUES + 1) / 2 * 2, count = (values + STRETCH - 1) / STRETCH, length = (values / 2 + count - 1) / count * 2 / Kind::VALUES;
    s.step = (64 + blocks - 1) / blocks;
    for (s.from = 0; s.from < words; s.from += length) {
        s.words = std::min(length, words - s.from);
        s.first = s.from == 0;
        s.last = s.from + s.words == words;
        const int64_t soon = (s.from + length) * LANES * 4;
        const char *ahead = soon < ends ? s.panel + soon : next + (soon - ends);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t at = rows * b / blocks;
            s.ahead = ahead + b * s.words * s.step;
            block_of<Kind, Out, H>((int)(rows * (b + 1) / blocks - at), s, at, std::make_integer_sequence<int, MOST>());
        }
    }
}

// `count` rows, MOST_CHUNK at most, from `first` on by panel p; what comes next, or null, is fetched meanwhile.
template <class Kind, class Out> void rows_by_panel(const Gemm &g, int64_t first, int64_t count, int64_t p, const char *next) {
    alignas(64) char sums[MOST_CHUNK * LANES * 4];
    alignas(64) Out both[MOST_CHUNK * PANEL];  // as they would be without an activation
    const int64_t column = g.column(p), left = (g.half ? g.half : g.n) - column;
    const bool gated = g.gate >= 0;
    Target<Out> to{(Out *)g.out + first * g.n + column, g.n, g.other(0), left};
    if (gated) to = {both, PANEL, LANES, PANEL};
    if (!next) next = g.panel(p);
    Kind::soon(g, column);
    if (count <= WHOLE_ROWS) {
        all_stretches<Kind, Out, 2>({g, first, column, g.panel(p), 0, 0, nullptr, 0, false, false, sums, to}, count, next);
    } else {
        const Target<Out> other{to.out + to.apart, to.stride, LANES, to.apart == LANES ? to.left - LANES : to.left};
        const char *half = g.panel(p), *second = other.left > 0 ? half + g.words * LANES * 4 : nullptr;
        all_stretches<Kind, Out, 1>({g, first, column, half, 0, 0, nullptr, 0, false, false, sums, to}, count, second ? second : next);
        if (second) all_stretches<Kind, Out, 1>({g, first, g.other(column), second, 0, 0, nullptr, 0, false, false, sums, other}, count, next);
    }
    if (gated) put_gated(g, both, first, count, column, left);
}

}  // namespace infer
