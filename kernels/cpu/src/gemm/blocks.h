// Rows by a panel with AVX-512: all the words of a row at once, with the sums of a whole panel in registers. Elsewhere see stretches.h.
#pragma once

#include <utility>

#include "finish.h"

namespace infer {

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

// R rows by one panel: as much of it at a time as leaves all sums in registers.
template <class Kind, class Out, int R>
void whole(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, const Target<Out> &to) {
    if constexpr (R <= WHOLE_ROWS) return part<Kind, Out, R, 2>(g, row, column, panel, ahead, lines, to);
    const Target<Out> other{to.out + to.apart, to.stride, LANES, to.apart == LANES ? to.left - LANES : to.left};
    part<Kind, Out, R, 1>(g, row, column, panel, ahead, (lines + 1) / 2, to);
    if (other.left > 0) part<Kind, Out, R, 1>(g, row, g.other(column), panel + LANES * 4, ahead + g.words * 64, lines / 2, other);
}

// The same, to where it belongs.
template <class Kind, class Out, int R>
void block(const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines) {
    Kind::soon(g, column);
    const int64_t left = (g.half ? g.half : g.n) - column;
    if (g.gate < 0) return whole<Kind, Out, R>(g, row, column, panel, ahead, lines, {(Out *)g.out + row * g.n + column, g.n, g.other(0), left});
    Out both[R * PANEL];  // as they would be without an activation
    whole<Kind, Out, R>(g, row, column, panel, ahead, lines, {both, PANEL, LANES, PANEL});
    put_gated(g, both, row, R, column, left);
}

template <class Kind, class Out, int... R>
void block_of(int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines, std::integer_sequence<int, R...>) {
    static constexpr decltype(&block<Kind, Out, 1>) all[] = {block<Kind, Out, R + 1>...};
    all[rows - 1](g, row, column, panel, ahead, lines);
}
template <class Kind, class Out> void block_of(int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead, int lines) {
    block_of<Kind, Out>(rows, g, row, column, panel, ahead, lines, std::make_integer_sequence<int, MOST_ROWS>());
}

// `count` rows from `first` on by panel p; what comes next, or null, is fetched meanwhile.
template <class Kind, class Out> void rows_by_panel(const Gemm &g, int64_t first, int64_t count, int64_t p, const char *next) {
    const int64_t blocks = (count + MOST_ROWS - 1) / MOST_ROWS;
    // The next panel comes from memory while this one is in the cache: its lines are spread over the first blocks.
    const int64_t fetching = next ? std::min<int64_t>(blocks, 2) : 0;
    const int lines = fetching ? (int)(2 / fetching) : 0;
    for (int64_t b = 0; b < blocks; b++, next += lines * g.words * 64) {
        const int64_t row = count * b / blocks, some = count * (b + 1) / blocks - row;
        block_of<Kind, Out>((int)some, g, first + row, g.column(p), g.panel(p), next, b < fetching ? lines : 0);
    }
}

}  // namespace infer
