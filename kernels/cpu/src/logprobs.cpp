// Log-probabilities of a row's most likely tokens.
#include "sampling.h"

using namespace infer;

namespace {

template <class T>
void row_logprobs(const Row<T> &row, int64_t token, int64_t count, int64_t *ids, float *values, float *token_value, int64_t *token_rank,
                  Scratch &scratch) {
    const float chosen = load_partial(row.logits + token, 1)[0];
    Sum sum;
    int64_t larger = 0;
    for (int64_t block = 0; block < row.blocks(); block++)
        row.over_block(block, [&](int64_t, f32x16 v) {
            sum.add(vexp(v - row.highest));
            larger += __builtin_popcount(at_least(v, splat(chosen)) & ~at_least(splat(chosen), v));
        });
    const double log_sum = log(sum.total());
    auto logprob = [&](float x) { return (float)((double)x - row.highest - log_sum); };
    *token_value = logprob(chosen);
    *token_rank = larger + 1;
    if (!count) return;

    int64_t n = collect(row, std::max(kth_bound(row, count, scratch), -FLT_MAX), scratch);
    // Candidates are in order of their ids: one that is not larger goes after those before it.
    int32_t *order = (int32_t *)scratch.weight;
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
    const int64_t likely = std::min(count, n);
    std::partial_sort(order, order + likely, order + n,
                      [&](int32_t a, int32_t b) { return scratch.x[a] != scratch.x[b] ? scratch.x[a] > scratch.x[b] : a < b; });
    for (int64_t i = 0; i < likely; i++) {
        ids[i] = scratch.id[order[i]];
        values[i] = logprob(scratch.x[order[i]]);
    }
    // The rest have no probability (processed logits): lower ids first.
    for (int64_t i = likely, id = 0; i < count; id++) {
        if (load_partial(row.logits + id, 1)[0] > -INF) continue;
        ids[i] = id;
        values[i++] = -INF;
    }
}

}  // namespace

// See `top_logprobs` in ops.py.
extern "C" void infer_top_logprobs(const void *logits, int64_t dtype, int64_t vocabulary, int64_t stride, const int64_t *rows,
                                   int64_t num_rows, const int64_t *tokens, int64_t count, int64_t *ids, float *values,
                                   float *token_values, int64_t *token_ranks) {
    INFER_DISPATCH(dtype, T, over_rows(num_rows, vocabulary, [&](int64_t r, Scratch &scratch) {
        Row<T> row = scan((const T *)logits + rows[r] * stride, vocabulary, scratch);
        row_logprobs(row, tokens[r], count, ids + r * count, values + r * count, token_values + r, token_ranks + r, scratch);
    }))
}
