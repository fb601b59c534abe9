// A block of rows by one panel of a weight: what gemm.cpp is made of, for kernels that make their panels as they go.
#pragma once

#include <cstdint>

namespace infer {

// Output features of a panel.
constexpr int PANEL = 32;
// Rows of a block, whose sums are all in registers; and of one that goes by a whole panel at once: larger ones go by one half of it and then the other.
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12, WHOLE_ROWS = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int MOST_ROWS = 6, WHOLE_ROWS = 3;
#else
constexpr int MOST_ROWS = 3, WHOLE_ROWS = 1;
#endif
// Bytes of x that stay in a core's L2 cache while panels go by.
constexpr int64_t ROWS_BYTES = 384 << 10;
// Rows that panels go by together at least, however long they are: for each such chunk a weight comes from memory anew.
constexpr int64_t CHUNK_ROWS = 96;

// Rows that panels go by together at most: there is room for their sums.
constexpr int64_t MOST_CHUNK = 256;
// Where halves of panels are gone through one after the other they lie so too: a panel is [2][words][16]. Elsewhere it is [words][32].
#if defined(__AVX512F__)
constexpr bool APART = false;
#else
constexpr bool APART = true;
#endif

struct Gemm {
    void *out;
    const char *x;
    const char *weight;    // panels
    const float *scale;    // [n], int8 only
    const int32_t *sums;   // [n], int8 only: 128 times the sum of a feature's weights, what the offset of x adds; or what there is too much otherwise
    const float *bias;     // [n] or null; with int8 only beside row_scale
    const float *row_scale;  // [rows] or null: what a row of int8 products is still to be multiplied by
    int64_t rows, n, words;
    int64_t half = 0;   // features of each of two halves of n, of which panels hold 16 each, side by side; 0: panels hold 32 that follow each other
    int64_t gate = -1;  // with halves: the activation that makes one of both, see activation.h; or -1
    int64_t word_bytes = 4;  // of a row, to which a word of the weight goes
    int64_t row_bytes() const { return words * word_bytes; }
    int64_t tail = 0;        // bytes of a panel after its words
    const float *gate_scale = nullptr;  // [rows] or null, with a gate: what halves are multiplied by as they come to it
    bool gate_wide = false;             // out is float32 behind a gate, whatever halves are rounded to
    const char *panel(int64_t p) const { return weight + p * (words * PANEL * 4 + tail); }
    int64_t panels() const { return half ? (half + PANEL / 2 - 1) / (PANEL / 2) : (n + PANEL - 1) / PANEL; }
    // The first feature of a panel, and of its other 16.
    int64_t column(int64_t panel) const { return half ? panel * (PANEL / 2) : panel * PANEL; }
    int64_t other(int64_t column) const { return column + (half ? half : PANEL / 2); }
};

// Up to MOST_ROWS rows from `row` on by the panel [words][PANEL] of output features from `column` on, all of `dtype`, which is one of
// `infer_gemm_kinds`. A cache line a word is fetched from `ahead` meanwhile, if it is not null.
void multiply_block(int64_t dtype, int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead);

}  // namespace infer
