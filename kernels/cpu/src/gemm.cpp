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

#include "gemm.h"
#include "gemm/kinds.h"
#include "operations.h"
#include "parallel.h"
#include "shares.h"
#include "widen.h"
#if defined(__AVX512F__)
#include "gemm/blocks.h"
#else
#include "gemm/stretches.h"
#endif

namespace infer {

#if defined(INFER_GEMM_PAIRS)
template <> void rows_by_panel<Int8, float>(const Gemm &g, int64_t first, int64_t count, int64_t p, const char *) {
    rows_by_parts<float>(g, first, count, p);
}
template <> void rows_by_panel<Int8, bf16>(const Gemm &g, int64_t first, int64_t count, int64_t p, const char *) {
    rows_by_parts<bf16>(g, first, count, p);
}
#endif

namespace {

// Products of several weights of one shape, each with rows of its own: threads share out all their panels and chunks of rows.
template <class Kind, class Out> void multiply(const Gemm *gemms, int64_t count) {
    const int64_t words = gemms->words, panels = gemms->panels();
    const int64_t most = std::clamp(ROWS_BYTES / gemms->row_bytes(), CHUNK_ROWS, APART ? MOST_CHUNK : INT64_MAX);
    // A panel costs as much as its rows, and where they are few, the time in which it comes from memory.
    Shares shares(count, [&](int64_t i) { return gemms[i].rows; }, panels, most, MOST_ROWS,
                  [&](int64_t rows) { return std::max<int64_t>(rows, MOST_ROWS) * words; });
    const auto task = [&](const Shares::Chunk &chunk, int64_t p, int64_t next, int64_t next_panel) {
        rows_by_panel<Kind, Out>(gemms[chunk.part], chunk.first, chunk.count, p, next < 0 ? nullptr : gemms[next].panel(next_panel));
    };
    shares.in_team([&] { shares.work(task); });
}

// The same of rows of `dtype`, float32 or bf16, by weights of that type, or by bf16 ones if `widened`.
void multiply(const Gemm *gemms, int64_t count, int64_t dtype, bool widened) {
    if (dtype == F32 && !widened) multiply<Float, float>(gemms, count);
#if defined(INFER_GEMM_WIDENED)
    if (dtype == F32 && widened) multiply<Widened, float>(gemms, count);
#endif
#if defined(INFER_GEMM_BF16)
    if (dtype == BF16) multiply<Bf16, bf16>(gemms, count);
#endif
}

// The weights, as Gemms, of experts that have rows: expert e's are starts[e] to starts[e + 1] of x and out. What differs between them
// comes as an array of addresses, or as null. The memory is the caller's to free.
struct Experts {
    Gemm *gemms;
    float *biases;  // as float32, where they come as something else
    int64_t count = 0;

    Experts(void *out, int64_t out_size, const void *x, const int64_t *panels, const int64_t *scale, const int64_t *sums, const float *row_scale,
            const int64_t *bias, int64_t bias_dtype, const int64_t *starts, int64_t experts, int64_t n, int64_t words, int64_t word_bytes = 4,
            int64_t tail = 0)
        : gemms((Gemm *)malloc(experts * sizeof(Gemm))), biases(bias && bias_dtype != F32 ? (float *)malloc(experts * n * sizeof(float)) : nullptr) {
        for (int64_t e = 0; e < experts; e++) {
            const int64_t start = starts[e], rows = starts[e + 1] - start;
            if (rows <= 0) continue;
            const float *wide = bias ? widened((const void *)bias[e], bias_dtype, n, biases ? biases + e * n : nullptr) : nullptr;
            gemms[count++] = Gemm{(char *)out + start * n * out_size,
                                  (const char *)x + start * words * word_bytes,
                                  (const char *)panels[e],
                                  scale ? (const float *)scale[e] : nullptr,
                                  sums ? (const int32_t *)sums[e] : nullptr,
                                  wide,
                                  row_scale ? row_scale + start : nullptr,
                                  rows,
                                  n,
                                  words,
                                  0,
                                  -1,
                                  word_bytes,
                                  tail};
        }
    }
    ~Experts() {
        free(biases);
        free(gemms);
    }
};

}  // namespace

#if defined(__AVX512F__)
void multiply_block(int64_t dtype, int rows, const Gemm &g, int64_t row, int64_t column, const char *panel, const char *ahead) {
    if (dtype == F32) block_of<Float, float>(rows, g, row, column, panel, ahead, ahead ? 1 : 0);
#if defined(INFER_GEMM_BF16)
    if (dtype == BF16) block_of<Bf16, bf16>(rows, g, row, column, panel, ahead, ahead ? 1 : 0);
#endif
}
#endif

}  // namespace infer

// out [rows][n] = x [rows][words * 4 bytes] * weight + bias, all float32 or all bf16, or with `widened` float32 but for the weight, which is bf16; the
// bias of any type. `half`, `gate`: see Gemm; with a gate out [rows][half].
extern "C" void infer_gemm(void *out, const void *x, const void *panels, const void *bias, int64_t rows, int64_t n, int64_t words, int64_t dtype,
                           int64_t widened, int64_t bias_dtype, int64_t half, int64_t gate) {
    const bool narrow = bias && bias_dtype != infer::F32;
    float *buffer = narrow ? (float *)malloc(n * sizeof(float)) : nullptr;
    const infer::Gemm g{out, (const char *)x, (const char *)panels, nullptr, nullptr, infer::widened(bias, bias_dtype, n, buffer), nullptr, rows, n, words,
                        half, gate, widened ? 8 : 4};
    infer::multiply(&g, 1, dtype, widened);
    free(buffer);
}

// out [rows][n], bf16 or float32, = scale * (x uint8 [rows][4 * words] * weight - sums), or that * row_scale + bias. `half`, `gate`: see Gemm; with a gate
// out [rows][half], where halves are multiplied by `gate_scale` ahead of it, if that is not null, and out is float32 if `gate_wide`.
extern "C" void infer_gemm_int8(void *out, const void *x, const void *panels, const float *scale, const int32_t *sums, const float *row_scale,
                                const void *bias, const float *gate_scale, int64_t rows, int64_t n, int64_t words, int64_t dtype, int64_t bias_dtype,
                                int64_t half, int64_t gate, int64_t gate_wide) {
    const bool narrow = bias && bias_dtype != infer::F32;
    float *buffer = narrow ? (float *)malloc(n * sizeof(float)) : nullptr;
    const float *wide = infer::widened(bias, bias_dtype, n, buffer);
    const infer::Gemm g{out, (const char *)x, (const char *)panels, scale, sums, wide, row_scale, rows, n, words, half, gate, 4, infer::int8_tail(words),
                        gate_scale, gate_wide != 0};
    if (dtype == infer::BF16) infer::multiply<infer::Int8, infer::bf16>(&g, 1);
    else infer::multiply<infer::Int8, float>(&g, 1);
    free(buffer);
}

// `infer_gemm` of rows sorted by expert: rows starts[e] to starts[e + 1] by panels[e], + bias[e]; panels and bias are addresses.
extern "C" void infer_gemm_experts(void *out, const void *x, const int64_t *panels, const int64_t *bias, const int64_t *starts, int64_t experts,
                                   int64_t n, int64_t words, int64_t dtype, int64_t widened, int64_t bias_dtype) {
    const infer::Experts all(out, dtype == infer::F32 ? 4 : 2, x, panels, nullptr, nullptr, nullptr, bias, bias_dtype, starts, experts, n, words,
                             widened ? 8 : 4);
    if (!all.count) return;
    infer::multiply(all.gemms, all.count, dtype, widened);
}

// The same as `infer_gemm_int8`; panels, scale, sums and bias are addresses.
extern "C" void infer_gemm_int8_experts(void *out, const void *x, const int64_t *panels, const int64_t *scale, const int64_t *sums,
                                        const float *row_scale, const int64_t *bias, const int64_t *starts, int64_t experts, int64_t n,
                                        int64_t words, int64_t dtype, int64_t bias_dtype) {
    const infer::Experts all(out, dtype == infer::F32 ? 4 : 2, x, panels, scale, sums, row_scale, bias, bias_dtype, starts, experts, n, words, 4,
                             infer::int8_tail(words));
    if (!all.count) return;
    if (dtype == infer::BF16) infer::multiply<infer::Int8, infer::bf16>(all.gemms, all.count);
    else infer::multiply<infer::Int8, float>(all.gemms, all.count);
}
